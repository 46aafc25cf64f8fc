"""Large answers in small steps: values whose lists and texts are made while they are written, and their JSON.

A view is a Struct or a dict. `in_steps`, `text_in_steps` and `deferred` put an unfinished value in the place of a list,
a text or any other value; its declared type is that of the finished value, which is what `encoded` writes and what the
client decodes. One step is the work for one object, so the event loop can run other tasks after it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import Any, TypeVar, cast

import msgspec

_T = TypeVar("_T")
_encode = msgspec.json.Encoder().encode


class TextLines:
    """A string that is made in parts; an empty part means that none is ready yet."""

    __slots__ = ("parts",)

    def __init__(self, parts: Iterator[str]) -> None:
        """Keep the parts, which are iterated once."""
        self.parts = parts


class Deferred:
    """A value that is made when it is written: it depends on what is written before it."""

    __slots__ = ("make",)

    def __init__(self, make: Callable[[], object]) -> None:
        """Keep the function that makes the value."""
        self.make = make


_FINISHED = frozenset((str, int, float, bool, type(None), list, tuple))
_UNFINISHED = (TextLines, Deferred, Iterator)
_WITH_FIELDS = (dict, msgspec.Struct)


def in_steps(items: Iterable[_T | None]) -> list[_T]:
    """Return an unfinished list: its items are made one by one, and None means that none is ready yet."""
    return cast("list[_T]", iter(items))


def text_in_steps(parts: Iterator[str]) -> str:
    """Return an unfinished text: see TextLines."""
    return cast("str", TextLines(parts))


def deferred(make: Callable[[], _T]) -> _T:
    """Return an unfinished value: see Deferred."""
    return cast("_T", Deferred(make))


def encoded(value: object) -> Iterator[bytes]:
    """Encode a value as JSON in steps; the parts joined are the whole, and a part may be empty."""
    if isinstance(value, Deferred):
        value = value.make()
    if isinstance(value, TextLines):
        yield b'"'
        for part in value.parts:
            yield _encode(part)[1:-1] if part else b""
        yield b'"'
    elif isinstance(value, Iterator):
        yield from _encode_items(value)
    elif isinstance(value, _WITH_FIELDS) and _is_unfinished(value):
        start = b"{"
        for name, item in _fields(value):
            yield start + _encode(name) + b":"
            yield from encoded(item)
            start = b","
        yield b"}"
    else:
        yield _encode(value)


def _encode_items(items: Iterator[object]) -> Iterator[bytes]:
    start = b"["
    for item in items:
        if item is None:
            yield b""
        elif isinstance(item, _WITH_FIELDS) and _is_unfinished(item):
            yield start
            yield from encoded(item)
            start = b","
        else:
            yield start + _encode(item)
            start = b","
    yield b"]" if start == b"," else b"[]"


def _fields(value: dict[str, object] | msgspec.Struct) -> Iterable[tuple[str, object]]:
    """Return names and values of what is written: a field that is UNSET is left out, as msgspec does."""
    if isinstance(value, dict):
        return value.items()
    named = ((name, getattr(value, name)) for name in value.__struct_fields__)
    return ((name, item) for name, item in named if item is not msgspec.UNSET)


def _is_unfinished(value: dict[str, object] | msgspec.Struct) -> bool:
    # For every Pod of an answer: most fields are passed by their type alone.
    items = value.values() if isinstance(value, dict) else [getattr(value, name) for name in value.__struct_fields__]
    for item in items:
        if type(item) in _FINISHED:
            continue
        if isinstance(item, _UNFINISHED) or (isinstance(item, _WITH_FIELDS) and _is_unfinished(item)):
            return True
    return False


def whole(value: Any) -> Any:  # noqa: ANN401 - a view's value, of any JSON type
    """Return a value with all its parts made, as decoding its JSON would: dicts, lists, strings, numbers."""
    if isinstance(value, Deferred):
        return whole(value.make())
    if isinstance(value, TextLines):
        return "".join(value.parts)
    if isinstance(value, Iterator | list | tuple):
        return [whole(item) for item in value if item is not None]
    if isinstance(value, dict | msgspec.Struct):
        return {name: whole(item) for name, item in _fields(value)}
    return value
