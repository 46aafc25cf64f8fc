"""One manifest file's text to objects: its documents, with `List` kinds opened."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import msgspec

from nfagent.cluster.model import Ref
from nfagent.edge.syntax import Document, parse
from nfagent.errors import ObjectError, Problem
from nfagent.ruleset.desired import Item
from nfagent.source.kinds import decoder, references
from nfagent.source.unread import misspelt_namespace

_READABLE = 10**18
"""Numbers beyond it are not shown."""


class FileContent(msgspec.Struct, frozen=True):
    """What a file holds.

    items:     by name, each with the line where its document starts
    refused:   objects that break the API's validation, or whose kind or apiVersion is none, each with what is wrong:
               their last good version holds
    unnamed:   some document is about an object that nobody can name: nothing that the file held is taken away
    ignored:   kinds that nfagent doesn't read
    problems:  what is wrong, for people
    """

    items: dict[Ref, tuple[Item, int]]
    refused: dict[Ref, Problem] = {}
    unnamed: bool = False
    ignored: frozenset[str] = frozenset()
    problems: tuple[Problem, ...] = ()

    @property
    def rejected(self) -> frozenset[Ref]:
        """The objects whose last good version holds."""
        return frozenset(self.refused)


def read_documents(name: str, text: str) -> FileContent | Problem:
    """Read a file; a Problem where it doesn't parse as a whole: then its last good content holds. Never raises."""
    documents = parse(name, text)
    return documents if isinstance(documents, Problem) else _collect(name, documents)


def _collect(name: str, documents: list[Document]) -> FileContent:
    items: dict[Ref, tuple[Item, int]] = {}
    refused: dict[Ref, Problem] = {}
    unnamed = False
    ignored: set[str] = set()
    problems: list[Problem] = []
    for line, found in _expanded(documents):
        place = f"{name}:{line}"
        try:
            item = _read(found)
        except ObjectError as error:
            problem = msgspec.structs.replace(error.problem, place=place)
            problems.append(problem)
            named = references(found) if isinstance(found, dict) and not _holds_others(found) else frozenset()
            refused |= dict.fromkeys(named, problem)
            unnamed |= not named
            continue
        if isinstance(item, str):
            ignored.add(item)
            continue
        if item is None:
            continue
        if item.ref in items:
            before = items[item.ref][1]
            reason = f"is in this file twice, at lines {before} and {line}; the first holds, delete one"
            problems.append(Problem(place=place, object=str(item.ref), reason=reason))
            continue
        items[item.ref] = (item, line)
        problems += [msgspec.structs.replace(flaw, place=place) for flaw in item.problems]
    refused = {ref: problem for ref, problem in refused.items() if ref not in items}
    return FileContent(items, refused, unnamed, frozenset(ignored), tuple(problems))


def _read(found: object) -> Item | str | None:
    """Read a document; its kind in words where that isn't read, None for an object of no interest.

    Raises ObjectError.
    """
    document = _named(found)
    if isinstance(document, Problem):
        raise ObjectError(document)
    decode = decoder(document)
    return f"{document['apiVersion']} {document['kind']}" if decode is None else decode(document)


def _named(document: object) -> dict[str, Any] | Problem:
    """Check the fields that name an object, by which every later message names it."""
    if not isinstance(document, dict) or not all(isinstance(document.get(key), str) for key in ("apiVersion", "kind")):
        return Problem(reason="is not a Kubernetes object; write apiVersion and kind")
    kind = document["kind"]
    if _is_list(document):
        return Problem(
            object=kind, reason="is a list inside a list, which is not read; put its items into the outer one"
        )
    if _holds_others(document):
        wrong = "is missing" if document.get("items") is None else "is not a list"
        return Problem(object=kind, field="items", reason=f"{wrong}; write the objects there, each behind `- `")
    metadata = document.get("metadata")
    wrong_name = _wrong_name(kind, metadata) if isinstance(metadata, dict) else None  # else the decoders say it
    return document if wrong_name is None else wrong_name


def _wrong_name(kind: str, metadata: dict[Any, Any]) -> Problem | None:
    misspelt = misspelt_namespace(metadata)
    if misspelt:
        value = metadata[misspelt]
        shown = value if isinstance(value, str) else ""
        reason = "is not a field here; write namespace"
        return Problem(object=kind, field=f"metadata.{misspelt}", value=shown, reason=reason)
    for key in ("namespace", "name"):
        value = metadata.get(key)
        if not isinstance(value, str | None):
            shown = str(value) if isinstance(value, int | float) and abs(value) < _READABLE else ""
            return Problem(
                object=kind, field=f"metadata.{key}", value=shown, reason="is not a string; put it in quotes"
            )
    return None


def _is_list(document: dict[str, Any]) -> bool:
    kind = document.get("kind")
    # The API server writes an empty list of items as null.
    return isinstance(kind, str) and kind.endswith("List") and isinstance(document.get("items", ""), list | None)


def _holds_others(document: dict[str, Any]) -> bool:
    """Tell whether an object is there for others alone, whether or not they can be found in it."""
    return _is_list(document) or document.get("kind") == "List"


def _expanded(documents: list[Document]) -> Iterator[Document]:
    """Open lists: `kind: List`, and typed ones whose entries may leave kind and apiVersion out."""
    for line, document in documents:
        if document is None:
            continue
        if isinstance(document, dict) and _is_list(document):
            for entry in document["items"] or ():
                yield line, _typed(entry, document)
        else:
            yield line, document


def _typed(entry: object, around: dict[str, Any]) -> object:
    kind = str(around["kind"]).removesuffix("List")
    if not isinstance(entry, dict) or not kind or "kind" in entry:
        return entry
    return {"apiVersion": around.get("apiVersion"), "kind": kind, **entry}
