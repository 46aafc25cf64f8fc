"""Parses YAML to JSON values, as kubectl does, at a cost proportional to the size of the text.

Values are built from parser events, without PyYAML's tree of nodes: this takes a tenth of the memory, and holds the
interpreter lock for no longer than one scalar. Aliases share their value; their expanded size is counted and bounded,
as in go-yaml, because code that walks the values visits them once for each alias.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any, Final

import yaml

try:  # libyaml, if PyYAML was built with it: ten times faster, the same result
    from yaml import CSafeLoader as YamlLoader
except ImportError:
    from yaml import SafeLoader as YamlLoader  # type: ignore[assignment]

from nfagent.decode.yaml_scalars import TAG, Scalar, plain, tagged
from nfagent.errors import DecodeError

MAX_DEPTH = 100
"""Levels of nesting; Kubernetes' own objects have about twenty."""

_SHOWN = 40
_FEW_ALIASED, _FEW = 100, 1000
_RATIO_FALLS, _RATIO_FELL = 400_000, 4_000_000
"""Number of values between which the allowed share of aliases falls (go-yaml v2, decode.go)."""

_MOST_SHARE, _LEAST_SHARE = 0.99, 0.10
_LARGEST_KEY, _SMALLEST_KEY = 1e6, 1e-4
_OPEN: Final = (None, 0)
"""The anchor of an unfinished value."""

_Event = Any
"""One of yaml.events, which are untyped."""


class YamlError(DecodeError):
    """Text that kubectl doesn't accept as YAML. `line`: from 1, None if unknown."""

    def __init__(self, reason: str, line: int | None = None) -> None:
        """Set reason and line."""
        super().__init__(reason)
        self.line = line


def yaml_documents(text: str, most: int = 0) -> Iterator[tuple[int, Any]]:
    """Read documents: the line where each starts, from 1, and its value.

    most: maximum number of values in a document, expanded aliases included; 0 for no limit

    Raises YamlError.
    """
    try:
        reader = _Reader(text, most)
        yield from reader.documents()
    except yaml.MarkedYAMLError as error:
        reason = " ".join(part for part in (error.context, error.problem) if part)
        raise YamlError(" ".join(reason.split()), _line(error.problem_mark)) from None
    except yaml.reader.ReaderError as error:
        reason = f"character #x{int(error.character):02x} can't be in it, nor can other control characters"
        raise YamlError(reason, text.encode().count(b"\n", 0, error.position) + 1) from None
    except UnicodeEncodeError as error:
        raise YamlError("a character is half of a surrogate pair", text.count("\n", 0, error.start) + 1) from None
    except yaml.YAMLError as error:
        raise YamlError(" ".join(str(error).split())) from None


def _line(mark: Any) -> int | None:  # noqa: ANN401 - PyYAML's marks have no types
    return None if mark is None else mark.line + 1


class _Reader:
    """Builds the values of one text."""

    def __init__(self, text: str, most: int) -> None:
        self._next: Any = YamlLoader(text).get_event
        self._most = most
        self._anchors: dict[str, tuple[Any, int]] = {}
        self._count = self._aliased = 0

    def documents(self) -> Iterator[tuple[int, Any]]:
        event = self._next()
        while type(event) is not yaml.StreamEndEvent:
            if type(event) is yaml.DocumentStartEvent:
                self._anchors, self._count, self._aliased = {}, 0, 0
                first = self._next()
                yield first.start_mark.line + 1, self._value(first, 1)
            event = self._next()

    def _value(self, event: _Event, depth: int) -> Any:  # noqa: ANN401 - any YAML value
        self._count += 1
        kind = type(event)
        if kind is yaml.AliasEvent:
            return self._alias(event)
        if self._most and self._count > self._most:
            raise _error(f"holds more than {self._most} values", event)
        if kind is yaml.ScalarEvent:
            made: Any = _scalar(event)
            if event.anchor:
                self._anchors[event.anchor] = made, 1
            return made
        if depth > MAX_DEPTH:
            raise _error(f"is nested deeper than {MAX_DEPTH} levels", event)
        before = self._count - 1
        if event.anchor:
            self._anchors[event.anchor] = _OPEN
        made = self._list(depth) if kind is yaml.SequenceStartEvent else self._mapping(depth)
        if event.anchor:
            self._anchors[event.anchor] = made, self._count - before
        return made

    def _alias(self, event: _Event) -> Any:  # noqa: ANN401 - as above
        found = self._anchors.get(event.anchor)
        name = event.anchor[:_SHOWN]
        if found is None:
            raise _error(f"alias *{name} has no anchor &{name} before it", event)
        if found is _OPEN:
            raise _error(f"the value of anchor &{name} contains itself", event)
        value, size = found
        self._count += size
        self._aliased += size
        share = self._aliased / self._count
        excessive = self._aliased > _FEW_ALIASED and self._count > _FEW and share > _allowed_share(self._count)
        if excessive or (self._most and self._count > self._most):
            raise _error("its aliases stand for too many values; write out what is meant", event)
        return value

    def _list(self, depth: int) -> list[Any]:
        made = []
        while type(event := self._next()) is not yaml.SequenceEndEvent:
            made.append(self._value(event, depth + 1))
        return made

    def _mapping(self, depth: int) -> dict[str, Any]:
        made: dict[str, Any] = {}
        merged: set[str] = set()
        while type(event := self._next()) is not yaml.MappingEndEvent:
            if type(event) is yaml.ScalarEvent and event.value == "<<" and _is_merge(event):
                self._count += 1
                merged |= self._merge(made, depth)
                continue
            key = self._key(event, depth)
            if key in made and key not in merged:
                raise _error(duplicate_key_error(key), event)
            merged.discard(key)
            made[key] = self._value(self._next(), depth + 1)
        return made

    def _merge(self, into: dict[str, Any], depth: int) -> set[str]:
        """Merge the mappings of `<<` over existing keys, as go-yaml v2 does; return the keys."""
        event = self._next()
        value = self._value(event, depth + 1)
        sources = [value] if isinstance(value, dict) else value
        listed = type(event) is yaml.SequenceStartEvent or isinstance(value, dict)
        if not listed or not all(isinstance(source, dict) for source in sources):
            raise _error("<< merges mappings; write one, or a list of them", event)
        for source in reversed(sources):
            into.update(source)
        return {key for source in sources for key in source}

    def _key(self, event: _Event, depth: int) -> str:
        """Return a key as text, as JSON requires."""
        if type(event) not in {yaml.ScalarEvent, yaml.AliasEvent}:
            raise _error("a list or a mapping can't be a key", event)
        key = self._value(event, depth + 1)
        if isinstance(key, str):
            return key
        shown = _key_text(key)
        if shown is None:
            raise _error(f"{_short(event)} can't be a key; put it in quotes", event)
        return shown


def _allowed_share(count: int) -> float:
    """Return the allowed share of values from aliases, which is lower in a large document."""
    fallen = min(max((count - _RATIO_FALLS) / (_RATIO_FELL - _RATIO_FALLS), 0.0), 1.0)
    return _MOST_SHARE - (_MOST_SHARE - _LEAST_SHARE) * fallen


def _is_merge(event: _Event) -> bool:
    return bool(event.implicit[0]) if event.tag is None else event.tag == f"{TAG}merge"


def _scalar(event: _Event) -> Scalar:
    text: str = event.value
    tag = event.tag
    if tag is None:
        value = plain(text) if event.implicit[0] else text
    else:
        try:
            value = tagged(tag, text)
        except ValueError as error:
            raise _error(f"{_short(event)} is not {error}; put it in quotes", event) from None
    if type(value) is float and not math.isfinite(value):
        raise _error(f"{_short(event)} is not a JSON number; put it in quotes", event)
    return value


def _key_text(key: Scalar) -> str | None:
    if isinstance(key, bool):
        return "true" if key else "false"
    if isinstance(key, int):
        return str(key) if -(2**63) <= key < 2**63 else None
    if isinstance(key, float) and (key == 0 or _SMALLEST_KEY <= abs(key) < _LARGEST_KEY):
        return str(int(key)) if key.is_integer() else repr(key)
    return None


def duplicate_key_error(key: str) -> str:
    """Return the error text for a duplicate key, which the API server's strict validation refuses too."""
    return f"{key[:_SHOWN]!r} is there twice in one mapping; keep one"


def _short(event: _Event) -> str:
    text: str = getattr(event, "value", "")
    return repr(text if len(text) <= _SHOWN else f"{text[:_SHOWN]}…")


def _error(reason: str, event: _Event) -> YamlError:
    return YamlError(reason, _line(event.start_mark))
