"""Long objects of a watch, read before they are taken in: by whoever takes them in, where that holds up nobody.

An object may have 1.5 MiB, as a policy with 25,000 peers: field by field that takes a quarter of a second.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from functools import partial

import msgspec

from nfagent.decode.reader import DecodedObject, Reader
from nfagent.errors import DecodeError, ValidationIssue
from nfagent.kube.watch_codec import LineDecoder, decode_event

LONG = 64 * 1024
"""Bytes of an object that takes no more than some milliseconds to be read."""


class ObjectPredecoder:
    """Reads objects, of which one may have been read before."""

    def __init__(self, read: Reader, lines: Callable[[], LineDecoder]) -> None:
        """Read by `read` the objects of a watch whose bytes `lines` gathers."""
        self._read = read
        self._lines = lines
        self._known: tuple[bytes, DecodedObject | ValidationIssue] | None = None

    def work(self, chunk: bytes) -> Callable[[], None] | None:
        """Give what is to be done before these bytes are taken in, in any thread: they end a long object's line.

        None where there is nothing.
        """
        line = self._lines().ended_by(chunk, LONG)
        return None if line is None else partial(self._read_line, line)

    def read(self, raw: bytes | msgspec.Raw) -> DecodedObject | ValidationIssue:
        """Read an object. Never raises."""
        known, self._known = self._known, None
        return known[1] if known is not None and known[0] == bytes(raw) else self._read(raw)

    def _read_line(self, line: bytes) -> None:
        with suppress(DecodeError):
            _, raw = decode_event(line)
            self._known = bytes(raw), self._read(raw)
