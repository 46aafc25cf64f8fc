"""Decoding of long watch objects ahead of time, in a thread, so that the event loop isn't blocked.

An object may have 1.5 MiB, as a policy with 25,000 peers, whose decoding takes a quarter of a second.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from functools import partial

import msgspec

from nfagent.decode.object_decoder import DecodedObject, ObjectDecoder
from nfagent.errors import DecodeError, ValidationIssue
from nfagent.kube.watch_codec import LineDecoder, decode_event

LONG = 64 * 1024
"""Bytes of an object up to which decoding takes no more than some milliseconds."""


class ObjectPredecoder:
    """Decodes objects, of which one may have been decoded ahead of time."""

    def __init__(self, read: ObjectDecoder, lines: Callable[[], LineDecoder]) -> None:
        """Keep the decoder `read`, and `lines`, which returns the current watch's line decoder."""
        self._read = read
        self._lines = lines
        self._decoded: tuple[bytes, DecodedObject | ValidationIssue] | None = None

    def work(self, chunk: bytes) -> Callable[[], None] | None:
        """Return the work to do, in any thread, before this chunk is fed: it completes a long object's line.

        None where there is none.
        """
        line = self._lines().ended_by(chunk, LONG)
        return None if line is None else partial(self._read_line, line)

    def read(self, raw: bytes | msgspec.Raw) -> DecodedObject | ValidationIssue:
        """Return the decoded object. Never raises."""
        decoded, self._decoded = self._decoded, None
        return decoded[1] if decoded is not None and decoded[0] == bytes(raw) else self._read(raw)

    def _read_line(self, line: bytes) -> None:
        with suppress(DecodeError):
            _, raw = decode_event(line)
            self._decoded = bytes(raw), self._read(raw)
