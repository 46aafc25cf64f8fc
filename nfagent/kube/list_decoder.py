"""Incremental decoding of list responses: a list from the server's watch cache is one body, however long.

    {"kind": …, "metadata": {"resourceVersion": …, "continue": …}, "items": [OBJECT, OBJECT, …]}

A regular expression finds places where one object may end and the next may begin. The JSON decoder decides whether it
does; in an object that contains such a place itself (a Pod with two owners), braces are counted instead, because any
user may create an object with thousands of owners. A body in another form is kept and decoded at its end.
"""

from __future__ import annotations

import re

import msgspec

from nfagent.errors import DecodeError
from nfagent.kube.watch_codec import ListPage, decode_page

_NAME = b'"items"'
_ITEMS = re.compile(rb'"items"\s*+(?::\s*+(?P<list>\[\s*+)?)?')
"""The name with as much of `: [` as follows it."""
_BETWEEN = re.compile(rb'\}\s*,\s*(?=\{\s*"(?:metadata|apiVersion|kind)")')
_TOKEN = re.compile(rb'"(?:[^"\\]++|\\.)*+"|["{}]')
"""A string, a brace, or the start of an unterminated string."""

_OVERLAP = 64
"""Bytes of a boundary that the next chunk may complete."""

_MOST_SPACE = 1024
"""Bytes from the name `items` to the bracket; where there are more, the body is decoded as a whole."""

_ANY = msgspec.json.Decoder(msgspec.Raw)


class ListDecoder:
    """Decodes one list response: returns objects as they become complete, and the rest at the end."""

    def __init__(self) -> None:
        """Start at the beginning of the body."""
        self._head: bytes | None = None
        self._searching = True
        self._buffer = bytearray()
        self._searched = 0
        # Where a boundary was within the object at the buffer's start: how far its braces have been counted.
        self._counted: int | None = None
        self._depth = 0
        self._given_up = False

    def feed(self, chunk: bytes) -> list[msgspec.Raw]:
        """Add bytes; return the objects that they complete."""
        self._buffer += chunk
        if self._head is None:
            self._find_head()
        return [] if self._head is None else self._objects()

    def end(self) -> ListPage:
        """Decode the end of the body; the page has the objects not returned yet. Raises DecodeError."""
        return decode_page((self._head or b"") + bytes(self._buffer))

    def _find_head(self) -> None:
        """Find where the objects begin; a body with its resourceVersion behind them is decoded as a whole."""
        found = self._next_list() if self._searching else None
        if found is None:
            return
        head = bytes(self._buffer[: found.end()])
        try:
            decode_page(head + b"]}")
        except DecodeError:
            self._searching = False
            return
        self._head = head
        self._searched = 0
        del self._buffer[: len(head)]

    def _next_list(self) -> re.Match[bytes] | None:
        """Search what is new for the begin of a list of items; what the next chunk may complete is searched again."""
        while found := _ITEMS.search(self._buffer, self._searched):
            if found["list"] is not None:
                return found
            if found.end() == len(self._buffer):
                self._searched = found.start()
                self._searching = found.end() - found.start() < _MOST_SPACE
                return None
            self._searched = found.start() + 1
        self._searched = max(self._searched, len(self._buffer) - len(_NAME) + 1)
        return None

    def _objects(self) -> list[msgspec.Raw]:
        found: list[msgspec.Raw] = []
        start = 0
        for boundary in _BETWEEN.finditer(self._buffer, self._searched):
            end = boundary.start() + 1
            if self._given_up or (self._counted is not None and self._continues(end)):
                continue
            candidate = bytes(self._buffer[start:end])
            if _is_whole(candidate):
                found.append(msgspec.Raw(candidate))
                start, self._counted = boundary.end(), None
            elif self._counted is None:
                self._counted, self._depth = start, 0
                self._continues(end)
            else:
                self._given_up = True
        del self._buffer[:start]
        self._searched = max(0, len(self._buffer) - _OVERLAP)
        self._counted = None if self._counted is None else self._counted - start
        return found

    def _continues(self, end: int) -> bool:
        """Count braces up to `end`; return whether the object continues. Gives up where it ended before `end`."""
        for token in _TOKEN.finditer(self._buffer, self._counted or 0, end):
            text = token.group()
            self._depth += (text == b"{") - (text == b"}")
            if text == b'"' or (self._depth == 0 and token.end() < end):
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
