"""The checkpoint format: which objects are kept for the next start, and how they are encoded.

Without a checkpoint, an agent that starts and can't decode an object would drop the rules that it enforced before. So
every object that can cause a rule is kept as it was last decoded. The model is kept, not the document: it has only what
rules need, and a later version of nfagent that rejects the document still knows what was in force.
"""

from __future__ import annotations

import zlib
from typing import Any

import msgspec

from nfagent.checkpoint.struct_codec import build
from nfagent.errors import DecodeError, ValidationIssue
from nfagent.model.admin_policy import SHORT_KINDS, TierPolicy
from nfagent.model.egress_nat import EgressNATPolicy, NetworkGatewayGroup
from nfagent.model.gvk import Item
from nfagent.model.ip_masq import IpMasqConfig
from nfagent.model.networkpolicy import NetworkPolicy
from nfagent.model.objects import Namespace, NetworkLogging, Node, ObjectRef, Pod, ServiceCIDR
from nfagent.model.services import Service

FORMAT = 1
"""Incremented when lines of an older version would be decoded with another meaning."""

_KINDS: dict[str, type[Any]] = {
    "Namespace": Namespace,
    "Node": Node,
    "Pod": Pod,
    "ServiceCIDR": ServiceCIDR,
    "NetworkLogging": NetworkLogging,
    "NetworkPolicy": NetworkPolicy,
    "ConfigMap": IpMasqConfig,
    "EgressNATPolicy": EgressNATPolicy,
    "NetworkGatewayGroup": NetworkGatewayGroup,
    **dict.fromkeys(SHORT_KINDS, TierPolicy),
}
_CHECKSUM_LENGTH = 8


class CheckpointedObject(msgspec.Struct, frozen=True):
    """An object as it was last decoded.

    file: the manifest that contains it; '' for an object of the API server
    """

    item: Item
    file: str = ""


class CheckpointHeader(msgspec.Struct, frozen=True):
    """The first line: the node, and the API server or folder that the objects come from."""

    node: str
    source: str
    format: int = FORMAT


_GONE = msgspec.Raw(b"null")


class _Record(msgspec.Struct):
    """One object; `item` is null where it was removed."""

    kind: str
    namespace: str
    name: str
    file: str = ""
    item: msgspec.Raw = _GONE


_RECORD = msgspec.json.Decoder(_Record)
_HEADER = msgspec.json.Decoder(CheckpointHeader)
_UNREADABLE = (msgspec.DecodeError, UnicodeDecodeError, RecursionError)


def is_kept(item: Item, node: str) -> bool:
    """Return whether an object is kept: it can cause a rule. Of Pods, only this node's are kept."""
    if isinstance(item, Pod):
        return item.node == node
    return not isinstance(item, Service)


def encode_header(header: CheckpointHeader) -> bytes:
    """Encode the first line."""
    return _line(msgspec.json.encode(header))


def encode_record(ref: ObjectRef, kept: CheckpointedObject | None) -> bytes:
    """Encode the line of an object; None for a removed one."""
    item = _GONE if kept is None else msgspec.Raw(msgspec.json.encode(kept.item))
    return _line(msgspec.json.encode(_Record(ref.kind, ref.namespace, ref.name, kept.file if kept else "", item)))


def decode_header(line: bytes) -> CheckpointHeader:
    """Decode the first line. Raises DecodeError."""
    try:
        header = _HEADER.decode(_payload(line))
    except _UNREADABLE as error:
        raise DecodeError(f"its first line can't be decoded: {error}") from None
    if header.format != FORMAT:
        raise DecodeError(f"it has format {header.format}, and this version of nfagent reads format {FORMAT}")
    return header


def decode_record(line: bytes) -> tuple[ObjectRef, CheckpointedObject | None]:
    """Decode the line of an object. Raises DecodeError."""
    try:
        record = _RECORD.decode(_payload(line))
        ref = ObjectRef(record.kind, record.namespace, record.name)
        return ref, None if record.item == _GONE else CheckpointedObject(_item(ref, record.item), record.file)
    except _UNREADABLE as error:
        raise DecodeError(f"line can't be decoded: {error}") from None


def with_in_force_note(problem: ValidationIssue, what: str = "its last good version") -> ValidationIssue:
    """Return an object's issue, with the remark that the last good version stays in force."""
    return msgspec.structs.replace(problem, reason=f"{problem.reason}; {what} stays in force")


def _item(ref: ObjectRef, raw: msgspec.Raw) -> Item:
    model = _KINDS.get(ref.kind)
    if model is None:
        raise DecodeError(f"{ref} is of a kind that is not kept")
    written = msgspec.json.decode(raw)
    item: Item = build(model, written)
    # A version that lacks a field must not enforce an object without it.
    again = msgspec.json.encode(item)
    if item.ref != ref or (again != bytes(raw) and not _holds(msgspec.json.decode(again), written)):
        raise DecodeError(f"{ref} was written by a version of nfagent with other fields")
    return item


def _holds(read: object, written: object) -> bool:
    """Return whether everything written was decoded; the decoded value may have more fields, with their defaults."""
    if isinstance(read, dict) and isinstance(written, dict):
        return all(key in read and _holds(read[key], value) for key, value in written.items())
    if isinstance(read, list) and isinstance(written, list):
        return len(read) == len(written) and all(map(_holds, read, written))
    return read == written


def _line(payload: bytes) -> bytes:
    return b"%08x %s\n" % (zlib.crc32(payload), payload)


def _payload(line: bytes) -> bytes:
    payload = line[_CHECKSUM_LENGTH + 1 :].rstrip(b"\n")
    if line[: _CHECKSUM_LENGTH + 1] != b"%08x " % zlib.crc32(payload):
        raise DecodeError("line is damaged: wrong checksum")
    return payload
