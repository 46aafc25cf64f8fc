"""The quick way to read a Pod: the fields that we read, by a schema, in a tenth of the time.

Most documents are right. What the schema or a look at a value doesn't take at once is left to `decode`, which
reads field by field and knows how to complain: `quick_pod` gives None, never an error, and where it gives a
Pod, `decode` would give the same (a property test says so).
"""

from __future__ import annotations

import sys
from functools import lru_cache
from typing import Any

import msgspec

from nfagent.cluster.address import AddressError, canonical
from nfagent.cluster.fields import DNS_LABEL, DNS_SUBDOMAIN, LABEL_MAX, SUBDOMAIN_MAX, Field
from nfagent.cluster.model import ContainerPort, Labels, Pod, Protocol
from nfagent.errors import ObjectError

_PROTOCOLS: dict[str, Protocol] = {"TCP": "tcp", "UDP": "udp", "SCTP": "sctp"}
_PORT_MAX = 65535


class _Owner(msgspec.Struct, gc=False):
    kind: str | None = None
    name: str | None = None
    controller: bool | None = None


class _Metadata(msgspec.Struct, gc=False):
    name: str
    namespace: str
    resourceVersion: str = ""  # noqa: N815 - the API's name
    labels: dict[str, str] | None = None
    ownerReferences: list[_Owner] | None = None  # noqa: N815 - the API's name


class _Port(msgspec.Struct, gc=False):
    containerPort: int  # noqa: N815 - the API's name
    name: str | None = None
    protocol: str | None = None


class _Container(msgspec.Struct, gc=False):
    ports: list[_Port] | None = None
    restartPolicy: str | None = None  # noqa: N815 - the API's name


class _Spec(msgspec.Struct, gc=False):
    nodeName: str | None = None  # noqa: N815 - the API's name
    hostNetwork: bool | None = None  # noqa: N815 - the API's name
    containers: list[_Container] | None = None
    initContainers: list[_Container] | None = None  # noqa: N815 - the API's name


class _Address(msgspec.Struct, gc=False):
    ip: str


class _Status(msgspec.Struct, gc=False):
    phase: str | None = None
    podIPs: list[_Address] | None = None  # noqa: N815 - the API's name
    podIP: str | None = None  # noqa: N815 - the API's name


class _Document(msgspec.Struct, gc=False):
    metadata: _Metadata
    spec: _Spec
    status: _Status


_JSON = msgspec.json.Decoder(_Document)


def quick_pod(document: dict[str, Any]) -> Pod | None:
    """Read a v1 Pod; None where it takes a closer look."""
    try:
        return _pod(msgspec.convert(document, _Document))
    except (msgspec.ValidationError, RecursionError):
        return None


def quick_pod_json(document: bytes | msgspec.Raw) -> tuple[Pod, str] | None:
    """Read a v1 Pod's JSON, and its metadata.resourceVersion; None where it takes a closer look."""
    try:
        read = _JSON.decode(document)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return None
    pod = _pod(read)
    return None if pod is None else (pod, read.metadata.resourceVersion)


def _pod(read: _Document) -> Pod | None:
    metadata, spec, status = read.metadata, read.spec, read.status
    labels = _labels(tuple(sorted((metadata.labels or {}).items())))
    ports = _ports(spec)
    addresses = _addresses(status)
    if labels is None or ports is None or addresses is None or not _named(metadata):
        return None
    kind, owner = "Pod", metadata.name
    for reference in metadata.ownerReferences or ():
        if reference.controller:
            kind, owner = reference.kind or kind, reference.name or owner
            break
    return Pod(
        namespace=sys.intern(metadata.namespace),
        name=metadata.name,
        labels=labels,
        node=sys.intern(spec.nodeName or ""),
        addresses=addresses,
        host_network=bool(spec.hostNetwork),
        phase=sys.intern(status.phase if status.phase is not None else "Pending"),
        ports=ports,
        workload_kind=sys.intern(kind),
        workload_name=sys.intern(owner),
    )


def _named(metadata: _Metadata) -> bool:
    name, namespace = metadata.name, metadata.namespace
    return bool(
        len(namespace) <= LABEL_MAX
        and DNS_LABEL.match(namespace)
        and len(name) <= SUBDOMAIN_MAX
        and DNS_SUBDOMAIN.match(name)
    )


@lru_cache(maxsize=65_536)
def _labels(pairs: Labels) -> Labels | None:
    """Check label pairs, and give the one tuple that all Pods with these labels share."""
    try:
        read = Field("", "", dict(pairs)).labels()
    except ObjectError:
        return None
    return tuple((sys.intern(key), sys.intern(value)) for key, value in read)


def _ports(spec: _Spec) -> tuple[ContainerPort, ...] | None:
    containers = spec.containers or []
    if spec.initContainers:
        containers = [*containers, *(item for item in spec.initContainers if item.restartPolicy == "Always")]
    found = []
    for container in containers:
        for port in container.ports or ():
            if not port.name:
                continue
            protocol = _PROTOCOLS.get("TCP" if port.protocol is None else port.protocol)
            if protocol is None or not 1 <= port.containerPort <= _PORT_MAX:
                return None
            found.append(_port(port.name, port.containerPort, protocol))
    return _shared_ports(tuple(found))


@lru_cache(maxsize=65_536)
def _port(name: str, port: int, protocol: Protocol) -> ContainerPort:
    return ContainerPort(sys.intern(name), port, protocol)


@lru_cache(maxsize=65_536)
def _shared_ports(ports: tuple[ContainerPort, ...]) -> tuple[ContainerPort, ...]:
    return ports


def _addresses(status: _Status) -> tuple[str, ...] | None:
    given = [entry.ip for entry in status.podIPs or ()]
    if not given and status.podIP:
        given = [status.podIP]
    found = []
    for address in given:
        try:
            found.append(canonical(address))
        except AddressError:
            return None
    return tuple(dict.fromkeys(found))
