"""The parts of a document: their paths, and the document without a part, or with another in its place."""

from __future__ import annotations

from itertools import chain
from typing import Any, TypeAlias

Path: TypeAlias = tuple[str | int, ...]
"""Keys and indexes from the top to a part."""

# A part of a document is any YAML value.
# ruff: noqa: ANN401


def paths(value: Any) -> list[Path]:
    """Return the paths of all parts, those of the top first."""
    return sorted(_below((), value), key=len)


def without(value: Any, path: Path) -> Any:
    """Return the document without a part."""
    return _changed(value, path, ())


def replaced(value: Any, path: Path, part: Any) -> Any:
    """Return the document with another part in its place."""
    return _changed(value, path, (part,))


def _below(above: Path, value: Any) -> list[Path]:
    found = [((*above, key), part) for key, part in _parts(value)]
    return [*(path for path, _ in found), *chain.from_iterable(_below(path, part) for path, part in found)]


def _parts(value: Any) -> list[tuple[str | int, Any]]:
    if isinstance(value, dict):
        return list(value.items())
    return list(enumerate(value)) if isinstance(value, list) else []


def _changed(value: Any, path: Path, instead: tuple[Any, ...]) -> Any:
    key, *rest = path
    found: list[tuple[str | int, Any]] = []
    for known, part in _parts(value):
        if known != key:
            found.append((known, part))
        elif rest:
            found.append((known, _changed(part, tuple(rest), instead)))
        else:
            found += [(known, other) for other in instead]
    return dict(found) if isinstance(value, dict) else [part for _, part in found]
