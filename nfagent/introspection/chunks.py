"""Large answers bit by bit: values whose lists and texts are made as they are written, and their JSON.

A view may hold, in the place of a list, an iterator: its items are made one by one, and None among them says that none
is ready yet. `TextLines` is the same for a string, `Deferred` for any value that is known when what stands before it
was written. Each step is small work, about one object's, so that whoever has other things to do can pause after it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any

import msgspec

_encode = msgspec.json.Encoder().encode


class TextLines:
    """A string that is made in parts; an empty part says that none is ready yet."""

    __slots__ = ("parts",)

    def __init__(self, parts: Iterator[str]) -> None:
        """Keep the parts, which are gone through once."""
        self.parts = parts


class Deferred:
    """A value that is made when it is its turn to be written."""

    __slots__ = ("make",)

    def __init__(self, make: Callable[[], object]) -> None:
        """Keep what makes it."""
        self.make = make


def encoded(value: object) -> Iterator[bytes]:
    """Encode a value as JSON, in steps: what they give, put together, is the whole; it may be nothing."""
    if isinstance(value, Deferred):
        value = value.make()
    if isinstance(value, TextLines):
        yield b'"'
        for part in value.parts:
            yield _encode(part)[1:-1] if part else b""
        yield b'"'
    elif isinstance(value, Iterator):
        yield from _listed(value)
    elif isinstance(value, dict) and _in_parts(value):
        start = b"{"
        for name, item in value.items():
            yield start + _encode(name) + b":"
            yield from encoded(item)
            start = b","
        yield b"}"
    else:
        yield _encode(value)


def _listed(items: Iterator[object]) -> Iterator[bytes]:
    start = b"["
    for item in items:
        if item is None:
            yield b""
        elif isinstance(item, dict) and _in_parts(item):
            yield start
            yield from encoded(item)
            start = b","
        else:
            yield start + _encode(item)
            start = b","
    yield b"]" if start == b"," else b"[]"


def _in_parts(value: Mapping[str, object]) -> bool:
    for item in value.values():
        if isinstance(item, Iterator | TextLines | Deferred) or (isinstance(item, dict) and _in_parts(item)):
            return True
    return False


def whole(value: Any) -> Any:  # noqa: ANN401 - a view's value, of whatever type
    """Give a value with all its parts made, as decoding its JSON would."""
    if isinstance(value, Deferred):
        return whole(value.make())
    if isinstance(value, TextLines):
        return "".join(value.parts)
    if isinstance(value, Iterator):
        return [whole(item) for item in value if item is not None]
    if isinstance(value, dict):
        return {name: whole(item) for name, item in value.items()}
    return value
