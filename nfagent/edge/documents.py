"""One manifest file's text to objects: YAML or JSON, several documents, `List` kinds."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator
from typing import Any

import msgspec
import yaml

from nfagent.cluster.model import Ref
from nfagent.edge.kinds import DECODERS, reference
from nfagent.errors import ObjectError, Problem
from nfagent.ruleset.desired import Item

_BLANK = re.compile(r"[ \t\r\n]*")
_HALF_OF_A_PAIR = re.compile("[\ud800-\udfff]")
_SHOWN = 40
_DEEPEST = 100
"""Levels of nesting: libyaml's reader is recursive and knows no end; Kubernetes' own objects have about twenty."""

# libyaml where PyYAML was built with it: ten times faster, the same reading.
_YamlLoader: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)


class _Loader(_YamlLoader):  # type: ignore[misc] - whichever there is
    """YAML as Kubernetes reads it: dates are strings; and whatever the text is, YAMLError at worst."""

    def __init__(self, text: str) -> None:
        super().__init__(text)
        self._depth = 0

    def descend_resolver(self, parent: yaml.Node | None, _index: object) -> None:
        """Go down a level; called for every node."""
        self._depth += 1
        if self._depth > _DEEPEST:
            where = parent.start_mark if parent is not None else None
            raise yaml.composer.ComposerError(problem=f"is nested deeper than {_DEEPEST} levels", problem_mark=where)

    def ascend_resolver(self) -> None:
        """Come up again."""
        self._depth -= 1


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
    _Loader.add_constructor(_full, _guarded(_YamlLoader.yaml_constructors[_full], _what))
for _tag in ("timestamp", "value"):
    _Loader.add_constructor(f"tag:yaml.org,2002:{_tag}", _YamlLoader.construct_yaml_str)


class FileContent(msgspec.Struct, frozen=True):
    """What a file holds.

    items:     by name, each with the line where its document starts
    rejected:  objects that break the API's validation, with why: their last good version holds
    ignored:   kinds that nfagent doesn't read
    problems:  what is wrong, for people
    """

    items: dict[Ref, tuple[Item, int]]
    rejected: frozenset[Ref] = frozenset()
    ignored: frozenset[str] = frozenset()
    problems: tuple[Problem, ...] = ()


def read_documents(name: str, text: str) -> FileContent | Problem:
    """Read a file; a Problem where it doesn't parse as a whole: then its last good content holds. Never raises."""
    try:
        documents = list(_load_json(text)) if text.lstrip()[:1] == "{" else None
    except (ValueError, RecursionError) as error:
        documents = None
        # YAML in braces looks like JSON too.
        if name.endswith(".json"):
            return _unreadable(name, "JSON", error)
    try:
        return _collect(name, list(_load(text)) if documents is None else documents)
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        return _unreadable(name, "YAML", error)


def _unreadable(name: str, language: str, error: Exception) -> Problem:
    place = name
    reason = str(error)
    if isinstance(error, yaml.MarkedYAMLError):
        reason = " ".join(part for part in (error.context, error.problem) if part)
        place = f"{name}:{error.problem_mark.line + 1}" if error.problem_mark is not None else name
    elif isinstance(error, yaml.reader.ReaderError):
        reason = f"character #x{int(error.character):02x} can't be in it, nor can other control characters"
    elif isinstance(error, json.JSONDecodeError):
        reason, place = error.msg, f"{name}:{error.lineno}"
    return Problem(place=place, reason=f"is not valid {language}: {' '.join(reason.split())}")


def _load(text: str) -> Iterator[tuple[int, object]]:
    loader = _Loader(text)
    try:
        while loader.check_node():
            node: Any = loader.get_node()
            yield node.start_mark.line + 1, loader.construct_document(node)
    finally:
        loader.dispose()


def _load_json(text: str) -> Iterator[tuple[int, object]]:
    """Read JSON documents one after the other: YAML's reader refuses some of what JSON may hold."""
    decoder = json.JSONDecoder()
    start = _blank(text, 0)
    while start < len(text):
        document, end = decoder.raw_decode(text, start)
        if _HALF_OF_A_PAIR.search(json.dumps(document, ensure_ascii=False)):
            raise json.JSONDecodeError("a \\u escape is half of a pair", text, start)
        yield text.count("\n", 0, start) + 1, document
        start = _blank(text, end)


def _blank(text: str, start: int) -> int:
    found = _BLANK.match(text, start)
    return found.end() if found is not None else start


def _collect(name: str, documents: list[tuple[int, object]]) -> FileContent:
    items: dict[Ref, tuple[Item, int]] = {}
    rejected: set[Ref] = set()
    ignored: set[str] = set()
    problems: list[Problem] = []
    for line, document in _expanded(documents):
        place = f"{name}:{line}"
        fault = _named_badly(document)
        if fault is not None:
            problems.append(msgspec.structs.replace(fault, place=place))
            continue
        decoder = DECODERS.get((document["apiVersion"], document["kind"]))
        if decoder is None:
            ignored.add(f"{document['apiVersion']} {document['kind']}")
            continue
        try:
            item = decoder(document)
        except ObjectError as error:
            problems.append(msgspec.structs.replace(error.problem, place=place))
            named = reference(document)
            rejected |= {named} if named is not None else set()
            continue
        if item is None:
            continue
        if item.ref in items:
            before = items[item.ref][1]
            reason = f"is in this file twice, at lines {before} and {line}; the first holds, delete one"
            problems.append(Problem(place=place, object=str(item.ref), reason=reason))
            continue
        items[item.ref] = (item, line)
        flaw = getattr(item, "problem", None)
        if isinstance(flaw, Problem):
            problems.append(msgspec.structs.replace(flaw, place=place))
    return FileContent(items, frozenset(rejected - items.keys()), frozenset(ignored), tuple(problems))


def _named_badly(document: object) -> Problem | None:
    """Say what is wrong with the fields that name an object: every later message names it by them."""
    if not isinstance(document, dict) or not all(isinstance(document.get(key), str) for key in ("apiVersion", "kind")):
        return Problem(reason="is not a Kubernetes object; write apiVersion and kind")
    kind = document["kind"]
    if _is_list(document):
        return Problem(
            object=kind, reason="is a list inside a list, which is not read; put its items into the outer one"
        )
    metadata = document.get("metadata")
    if not isinstance(metadata, dict):
        return None  # the decoders say it
    for key in ("namespace", "name"):
        value = metadata.get(key)
        if not isinstance(value, str | None):
            shown = str(value) if isinstance(value, bool | float) else ""
            return Problem(
                object=kind, field=f"metadata.{key}", value=shown, reason="is not a string; put it in quotes"
            )
    return None


def _is_list(document: dict[str, Any]) -> bool:
    return str(document["kind"]).endswith("List") and isinstance(document.get("items"), list)


def _expanded(documents: list[tuple[int, object]]) -> Iterator[tuple[int, object]]:
    """Open lists: `kind: List`, and typed ones whose entries may leave kind and apiVersion out."""
    for line, document in documents:
        if document is None:
            continue
        if isinstance(document, dict) and isinstance(document.get("kind"), str) and _is_list(document):
            for entry in document["items"]:
                yield line, _typed(entry, document)
        elif (
            isinstance(document, dict)
            and isinstance(document.get("kind"), str)
            and "items" in document
            and document["items"] is None
        ):
            continue
        else:
            yield line, document


def _typed(entry: object, around: dict[str, Any]) -> object:
    kind = str(around["kind"]).removesuffix("List")
    if not isinstance(entry, dict) or not kind or "kind" in entry:
        return entry
    return {"apiVersion": around.get("apiVersion"), "kind": kind, **entry}
