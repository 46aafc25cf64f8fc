"""One object's JSON to what nfagent reads of it.

Pods, of which there are many, are read by a schema straight from the bytes; where that finds something to look at, and
for every other kind, the whole document is read, field by field, by the decoder that manifests have too.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import msgspec

from nfagent.decode.fast_pod import quick_pod_event, quick_pod_json
from nfagent.decode.registry import DECODERS, reference
from nfagent.errors import ObjectError, ValidationIssue
from nfagent.model.gvk import Item, Resource
from nfagent.model.objects import ObjectRef


class DecodedObject(msgspec.Struct, frozen=True, gc=False):
    """What an object's JSON holds.

    version:  its metadata.resourceVersion, '' where it has none
    item:     the object; None where it can't be read (its last good version holds then), or is none of ours
    problems: what is wrong with it, for people; an item that can be read in part has some, a policy then fails closed
    """

    ref: ObjectRef
    version: str = ""
    item: Item | None = None
    problems: tuple[ValidationIssue, ...] = ()


Reader = Callable[[bytes | msgspec.Raw], DecodedObject | ValidationIssue]
"""Reads one object; a Problem where not even its name can be read. Never raises."""


EventReader = Callable[[bytes], tuple[str, DecodedObject] | None]
"""Reads a watch event together with its object: its type, and the object; None where it takes two steps."""


def event_reader(resource: Resource) -> EventReader:
    """Give what reads a resource's events at one go: of Pods, whose bytes are looked through once instead of twice."""
    return _pod_event if resource.kind == "Pod" else _two_steps


def _pod_event(line: bytes) -> tuple[str, DecodedObject] | None:
    quick = quick_pod_event(line)
    return None if quick is None else (quick[0], DecodedObject(quick[1].ref, quick[2], quick[1]))


def _two_steps(_line: bytes) -> None:
    return None


def reader(resource: Resource) -> Reader:
    """Give what reads the objects of a resource."""
    careful = _careful_reader(resource)
    return _pod_reader(careful) if resource.kind == "Pod" else careful


def _pod_reader(careful: Reader) -> Reader:
    def read(raw: bytes | msgspec.Raw) -> DecodedObject | ValidationIssue:
        quick = quick_pod_json(raw)
        return careful(raw) if quick is None else DecodedObject(quick[0].ref, quick[1], quick[0])

    return read


def _careful_reader(resource: Resource) -> Reader:
    decode = DECODERS[resource.api_version, resource.kind]

    def read(raw: bytes | msgspec.Raw) -> DecodedObject | ValidationIssue:
        document = _document(raw, resource)
        if document is None:
            return ValidationIssue(
                object=resource.kind, reason="is not a JSON object; the API server sent something else"
            )
        ref = reference(document)
        if ref is None:
            return ValidationIssue(
                object=resource.kind, field="metadata.name", reason="is missing, so nobody knows which it is"
            )
        version = _version(document)
        try:
            item = decode(document)
        except ObjectError as error:
            return DecodedObject(ref, version, None, (error.problem,))
        return DecodedObject(ref, version, item, item.problems if item is not None else ())

    return read


def _document(raw: bytes | msgspec.Raw, resource: Resource) -> dict[str, Any] | None:
    """Parse; entries of a list may leave their kind out."""
    try:
        document = msgspec.json.decode(raw)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return None
    if not isinstance(document, dict):
        return None
    return {**document, "apiVersion": resource.api_version, "kind": resource.kind}


def _version(document: dict[str, Any]) -> str:
    # `reference` found metadata to be a mapping.
    version = document["metadata"].get("resourceVersion")
    return version if isinstance(version, str) else ""
