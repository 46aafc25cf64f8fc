"""One manifest file's text to objects: YAML or JSON, several documents, `List` kinds."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import msgspec
import yaml

from nfagent.cluster.model import Ref
from nfagent.edge.kinds import DECODERS, reference
from nfagent.errors import ObjectError, Problem
from nfagent.ruleset.desired import Item

# libyaml where PyYAML was built with it: ten times faster, the same reading.
_Loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)


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
    """Read a file; a Problem where it doesn't parse as a whole: then its last good content holds."""
    try:
        documents = list(_load(text))
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        reason = " ".join(str(getattr(error, "problem", None) or error).split())
        return Problem(place=f"{name}:{mark.line + 1}" if mark else name, reason=f"is not valid YAML: {reason}")
    except (RecursionError, ValueError) as error:
        return Problem(place=name, reason=f"can't be read: {error}")
    return _collect(name, documents)


def _load(text: str) -> Iterator[tuple[int, object]]:
    loader = _Loader(text)
    try:
        while loader.check_node():
            node: Any = loader.get_node()
            yield node.start_mark.line + 1, loader.construct_document(node)
    finally:
        loader.dispose()


def _collect(name: str, documents: list[tuple[int, object]]) -> FileContent:
    items: dict[Ref, tuple[Item, int]] = {}
    rejected: set[Ref] = set()
    ignored: set[str] = set()
    problems: list[Problem] = []
    for line, document in _expanded(documents):
        place = f"{name}:{line}"
        if not isinstance(document, dict) or not isinstance(document.get("kind"), str):
            problems.append(Problem(place=place, reason="is not a Kubernetes object; write apiVersion and kind"))
            continue
        decoder = DECODERS.get((str(document.get("apiVersion")), document["kind"]))
        if decoder is None:
            ignored.add(f"{document.get('apiVersion')} {document['kind']}")
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
        fault = getattr(item, "problem", None)
        if isinstance(fault, Problem):
            problems.append(msgspec.structs.replace(fault, place=place))
    return FileContent(items, frozenset(rejected - items.keys()), frozenset(ignored), tuple(problems))


def _expanded(documents: list[tuple[int, object]]) -> Iterator[tuple[int, object]]:
    """Open lists: `kind: List`, and typed ones whose entries may leave kind and apiVersion out."""
    for line, document in documents:
        if document is None:
            continue
        entries = document.get("items") if isinstance(document, dict) else None
        if isinstance(document, dict) and str(document.get("kind")).endswith("List") and isinstance(entries, list):
            for entry in entries:
                yield line, _typed(entry, document)
        else:
            yield line, document


def _typed(entry: object, around: dict[str, Any]) -> object:
    kind = str(around["kind"]).removesuffix("List")
    if not isinstance(entry, dict) or not kind or "kind" in entry:
        return entry
    return {"apiVersion": around.get("apiVersion"), "kind": kind, **entry}
