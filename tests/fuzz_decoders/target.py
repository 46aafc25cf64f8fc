"""A target of fuzzing: a decoder, the errors that it may raise, and valid inputs to start from."""

from __future__ import annotations

from collections.abc import Callable, Iterable

import msgspec

from nfagent.errors import NfagentError

Read = Callable[[bytes], object]


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
    """Split an input at its first byte's number of bytes: as a connection delivers it."""
    size, rest = (content[0] or 1, content[1:]) if content else (1, b"")
    return [rest[start : start + size] for start in range(0, len(rest), size)]
