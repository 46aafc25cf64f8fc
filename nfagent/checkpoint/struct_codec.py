"""Conversion of decoded JSON to structs, including unions of structs without a tag, which msgspec doesn't support.

A policy's peers are such a union. Tags would change the encodings that the names of sets in the kernel are made from.
The structs of a union are distinguished by their fields.
"""

from __future__ import annotations

from functools import lru_cache
from types import NoneType, UnionType
from typing import Any, TypeVar, Union, get_args, get_origin, get_type_hints

import msgspec

from nfagent.errors import DecodeError

_T = TypeVar("_T")


def build(kind: type[_T], value: object) -> _T:
    """Return a value of a type. Raises DecodeError."""
    try:
        made: _T = _build(kind, value)
    except (msgspec.ValidationError, TypeError, RecursionError) as error:
        raise DecodeError(f"not a {kind.__name__}: {error}") from None
    return made


def _build(hint: Any, value: object) -> Any:  # noqa: ANN401 - types and values of all sorts
    if _is_direct(hint):
        return msgspec.convert(value, hint)
    origin, arguments = get_origin(hint), get_args(hint)
    if origin is tuple and isinstance(value, list):
        return tuple(_build(arguments[0], entry) for entry in value)
    if origin in {Union, UnionType}:
        return _build(_arm(arguments, value), value)
    if isinstance(hint, type) and issubclass(hint, msgspec.Struct) and isinstance(value, dict):
        hints = _hints(hint)
        return hint(**{name: _build(hints[name], value[name]) for name in hint.__struct_fields__ if name in value})
    raise DecodeError(f"expected {hint}")


def _arm(arms: tuple[Any, ...], value: object) -> Any:  # noqa: ANN401
    """Return the member of a union that a value has the fields of."""
    if value is None and NoneType in arms:
        return NoneType
    structs = [arm for arm in arms if isinstance(arm, type) and issubclass(arm, msgspec.Struct)]
    for arm in structs:
        if isinstance(value, dict) and value and value.keys() - {"type"} <= set(arm.__struct_fields__):
            return arm
    raise DecodeError(f"expected {' or '.join(arm.__name__ for arm in structs)}")


@lru_cache(maxsize=256)
def _is_direct(hint: Any) -> bool:  # noqa: ANN401
    """Return whether msgspec supports the type."""
    try:
        msgspec.json.Decoder(hint)
    except TypeError:
        return False
    return True


@lru_cache(maxsize=256)
def _hints(kind: type[msgspec.Struct]) -> dict[str, Any]:
    return get_type_hints(kind)
