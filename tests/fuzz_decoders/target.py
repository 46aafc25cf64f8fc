"""A target of fuzzing: a decoder, the errors that it may raise, and valid inputs to start from."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from itertools import pairwise

import msgspec

from nfagent.errors import NfagentError

Read = Callable[[bytes], object]

_PLACES = 128
_MOST_PIECES = 64


class FuzzTarget(msgspec.Struct, frozen=True, kw_only=True):
    """One decoder, or several of the same bytes.

    read:    decodes an input; raises `refusals` for one that it refuses, AssertionError for a wrong value
    seeds:   returns valid inputs, and typical invalid ones
    words:   tokens that the fuzzer may insert
    longest: bytes of an input
    """

    name: str
    read: Read
    seeds: Callable[[], Iterable[bytes]]
    words: tuple[bytes, ...] = ()
    longest: int = 2048
    refusals: tuple[type[Exception], ...] = (NfagentError,)

    def accept(self, content: bytes) -> bool:
        """Decode an input; return whether it was valid. Raises whatever isn't one of the refusals."""
        try:
            self.read(content)
        except self.refusals:
            return False
        return True


def pieces(content: bytes) -> list[bytes]:
    """Split an input as a connection may deliver it; its first byte says how.

    Below 128 that is the number of bytes of a piece. From 128 on it is a place: the input is cut at each byte near it.
    An input has no more pieces than it needs for that: each is a call, and many calls decode what one has decoded.
    """
    first, rest = (content[0], content[1:]) if content else (0, b"")
    if first < _PLACES:
        size = max(first, -(-len(rest) // _MOST_PIECES), 1)
        return [rest[start : start + size] for start in range(0, len(rest), size)]
    near = (first - _PLACES) * len(rest) // _PLACES
    cuts = [0, *range(max(near, 1), min(near + _MOST_PIECES, len(rest))), len(rest)]
    return [rest[start:end] for start, end in pairwise(cuts)]
