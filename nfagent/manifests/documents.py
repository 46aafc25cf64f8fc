"""One manifest file's text to objects: its documents, with `List` kinds opened."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import msgspec

from nfagent.decode.core import document_field
from nfagent.decode.ignored_kinds import misspelt_namespace
from nfagent.decode.registry import CLUSTER_SCOPED, decoder, references
from nfagent.decode.schema import known_fields
from nfagent.errors import ObjectError, ValidationIssue
from nfagent.manifests.list_items import holds_others, is_list
from nfagent.manifests.parser_process import LARGEST_OBJECT, ObjectTooLarge, ParserError, file_entries
from nfagent.manifests.yaml_loader import Document
from nfagent.model.gvk import Item
from nfagent.model.objects import ObjectRef

_READABLE = 10**18
"""Numbers beyond it are not shown."""

_FIELDS = ("apiVersion", "kind", "metadata", "spec", "status", "data", "binaryData", "immutable")
_METADATA = (
    *("name", "generateName", "namespace", "labels", "annotations", "ownerReferences", "finalizers", "uid"),
    *("resourceVersion", "generation", "creationTimestamp", "deletionTimestamp", "deletionGracePeriodSeconds"),
    *("managedFields", "selfLink", "clusterName"),
)
"""Sources: Kubernetes 1.34, ObjectMeta; the last of them stood there once."""
_KNOWN_FIELDS, _KNOWN_METADATA = frozenset(_FIELDS), frozenset(_METADATA)


class FileContent(msgspec.Struct, frozen=True):
    """What a file holds.

    items:     by name, each with the line where its document starts
    refused:   objects that break the API's validation, or whose kind or apiVersion is none, each with what is wrong:
               their last good version holds
    doubted:   objects with a field that isn't known where every object's fields are, each with what is wrong: their
               last good version holds, and what was read where there is none
    unnamed:   some document is about an object that nobody can name: nothing that the file held is taken away
    ignored:   kinds that nfagent doesn't read
    problems:  what is wrong, for people
    """

    items: dict[ObjectRef, tuple[Item, int]]
    refused: dict[ObjectRef, ValidationIssue] = {}
    doubted: dict[ObjectRef, ValidationIssue] = {}
    unnamed: bool = False
    ignored: frozenset[str] = frozenset()
    problems: tuple[ValidationIssue, ...] = ()

    @property
    def rejected(self) -> frozenset[ObjectRef]:
        """The objects whose last good version holds."""
        return frozenset(self.refused)


def read_documents(name: str, text: str) -> FileContent | ValidationIssue:
    """Read a file; a Problem where it doesn't parse as a whole: then its last good content holds. Never raises."""
    try:
        return _collect(name, file_entries(name, text))
    except ParserError as error:
        return error.problem


def _collect(name: str, entries: Iterable[Document]) -> FileContent:
    items: dict[ObjectRef, tuple[Item, int]] = {}
    refused: dict[ObjectRef, ValidationIssue] = {}
    doubted: dict[ObjectRef, ValidationIssue] = {}
    unnamed = False
    ignored: set[str] = set()
    problems: list[ValidationIssue] = []
    for line, found in entries:
        place = f"{name}:{line}"
        try:
            item = _read_large(found) if isinstance(found, ObjectTooLarge) else _read(found)
        except ObjectError as error:
            problem = msgspec.structs.replace(error.problem, place=place)
            problems.append(problem)
            about = found.named if isinstance(found, ObjectTooLarge) else found
            named = references(about) if isinstance(about, dict) and not holds_others(about) else frozenset()
            refused |= dict.fromkeys(named, problem)
            unnamed |= not named
            continue
        if isinstance(item, str):
            ignored.add(item)
            continue
        doubt = _doubt(found)
        if item is None:
            # Of no interest as it is: with another namespace it may be.
            if doubt is not None and _may_be_elsewhere(found):
                problems.append(msgspec.structs.replace(doubt, place=place))
                unnamed = True
            continue
        if item.ref in items:
            before = items[item.ref][1]
            reason = f"is in this file twice, at lines {before} and {line}; the first holds, delete one"
            problems.append(ValidationIssue(place=place, object=str(item.ref), reason=reason))
            continue
        items[item.ref] = (item, line)
        problems += [msgspec.structs.replace(flaw, place=place) for flaw in item.problems]
        if doubt is not None:
            told = next((flaw for flaw in item.problems if flaw.field == doubt.field), None)
            doubted[item.ref] = msgspec.structs.replace(told or doubt, place=place)
            problems += [] if told else [doubted[item.ref]]
            unnamed |= _may_be_elsewhere(found)
    refused = {ref: problem for ref, problem in refused.items() if ref not in items}
    return FileContent(items, refused, doubted, unnamed, frozenset(ignored), tuple(problems))


def _read(found: object) -> Item | str | None:
    """Read a document; its kind in words where that isn't read, None for an object of no interest.

    Raises ObjectError.
    """
    document = _named(found)
    if isinstance(document, ValidationIssue):
        raise ObjectError(document)
    decode = decoder(document)
    return f"{document['apiVersion']} {document['kind']}" if decode is None else decode(document)


def _read_large(found: ObjectTooLarge) -> str:
    """Give its kind in words where that isn't read. Raises ObjectError."""
    document = _named(found.named)
    if isinstance(document, ValidationIssue):
        raise ObjectError(document)
    if decoder(document) is None:
        return f"{document['apiVersion']} {document['kind']}"
    owner = next(iter(references(document)), document["kind"])
    reason = f"is larger than {LARGEST_OBJECT >> 20} MiB as JSON ({found.size >> 20} MiB); an API server takes 1.5 MiB"
    raise ObjectError(ValidationIssue(object=str(owner), reason=reason))


def _doubt(found: object) -> ValidationIssue | None:
    """Find a field that isn't known beside `spec` or in `metadata`: `sepc` for `spec` leaves a policy without rules."""
    if not isinstance(found, dict):
        return None
    metadata = found.get("metadata")
    if isinstance(metadata, dict) and found.keys() <= _KNOWN_FIELDS and metadata.keys() <= _KNOWN_METADATA:
        return None  # as nearly every document, of which a folder may have 150,000
    top = document_field(found)
    try:
        known_fields(top, *_FIELDS)
        known_fields(top / "metadata", *_METADATA)
    except ObjectError as error:
        return error.problem
    return None


def _may_be_elsewhere(found: object) -> bool:
    """Tell whether the field that isn't known may be the namespace, misspelt."""
    if not isinstance(found, dict) or found["kind"] in CLUSTER_SCOPED:
        return False
    return found["metadata"].get("namespace") is None


def _named(document: object) -> dict[str, Any] | ValidationIssue:
    """Check the fields that name an object, by which every later message names it."""
    if not isinstance(document, dict) or not all(isinstance(document.get(key), str) for key in ("apiVersion", "kind")):
        return ValidationIssue(reason="is not a Kubernetes object; write apiVersion and kind")
    kind = document["kind"]
    if is_list(document):
        return ValidationIssue(
            object=kind, reason="is a list inside a list, which is not read; put its items into the outer one"
        )
    if holds_others(document):
        wrong = "is missing" if document.get("items") is None else "is not a list"
        return ValidationIssue(object=kind, field="items", reason=f"{wrong}; write the objects there, each behind `- `")
    metadata = document.get("metadata")
    wrong_name = _wrong_name(kind, metadata) if isinstance(metadata, dict) else None  # else the decoders say it
    return document if wrong_name is None else wrong_name


def _wrong_name(kind: str, metadata: dict[Any, Any]) -> ValidationIssue | None:
    misspelt = misspelt_namespace(metadata)
    if misspelt:
        value = metadata[misspelt]
        shown = value if isinstance(value, str) else ""
        reason = "is not a field here; write namespace"
        return ValidationIssue(object=kind, field=f"metadata.{misspelt}", value=shown, reason=reason)
    for key in ("namespace", "name"):
        value = metadata.get(key)
        if not isinstance(value, str | None):
            shown = str(value) if isinstance(value, int | float) and abs(value) < _READABLE else ""
            return ValidationIssue(
                object=kind, field=f"metadata.{key}", value=shown, reason="is not a string; put it in quotes"
            )
    return None
