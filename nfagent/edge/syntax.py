"""One file's text to documents: JSON, or YAML as Kubernetes reads it. Total: documents, or the Problem."""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Callable, Iterator
from typing import Any, TypeAlias

import yaml

try:  # libyaml where PyYAML was built with it: ten times faster, the same reading
    from yaml import CSafeLoader as YamlLoader
except ImportError:
    from yaml import SafeLoader as YamlLoader  # type: ignore[assignment]

from nfagent.errors import Problem

Document: TypeAlias = tuple[int, Any]
"""The line where a document starts, from 1, and its content: mappings, lists, strings, numbers, booleans, None."""

_BLANK = re.compile(r"[ \t\r\n]*")
_SURROGATE = re.compile(r"\\u[dD][89a-fA-F]")
_HALF_OF_A_PAIR = re.compile("[\ud800-\udfff]")
_SHOWN = 40
_DEEPEST = 100
"""Levels of nesting: libyaml's reader is recursive and knows no end; Kubernetes' own objects have about twenty."""


class _Loader(YamlLoader):
    """YAML as Kubernetes reads it: dates are strings; and whatever the text is, YAMLError at worst."""

    def __init__(self, text: str) -> None:
        super().__init__(text)
        self._depth = 0
        # Merging moves keys from mapping to mapping, so that one may well be there twice in the end.
        self._merges = "<<" in text

    def descend_resolver(self, parent: yaml.Node | None, _index: object) -> None:
        """Go down a level; called for every node."""
        self._depth += 1
        if self._depth > _DEEPEST:
            where = parent.start_mark if parent is not None else None
            raise yaml.composer.ComposerError(problem=f"is nested deeper than {_DEEPEST} levels", problem_mark=where)

    def ascend_resolver(self) -> None:
        """Come up again."""
        self._depth -= 1

    def construct_mapping(self, node: Any, deep: bool = False) -> Any:  # noqa: ANN401, FBT001, FBT002 - PyYAML's own
        """Refuse a key that is there twice, as the API server's strict validation does."""
        if isinstance(node, yaml.MappingNode) and not self._merges:
            seen: set[tuple[str, str]] = set()
            for key, _ in node.value:
                if isinstance(key, yaml.ScalarNode):
                    if (key.tag, key.value) in seen:
                        raise yaml.constructor.ConstructorError(problem=_twice(key.value), problem_mark=key.start_mark)
                    seen.add((key.tag, key.value))
        return super().construct_mapping(node, deep)


def _guarded(construct: Callable[[Any, Any], object], what: str) -> Callable[[Any, Any], object]:
    """Wrap a constructor that lets through what Python's own conversions raise."""

    def constructed(loader: object, node: yaml.Node) -> object:
        try:
            return construct(loader, node)
        except (ValueError, KeyError, IndexError, AttributeError, OverflowError):
            shown = repr(node.value)
            shown = shown if len(shown) <= _SHOWN else f"{shown[:_SHOWN]}…"
            raise yaml.constructor.ConstructorError(
                problem=f"{shown} is not {what}; put it in quotes", problem_mark=node.start_mark
            ) from None

    return constructed


for _tag, _what in (("int", "a whole number"), ("float", "a number"), ("bool", "a boolean")):
    _full = f"tag:yaml.org,2002:{_tag}"
    _Loader.add_constructor(_full, _guarded(YamlLoader.yaml_constructors[_full], _what))
for _tag in ("timestamp", "value"):
    _Loader.add_constructor(f"tag:yaml.org,2002:{_tag}", _guarded(YamlLoader.construct_yaml_str, "a string"))


def parse(name: str, text: str) -> list[Document] | Problem:
    """Read the documents of a file; a Problem with its place where they can't be read. Never raises."""
    no_json: Exception | None = None
    if text.lstrip()[:1] == "{":
        try:
            return list(_load_json(text))
        except (ValueError, RecursionError) as error:
            no_json = error  # YAML in braces looks like JSON too
    try:
        return list(_load(text))
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        if no_json is not None and name.endswith(".json"):
            return _unreadable(name, text, "JSON", no_json)
        return _unreadable(name, text, "YAML", error)


def _unreadable(name: str, text: str, language: str, error: Exception) -> Problem:
    reason, line = str(error), None
    if isinstance(error, yaml.MarkedYAMLError):
        reason = " ".join(part for part in (error.context, error.problem) if part)
        line = error.problem_mark.line + 1 if error.problem_mark is not None else None
    elif isinstance(error, yaml.reader.ReaderError):
        reason = f"character #x{int(error.character):02x} can't be in it, nor can other control characters"
        line = text.encode().count(b"\n", 0, error.position) + 1
    elif isinstance(error, UnicodeEncodeError):
        reason = "a character is half of a surrogate pair"
        line = text.count("\n", 0, error.start) + 1
    elif isinstance(error, json.JSONDecodeError):
        reason, line = error.msg, error.lineno
    place = name if line is None else f"{name}:{line}"
    return Problem(place=place, reason=f"is not valid {language}: {' '.join(reason.split())}")


def _load(text: str) -> Iterator[Document]:
    loader = _Loader(text)
    try:
        while loader.check_node():
            node: Any = loader.get_node()
            yield node.start_mark.line + 1, loader.construct_document(node)
    finally:
        loader.dispose()


def _load_json(text: str) -> Iterator[Document]:
    """Read JSON documents one after the other: YAML's reader refuses some of what JSON may hold."""
    decoder = json.JSONDecoder(object_pairs_hook=_without_twins)
    suspect = _SURROGATE.search(text) or _HALF_OF_A_PAIR.search(text)
    start = _blank(text, 0)
    while start < len(text):
        document, end = decoder.raw_decode(text, start)
        if suspect and _HALF_OF_A_PAIR.search(json.dumps(document, ensure_ascii=False)):
            raise json.JSONDecodeError("a character is half of a surrogate pair", text, start)
        yield text.count("\n", 0, start) + 1, document
        start = _blank(text, end)


def _without_twins(pairs: list[tuple[str, object]]) -> dict[str, object]:
    made = dict(pairs)
    if len(made) < len(pairs):
        twice = next(key for key, count in Counter(key for key, _ in pairs).items() if count > 1)
        raise ValueError(_twice(twice))
    return made


def _twice(key: str) -> str:
    return f"{key[:_SHOWN]!r} is there twice in one mapping; keep one"


def _blank(text: str, start: int) -> int:
    found = _BLANK.match(text, start)
    return found.end() if found is not None else start
