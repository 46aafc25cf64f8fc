"""The last good version of objects, as it is kept for the next start: which are kept, and how they are written.

An agent that starts and finds an object that it can't read would forget what it enforced a moment ago. So every
object that can be the cause of a rule is kept as it was last read. The model is kept, not the document: it has no
more of the object than rules need, and a later version of nfagent that refuses the document still knows what held.
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
"""Changes where what an older version wrote would be read as something else."""

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


class CheckpointedKind(msgspec.Struct, frozen=True):
    """An object as it was last read. file: the manifest that holds it, '' where it comes from the API server."""

    item: Item
    file: str = ""


class CheckpointHeader(msgspec.Struct, frozen=True):
    """Whose objects these are: the node, and the API server or the folder that they were read from."""

    node: str
    source: str
    format: int = FORMAT


_GONE = msgspec.Raw(b"null")


class _Record(msgspec.Struct):
    """One object; `item` is null where it is gone."""

    kind: str
    namespace: str
    name: str
    file: str = ""
    item: msgspec.Raw = _GONE


_RECORD = msgspec.json.Decoder(_Record)
_HEADER = msgspec.json.Decoder(CheckpointHeader)
_UNREADABLE = (msgspec.DecodeError, UnicodeDecodeError, RecursionError)


def is_kept(item: Item, node: str) -> bool:
    """Return whether an object is kept: it can be the cause of a rule, and of Pods only those of this node are."""
    if isinstance(item, Pod):
        return item.node == node
    return not isinstance(item, Service)


def encode_header(header: CheckpointHeader) -> bytes:
    """Encode the first line."""
    return _line(msgspec.json.encode(header))


def encode_record(ref: ObjectRef, kept: CheckpointedKind | None) -> bytes:
    """Encode the line of an object; None says that it is gone."""
    item = _GONE if kept is None else msgspec.Raw(msgspec.json.encode(kept.item))
    return _line(msgspec.json.encode(_Record(ref.kind, ref.namespace, ref.name, kept.file if kept else "", item)))


def decode_header(line: bytes) -> CheckpointHeader:
    """Read the first line. Raises DecodeError."""
    try:
        header = _HEADER.decode(_payload(line))
    except _UNREADABLE as error:
        raise DecodeError(f"its first line can't be read: {error}") from None
    if header.format != FORMAT:
        raise DecodeError(f"it has format {header.format}, and this version of nfagent reads {FORMAT}")
    return header


def decode_record(line: bytes) -> tuple[ObjectRef, CheckpointedKind | None]:
    """Read the line of an object. Raises DecodeError."""
    try:
        record = _RECORD.decode(_payload(line))
        ref = ObjectRef(record.kind, record.namespace, record.name)
        return ref, None if record.item == _GONE else CheckpointedKind(_item(ref, record.item), record.file)
    except _UNREADABLE as error:
        raise DecodeError(f"a line can't be read: {error}") from None


def still_in_force(problem: ValidationIssue, what: str = "its version of before") -> ValidationIssue:
    """Add to what is wrong with an object that what was read before holds."""
    return msgspec.structs.replace(problem, reason=f"{problem.reason}; {what} stays in force")


def _item(ref: ObjectRef, raw: msgspec.Raw) -> Item:
    model = _KINDS.get(ref.kind)
    if model is None:
        raise DecodeError(f"{ref} is of no kind that is kept")
    written = msgspec.json.decode(raw)
    item: Item = build(model, written)
    # A version that knows less must not enforce a part of what another one wrote.
    again = msgspec.json.encode(item)
    if item.ref != ref or (again != bytes(raw) and not _holds(msgspec.json.decode(again), written)):
        raise DecodeError(f"{ref} was written by a version of nfagent that means something else by it")
    return item


def _holds(read: object, written: object) -> bool:
    """Return whether all that was written was read; what was read may have further fields with their defaults."""
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
        raise DecodeError("a line is damaged: its checksum is another")
    return payload
