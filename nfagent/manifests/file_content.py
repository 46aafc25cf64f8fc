"""Decodes the text of one manifest file to objects: each of its documents, and the items of lists."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import msgspec

from nfagent.decode.core import document_field
from nfagent.decode.crd_validation import known_fields
from nfagent.decode.registry import CLUSTER_SCOPED, find_decoder, possible_refs
from nfagent.decode.unknown_kinds import misspelt_namespace
from nfagent.errors import ObjectError, ValidationIssue
from nfagent.manifests.document_parser import LocatedDocument
from nfagent.manifests.list_items import is_container, is_list
from nfagent.manifests.parser_process import LARGEST_OBJECT, ObjectTooLarge, ParserError, file_entries
from nfagent.model.gvk import Item
from nfagent.model.objects import ObjectRef

_READABLE = 10**18
"""Larger numbers are not shown in messages."""

_FIELDS = ("apiVersion", "kind", "metadata", "spec", "status", "data", "binaryData", "immutable")
_METADATA = (
    *("name", "generateName", "namespace", "labels", "annotations", "ownerReferences", "finalizers", "uid"),
    *("resourceVersion", "generation", "creationTimestamp", "deletionTimestamp", "deletionGracePeriodSeconds"),
    *("managedFields", "selfLink", "clusterName"),
)
"""Source: ObjectMeta of Kubernetes 1.34; clusterName was part of it in earlier versions."""
_KNOWN_FIELDS, _KNOWN_METADATA = frozenset(_FIELDS), frozenset(_METADATA)


class FileContent(msgspec.Struct, frozen=True):
    """The decoded content of a file.

    items:          objects by name, each with the line where its document starts
    refused:        objects that fail the API's validation, or have an unknown kind or apiVersion, each with its issue;
                    their last good version stays in force
    unknown_fields: objects with an unknown top-level or metadata field, each with its issue; their last good version
                    stays in force, and without one the object as it was decoded
    unnamed:        it is unknown which object a document is about: no object of the last good content is removed
    ignored:        kinds that nfagent doesn't read
    problems:       all issues of the file
    """

    items: dict[ObjectRef, tuple[Item, int]]
    refused: dict[ObjectRef, ValidationIssue] = {}
    unknown_fields: dict[ObjectRef, ValidationIssue] = {}
    unnamed: bool = False
    ignored: frozenset[str] = frozenset()
    problems: tuple[ValidationIssue, ...] = ()

    @property
    def rejected(self) -> frozenset[ObjectRef]:
        """Objects whose last good version stays in force."""
        return frozenset(self.refused)


def read_documents(name: str, text: str) -> FileContent | ValidationIssue:
    """Decode a file; an issue where it doesn't parse as a whole: its last good content stays in force. Never raises."""
    try:
        return _collect(name, file_entries(name, text))
    except ParserError as error:
        return error.problem


def _collect(name: str, entries: Iterable[LocatedDocument]) -> FileContent:
    items: dict[ObjectRef, tuple[Item, int]] = {}
    refused: dict[ObjectRef, ValidationIssue] = {}
    unknown_fields: dict[ObjectRef, ValidationIssue] = {}
    unnamed = False
    ignored: set[str] = set()
    problems: list[ValidationIssue] = []
    for line, found in entries:
        place = f"{name}:{line}"
        try:
            item = _decode_large(found) if isinstance(found, ObjectTooLarge) else _read(found)
        except ObjectError as error:
            problem = msgspec.structs.replace(error.problem, place=place)
            problems.append(problem)
            about = found.named if isinstance(found, ObjectTooLarge) else found
            named = possible_refs(about) if isinstance(about, dict) and not is_container(about) else frozenset()
            refused |= dict.fromkeys(named, problem)
            unnamed |= not named
            continue
        if isinstance(item, str):
            ignored.add(item)
            continue
        unknown = _unknown_field(found)
        if item is None:
            # An object that isn't used, unless its namespace is misspelt.
            if unknown is not None and _namespace_may_be_misspelt(found):
                problems.append(msgspec.structs.replace(unknown, place=place))
                unnamed = True
            continue
        if item.ref in items:
            before = items[item.ref][1]
            reason = f"is in this file twice, at lines {before} and {line}; the first is used, delete one"
            problems.append(ValidationIssue(place=place, object=str(item.ref), reason=reason))
            continue
        items[item.ref] = (item, line)
        problems += [msgspec.structs.replace(issue, place=place) for issue in item.problems]
        if unknown is not None:
            reported = next((issue for issue in item.problems if issue.field == unknown.field), None)
            unknown_fields[item.ref] = msgspec.structs.replace(reported or unknown, place=place)
            problems += [] if reported else [unknown_fields[item.ref]]
            unnamed |= _namespace_may_be_misspelt(found)
    refused = {ref: problem for ref, problem in refused.items() if ref not in items}
    return FileContent(items, refused, unknown_fields, unnamed, frozenset(ignored), tuple(problems))


def _read(found: object) -> Item | str | None:
    """Decode a document; its apiVersion and kind where nfagent doesn't read them, None for an object that isn't used.

    Raises ObjectError.
    """
    document = _named(found)
    if isinstance(document, ValidationIssue):
        raise ObjectError(document)
    decode = find_decoder(document)
    return f"{document['apiVersion']} {document['kind']}" if decode is None else decode(document)


def _decode_large(found: ObjectTooLarge) -> str:
    """Return apiVersion and kind where nfagent doesn't read them. Raises ObjectError, as the object is too large."""
    document = _named(found.named)
    if isinstance(document, ValidationIssue):
        raise ObjectError(document)
    if find_decoder(document) is None:
        return f"{document['apiVersion']} {document['kind']}"
    owner = next(iter(possible_refs(document)), document["kind"])
    reason = f"is larger than {LARGEST_OBJECT >> 20} MiB as JSON ({found.size >> 20} MiB); an API server takes 1.5 MiB"
    raise ObjectError(ValidationIssue(object=str(owner), reason=reason))


def _unknown_field(found: object) -> ValidationIssue | None:
    """Return the issue of an unknown top-level or metadata field: `sepc` for `spec` makes a policy without rules."""
    if not isinstance(found, dict):
        return None
    metadata = found.get("metadata")
    if isinstance(metadata, dict) and found.keys() <= _KNOWN_FIELDS and metadata.keys() <= _KNOWN_METADATA:
        return None  # the common case: a folder may have 150,000 documents
    top = document_field(found)
    try:
        known_fields(top, *_FIELDS)
        known_fields(top / "metadata", *_METADATA)
    except ObjectError as error:
        return error.problem
    return None


def _namespace_may_be_misspelt(found: object) -> bool:
    """Return whether the unknown field may be a misspelt namespace."""
    if not isinstance(found, dict) or found["kind"] in CLUSTER_SCOPED:
        return False
    return found["metadata"].get("namespace") is None


def _named(document: object) -> dict[str, Any] | ValidationIssue:
    """Return a document whose apiVersion, kind, namespace and name are valid, or the issue."""
    if not isinstance(document, dict) or not all(isinstance(document.get(key), str) for key in ("apiVersion", "kind")):
        return ValidationIssue(reason="is not a Kubernetes object; write apiVersion and kind")
    kind = document["kind"]
    if is_list(document):
        return ValidationIssue(
            object=kind, reason="is a list inside a list, which is not read; put its items into the outer one"
        )
    if is_container(document):
        wrong = "is missing" if document.get("items") is None else "is not a list"
        return ValidationIssue(object=kind, field="items", reason=f"{wrong}; write the objects there, each behind `- `")
    metadata = document.get("metadata")
    wrong_name = _wrong_name(kind, metadata) if isinstance(metadata, dict) else None  # else the decoders report it
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
