"""Decodes the JSON of one object from the API server.

Pods, of which there are many, are decoded from the bytes by a schema. A Pod that the schema doesn't accept, and every
other kind, is decoded field by field, by the same decoders as manifests.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import msgspec

from nfagent.decode.fast_pod import decode_pod_event, decode_pod_json
from nfagent.decode.registry import DECODERS, object_ref
from nfagent.errors import ObjectError, ValidationIssue
from nfagent.model.gvk import Item, Resource
from nfagent.model.objects import ObjectRef


class DecodedObject(msgspec.Struct, frozen=True, gc=False):
    """A decoded object.

    version:  metadata.resourceVersion, '' without one
    item:     the object; None if it can't be decoded (its last good version stays), or isn't one that nfagent reads
    problems: invalid fields; the object is then decoded in part, or, for a policy, fails closed
    """

    ref: ObjectRef
    version: str = ""
    item: Item | None = None
    problems: tuple[ValidationIssue, ...] = ()


ObjectDecoder = Callable[[bytes | msgspec.Raw], DecodedObject | ValidationIssue]
"""Decodes one object; returns a ValidationIssue without a valid name. Never raises."""

EventDecoder = Callable[[bytes], tuple[str, DecodedObject] | None]
"""Decodes type and object of a watch event; returns None if the event must be decoded in two steps."""


def event_decoder(resource: Resource) -> EventDecoder:
    """Return the decoder of a resource's watch events in one step; only Pods have one, which parses the bytes once."""
    return _pod_event if resource.kind == "Pod" else _two_steps


def _pod_event(line: bytes) -> tuple[str, DecodedObject] | None:
    quick = decode_pod_event(line)
    return None if quick is None else (quick[0], DecodedObject(quick[1].ref, quick[2], quick[1]))


def _two_steps(_line: bytes) -> None:
    return None


def object_decoder(resource: Resource) -> ObjectDecoder:
    """Return the decoder of a resource's objects."""
    careful = _careful_reader(resource)
    return _pod_reader(careful) if resource.kind == "Pod" else careful


def _pod_reader(careful: ObjectDecoder) -> ObjectDecoder:
    def read(raw: bytes | msgspec.Raw) -> DecodedObject | ValidationIssue:
        quick = decode_pod_json(raw)
        return careful(raw) if quick is None else DecodedObject(quick[0].ref, quick[1], quick[0])

    return read


def _careful_reader(resource: Resource) -> ObjectDecoder:
    decode = DECODERS[resource.api_version, resource.kind]

    def read(raw: bytes | msgspec.Raw) -> DecodedObject | ValidationIssue:
        document = _document(raw, resource)
        if document is None:
            return ValidationIssue(
                object=resource.kind, reason="is not a JSON object; the API server sent something else"
            )
        ref = object_ref(document)
        if ref is None:
            return ValidationIssue(
                object=resource.kind, field="metadata.name", reason="is missing, so the object is unknown"
            )
        version = _version(document)
        try:
            item = decode(document)
        except ObjectError as error:
            return DecodedObject(ref, version, None, (error.problem,))
        return DecodedObject(ref, version, item, item.problems if item is not None else ())

    return read


def _document(raw: bytes | msgspec.Raw, resource: Resource) -> dict[str, Any] | None:
    """Parse an object; the entries of a list response have no apiVersion and kind."""
    try:
        document = msgspec.json.decode(raw)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return None
    if not isinstance(document, dict):
        return None
    return {**document, "apiVersion": resource.api_version, "kind": resource.kind}


def _version(document: dict[str, Any]) -> str:
    # `object_ref` has checked that metadata is a mapping.
    version = document["metadata"].get("resourceVersion")
    return version if isinstance(version, str) else ""
