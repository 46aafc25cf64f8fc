"""Decodes a Pod by a schema, in a tenth of the time of decoding field by field.

Most documents are valid. For a document that the schema or a check doesn't accept, the functions here return None,
never an error: `core` then decodes it field by field, with error messages. For any other document both return the same
Pod (a property test checks it).

In JSON, the parts that Pods of a ReplicaSet have in common (labels, ports, owner) are kept as bytes and looked up in
caches: they are decoded once, and all these Pods share one value.
"""

from __future__ import annotations

import sys
from collections.abc import Iterable
from functools import lru_cache
from typing import Any, Literal, TypeAlias

import msgspec

from nfagent.decode.fields import DNS_LABEL, DNS_SUBDOMAIN, LABEL_MAX, SUBDOMAIN_MAX, DocumentField
from nfagent.errors import ObjectError
from nfagent.model.netaddr import AddressError, canonical
from nfagent.model.objects import ContainerPort, Labels, Pod, Protocol
from nfagent.model.weighted_cache import WeightedCache

WatchEventType: TypeAlias = Literal["ADDED", "MODIFIED", "DELETED"]
"""The type of a watch event with an object."""

_Ports: TypeAlias = tuple[ContainerPort, ...]
_Owner: TypeAlias = tuple[str, str]
"""Kind and name; empty without an owner."""

_PROTOCOLS: dict[str, Protocol] = {"TCP": "tcp", "UDP": "udp", "SCTP": "sctp"}
_PORT_MAX = 65535
_REMEMBERED_BYTES = 256 * 1024
"""Limit of each cache by JSON: enough for a thousand ReplicaSets, whose Pods are adjacent in a list."""
_REMEMBERED = 2_048
"""Entries of each cache of small values: names of Namespaces, named ports."""

_ENTRY_BYTES = 100
"""Weight of an entry in addition to its text."""

_ABSENT = msgspec.Raw(b"null")
_UNREADABLE = (msgspec.DecodeError, UnicodeDecodeError, RecursionError)


class _Reference(msgspec.Struct, gc=False):
    kind: str | None = None
    name: str | None = None
    controller: bool | None = None


class _Port(msgspec.Struct, gc=False):
    containerPort: int  # noqa: N815 - the API's name
    name: str | None = None
    protocol: str | None = None


class _Address(msgspec.Struct, gc=False):
    ip: str


class _Status(msgspec.Struct, gc=False):
    phase: str | None = None
    podIPs: list[_Address] | None = None  # noqa: N815 - the API's name
    podIP: str | None = None  # noqa: N815 - the API's name


class _Metadata(msgspec.Struct, gc=False):
    name: str
    namespace: str
    labels: dict[str, str] | None = None
    ownerReferences: list[_Reference] | None = None  # noqa: N815 - the API's name
    deletionTimestamp: str | None = None  # noqa: N815 - the API's name


class _Container(msgspec.Struct, gc=False):
    ports: list[_Port] | None = None
    restartPolicy: str | None = None  # noqa: N815 - the API's name


class _Spec(msgspec.Struct, gc=False):
    nodeName: str | None = None  # noqa: N815 - the API's name
    hostNetwork: bool | None = None  # noqa: N815 - the API's name
    containers: list[_Container] | None = None
    initContainers: list[_Container] | None = None  # noqa: N815 - the API's name


class _Document(msgspec.Struct, gc=False):
    """A Pod that is parsed already."""

    metadata: _Metadata
    spec: _Spec
    status: _Status


class _WrittenMetadata(msgspec.Struct, gc=False):
    name: str
    namespace: str
    resourceVersion: str = ""  # noqa: N815 - the API's name
    labels: msgspec.Raw = _ABSENT
    ownerReferences: msgspec.Raw = _ABSENT  # noqa: N815 - the API's name
    deletionTimestamp: str | None = None  # noqa: N815 - the API's name


class _WrittenContainer(msgspec.Struct, gc=False):
    ports: msgspec.Raw = _ABSENT
    restartPolicy: str | None = None  # noqa: N815 - the API's name


class _WrittenSpec(msgspec.Struct, gc=False):
    nodeName: str | None = None  # noqa: N815 - the API's name
    hostNetwork: bool | None = None  # noqa: N815 - the API's name
    containers: list[_WrittenContainer] | None = None
    initContainers: list[_WrittenContainer] | None = None  # noqa: N815 - the API's name


class _Written(msgspec.Struct, gc=False):
    """A Pod as JSON."""

    metadata: _WrittenMetadata
    spec: _WrittenSpec
    status: _Status


class _WrittenEvent(msgspec.Struct, gc=False):
    type: WatchEventType
    object: _Written


_POD = msgspec.json.Decoder(_Written)
_EVENT = msgspec.json.Decoder(_WrittenEvent)
_LABELS = msgspec.json.Decoder(dict[str, str] | None)
_REFERENCES = msgspec.json.Decoder(list[_Reference] | None)
_PORTS = msgspec.json.Decoder(list[_Port] | None)


def decode_pod_fast(document: dict[str, Any]) -> Pod | None:
    """Read a v1 Pod; None if it must be decoded field by field."""
    try:
        read = msgspec.convert(document, _Document)
    except (msgspec.ValidationError, UnicodeError, RecursionError):
        return None
    metadata, spec = read.metadata, read.spec
    labels = _parsed_labels(tuple(sorted((metadata.labels or {}).items())))
    containers = [
        *(spec.containers or ()),
        *(one for one in spec.initContainers or () if one.restartPolicy == "Always"),
    ]
    ports = _joined([_ports(container.ports or ()) for container in containers])
    return _pod(metadata, spec, read.status, labels, ports, _owner(metadata.ownerReferences or ()))


def decode_pod_json(document: bytes | msgspec.Raw) -> tuple[Pod, str] | None:
    """Read a v1 Pod's JSON, and its metadata.resourceVersion; None if it must be decoded field by field."""
    try:
        read = _POD.decode(document)
    except _UNREADABLE:
        return None
    pod = _written(read)
    return None if pod is None else (pod, read.metadata.resourceVersion)


def decode_pod_event(line: bytes) -> tuple[WatchEventType, Pod, str] | None:
    """Decode a watch event of a v1 Pod in one step, and its metadata.resourceVersion; None for any other event."""
    try:
        read = _EVENT.decode(line)
    except _UNREADABLE:
        return None
    pod = _written(read.object)
    return None if pod is None else (read.type, pod, read.object.metadata.resourceVersion)


def _written(read: _Written) -> Pod | None:
    metadata, spec = read.metadata, read.spec
    labels = _written_labels(bytes(metadata.labels))
    owner = _written_owner(bytes(metadata.ownerReferences))
    containers = spec.containers or []
    if spec.initContainers:
        containers = [*containers, *(one for one in spec.initContainers if one.restartPolicy == "Always")]
    ports = _joined([_written_ports(bytes(container.ports)) for container in containers])
    return None if owner is None else _pod(metadata, spec, read.status, labels, ports, owner)


def _pod(  # noqa: PLR0917 - the parts of a Pod
    metadata: _Metadata | _WrittenMetadata,
    spec: _Spec | _WrittenSpec,
    status: _Status,
    labels: Labels | None,
    ports: _Ports | None,
    owner: _Owner,
) -> Pod | None:
    name, namespace, addresses = metadata.name, _namespace(metadata.namespace), _addresses(status)
    if labels is None or ports is None or addresses is None or namespace is None:
        return None
    if len(name) > SUBDOMAIN_MAX or not DNS_SUBDOMAIN.match(name):
        return None
    kind, owner_name = owner
    return Pod(
        namespace=namespace,
        name=name,
        labels=labels,
        node=sys.intern(spec.nodeName or ""),
        addresses=addresses,
        host_network=bool(spec.hostNetwork),
        phase=sys.intern(status.phase if status.phase is not None else "Pending"),
        ports=ports,
        workload_kind=kind or "Pod",
        workload_name=owner_name or sys.intern(name),
        deleting=bool(metadata.deletionTimestamp),
    )


@lru_cache(maxsize=_REMEMBERED)
def _namespace(name: str) -> str | None:
    return sys.intern(name) if len(name) <= LABEL_MAX and DNS_LABEL.match(name) else None


def _labels(given: dict[str, str]) -> Labels | None:
    """Check labels, and return the tuple that all Pods with these labels share."""
    try:
        read = DocumentField("", "", given).labels()
    except ObjectError:
        return None
    return tuple((sys.intern(key), sys.intern(value)) for key, value in read)


def _labels_of_pairs(pairs: Labels) -> Labels | None:
    return _labels(dict(pairs))


def _labels_of_json(json: bytes) -> Labels | None:
    try:
        return _labels(_LABELS.decode(json) or {})
    except _UNREADABLE:
        return None


def _weight(json: bytes, _read: object) -> int:
    return len(json) + _ENTRY_BYTES


def _weight_of_pairs(pairs: Labels, _read: object) -> int:
    return sum(len(key) + len(value) + _ENTRY_BYTES for key, value in pairs)


_written_labels = WeightedCache(_labels_of_json, _weight, _REMEMBERED_BYTES)
_parsed_labels = WeightedCache(_labels_of_pairs, _weight_of_pairs, _REMEMBERED_BYTES)


def _owner(references: Iterable[_Reference]) -> _Owner:
    for reference in references:
        if reference.controller:
            return sys.intern(reference.kind or ""), sys.intern(reference.name or "")
    return "", ""


def _owner_of_json(json: bytes) -> _Owner | None:
    try:
        return _owner(_REFERENCES.decode(json) or ())
    except _UNREADABLE:
        return None


_written_owner = WeightedCache(_owner_of_json, _weight, _REMEMBERED_BYTES)


def _ports(ports: Iterable[_Port]) -> _Ports | None:
    """Return a container's named ports."""
    found = []
    for port in ports:
        if not port.name:
            continue
        protocol = _PROTOCOLS.get("TCP" if port.protocol is None else port.protocol)
        if protocol is None or not 1 <= port.containerPort <= _PORT_MAX:
            return None
        found.append(_port(port.name, port.containerPort, protocol))
    return _shared_ports(tuple(found))


def _ports_of_json(json: bytes) -> _Ports | None:
    try:
        return _ports(_PORTS.decode(json) or ())
    except _UNREADABLE:
        return None


_written_ports = WeightedCache(_ports_of_json, _weight, _REMEMBERED_BYTES)


def _joined(containers: list[_Ports | None]) -> _Ports | None:
    """Return all containers' ports together; None if those of one are None."""
    if len(containers) == 1:
        return containers[0]
    found: list[ContainerPort] = []
    for ports in containers:
        if ports is None:
            return None
        found += ports
    return _shared_ports(tuple(found))


@lru_cache(maxsize=_REMEMBERED)
def _port(name: str, port: int, protocol: Protocol) -> ContainerPort:
    return ContainerPort(sys.intern(name), port, protocol)


def _same_ports(ports: _Ports) -> _Ports:
    return ports


def _weight_of_ports(ports: _Ports, _same: object) -> int:
    return (len(ports) + 1) * _ENTRY_BYTES


_shared_ports = WeightedCache(_same_ports, _weight_of_ports, _REMEMBERED_BYTES)


def _addresses(status: _Status) -> tuple[str, ...] | None:
    given = [entry.ip for entry in status.podIPs or ()]
    if not given and status.podIP:
        given = [status.podIP]
    try:
        found = [canonical(address) for address in given]
    except AddressError:
        return None
    return tuple(dict.fromkeys(found)) if len(found) > 1 else tuple(found)
