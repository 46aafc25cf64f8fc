"""A list's bytes, as they come, to whole objects: a list from the server's cache comes in one body, however long.

    {"kind": …, "metadata": {"resourceVersion": …, "continue": …}, "items": [OBJECT, OBJECT, …]}

Where one object may end and the next one begin is searched for by how objects begin; whether it does is decided by
the JSON decoder, or, in an object that holds such a place itself (a Pod with two owners), by counting braces: anybody
may give an object thousands of owners. What isn't written so is kept, and read with the end of the body.
"""

from __future__ import annotations

import re

import msgspec

from nfagent.errors import DecodeError
from nfagent.kube.watch_codec import ListPage, decode_page

_ITEMS = re.compile(rb'"items"\s*:\s*\[\s*')
_BETWEEN = re.compile(rb'\}\s*,\s*(?=\{\s*"(?:metadata|apiVersion|kind)")')
_TOKEN = re.compile(rb'"(?:[^"\\]++|\\.)*+"|["{}]')
"""A string, a brace, or the begin of a string that has no end."""

_OVERLAP = 64
"""Bytes of a boundary that the next chunk may complete."""

_ANY = msgspec.json.Decoder(msgspec.Raw)


class ListDecoder:
    """One list answer: objects are given as they are complete, the rest of them with the end."""

    def __init__(self) -> None:
        """Start at the beginning of the body."""
        self._head: bytes | None = None
        self._searching = True
        self._buffer = bytearray()
        self._searched = 0
        # Of the object at the buffer's start, where a boundary was within it: how far its braces were counted.
        self._counted: int | None = None
        self._depth = 0
        self._given_up = False

    def feed(self, chunk: bytes) -> list[msgspec.Raw]:
        """Take bytes in; give the objects that they complete."""
        self._buffer += chunk
        if self._head is None:
            self._find_head()
        return [] if self._head is None else self._objects()

    def end(self) -> ListPage:
        """Read the end of the body; the page has the objects that weren't given yet. Raises DecodeError."""
        return decode_page((self._head or b"") + bytes(self._buffer))

    def _find_head(self) -> None:
        """Find where the objects begin; a body that says its version behind them is read as a whole."""
        found = _ITEMS.search(self._buffer) if self._searching else None
        if found is None:
            return
        head = bytes(self._buffer[: found.end()])
        try:
            decode_page(head + b"]}")
        except DecodeError:
            self._searching = False
            return
        self._head = head
        del self._buffer[: len(head)]

    def _objects(self) -> list[msgspec.Raw]:
        found: list[msgspec.Raw] = []
        start = 0
        for boundary in _BETWEEN.finditer(self._buffer, self._searched):
            end = boundary.start() + 1
            if self._given_up or (self._counted is not None and self._goes_on(end)):
                continue
            candidate = bytes(self._buffer[start:end])
            if _is_whole(candidate):
                found.append(msgspec.Raw(candidate))
                start, self._counted = boundary.end(), None
            elif self._counted is None:
                self._counted, self._depth = start, 0
                self._goes_on(end)
            else:
                self._given_up = True
        del self._buffer[:start]
        self._searched = max(0, len(self._buffer) - _OVERLAP)
        self._counted = None if self._counted is None else self._counted - start
        return found

    def _goes_on(self, end: int) -> bool:
        """Count braces up to there; tell whether the object goes on. Gives up where it ended before."""
        for token in _TOKEN.finditer(self._buffer, self._counted or 0, end):
            word = token.group()
            self._depth += (word == b"{") - (word == b"}")
            if word == b'"' or (self._depth == 0 and token.end() < end):
                self._given_up = True
                return True
        self._counted = end
        return self._depth > 0


def _is_whole(candidate: bytes) -> bool:
    try:
        _ANY.decode(candidate)
    except (msgspec.DecodeError, RecursionError):
        return False
    return True
