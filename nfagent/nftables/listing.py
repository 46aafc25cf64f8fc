"""Splits the JSON text of a listing into objects, and the elements of a large set into pieces.

A listing is read in a thread. One call of the JSON decoder holds the interpreter lock, and so blocks the event loop,
until it returns: a tenth of a second for a set of 150,000 flows. So the elements of a large set are decoded in pieces,
and unused elements, such as those of `revoked4` and `revoked6`, are never decoded.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import msgspec

from nfagent.errors import WireError

AT_ONCE = 64 * 1024
"""Bytes of JSON that are decoded in one call, which takes a millisecond."""


class _Listing(msgspec.Struct):
    nftables: list[msgspec.Raw]


_LISTING = msgspec.json.Decoder(_Listing)
_FIELDS = msgspec.json.Decoder(dict[str, dict[str, msgspec.Raw]])
_decode = msgspec.json.decode


def entries(text: str | bytes) -> Iterator[Any]:
    """Yield the objects of a listing; a large one has an iterator of its elements.

    Raises msgspec.DecodeError, WireError.
    """
    for raw in _LISTING.decode(text).nftables:
        yield _decode(raw) if memoryview(raw).nbytes <= AT_ONCE else _large(raw)


def _large(raw: msgspec.Raw) -> object:
    try:
        fields = _FIELDS.decode(raw)
    except msgspec.ValidationError:
        return _decode(raw)  # an object without elements
    return {
        kind: {key: pieces(value) if key == "elem" else _decode(value) for key, value in item.items()}
        for kind, item in fields.items()
    }


def pieces(array: msgspec.Raw | bytes) -> Iterator[Any]:
    """Yield the members of a JSON array, decoded piece by piece. Raises WireError, msgspec.DecodeError."""
    view = memoryview(array)
    if bytes(view[:1]) != b"[" or bytes(view[-1:]) != b"]":
        raise WireError("libnftables listed elements that are no array")
    view = view[1:-1]
    start, size = 0, AT_ONCE
    while start < len(view):
        window = bytes(view[start : start + size])
        whole = start + len(window) == len(view)
        cut, found = len(window), _members(window) if whole else None
        while found is None and (cut := window.rfind(b", ", 0, cut)) > 0:
            found = _members(window[:cut]) if _begins_as(window, cut + 2) else None
        if found is None and whole:
            found = _decode(b"[" + window + b"]")  # raises the DecodeError
        if found is None:
            size *= 2
            continue
        yield from found
        start, size = start + cut + (0 if whole and cut == len(window) else 2), AT_ONCE


def _begins_as(window: bytes, place: int) -> bool:
    """Return whether a member may begin here: its first byte is that of the first member.

    A wrong guess costs one failed decoding.
    """
    return window[place : place + 1] == window[:1]


def _members(text: bytes) -> list[Any] | None:
    """Decode members of an array; None if the text ends within a member, with open brackets or quotes."""
    try:
        found: list[Any] = _decode(b"[" + text + b"]")
    except msgspec.DecodeError:
        return None
    return found
