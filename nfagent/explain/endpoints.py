"""Parses the two ends of a connection.

An end is `NAMESPACE/POD`, an address, or a Service: `svc/NAMESPACE/NAME`. The destination may have a port:
`shop/db:5432/tcp`, `shop/db:postgres`, `10.0.0.7:53/udp`, `[2001:db8::7]:443`, `svc/shop/db:http`. Without a port, the
flow is ICMP echo. A Service's address with one of its ports, and a node's address with a node port, stand for the
Service; `packet:10.0.0.7:80/tcp` never does: it is the destination of a packet after DNAT.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Literal, TypeAlias, cast

import msgspec

from nfagent.errors import UsageError
from nfagent.model.netaddr import AddressError, canonical, family_of
from nfagent.model.objects import ContainerPort, ObjectRef, Protocol
from nfagent.model.services import Service, ServicePort
from nfagent.policy.evaluator import Flow
from nfagent.state.cluster import ClusterState
from nfagent.state.pod_lookup import find_pod, similar_names

ServiceAddressKind: TypeAlias = Literal["cluster", "external", "node", "name"]
"""The kind of address by which a client reaches a Service; `name`: it has no address."""

_END = re.compile(
    r"(?P<packet>packet:)?(?P<host>\[[^]]+\]|[^:\[\]]+|[0-9a-fA-F:.]*:[0-9a-fA-F:.]*:[0-9a-fA-F:.]*)"
    r"(:(?P<port>[^:/]+)(/(?P<protocol>\w+))?)?"
)
_SERVICE = "svc/"
_PROTOCOLS = ("tcp", "udp", "sctp")
_PORT_DIGITS = 5


class ServiceTarget(msgspec.Struct, frozen=True):
    """The Service that a client connects to.

    address_kind: the kind of address that it connects to
    node:         the node whose node port it is; '' for every other kind
    """

    service: Service
    port: ServicePort
    address_kind: ServiceAddressKind
    node: str = ""


class FlowQuery(msgspec.Struct, frozen=True):
    """A connection to explain.

    sources, destinations: addresses of the ends, in order of preference; a Service without an address has no
                           destination
    protocol:              '' for ICMP echo: the destination's family decides between icmp and icmpv6
    port:                  the destination port; None for ICMP echo
    target:                the Service that the destination stands for; None if there is none
    packet:                whether the destination was given as `packet:`
    """

    sources: tuple[str, ...]
    destinations: tuple[str, ...]
    protocol: str
    port: int | None
    target: ServiceTarget | None = None
    packet: bool = False

    def flow(self) -> Flow | None:
        """Return the flow of the first source and destination of one family; None if there is none."""
        for here in self.sources:
            for there in self.destinations:
                if family_of(here) == family_of(there):
                    echo = "icmpv6" if family_of(there) == 6 else "icmp"
                    return Flow(here, there, self.protocol or echo, self.port, self.packet and here == there)
        return None


class _End(msgspec.Struct, frozen=True):
    """One end as written: the text, and its parts."""

    text: str
    host: str
    port: str
    protocol: str
    packet: bool


def read_query(cluster: ClusterState, source: str, destination: str) -> FlowQuery:
    """Parse the two ends. Raises UsageError."""
    here, there = _split(source), _split(destination)
    if here.port:
        raise UsageError(
            f"{source!r}: a source has no port; write the port after the destination, as in shop/db:5432/tcp"
        )
    if here.packet or here.host.count("/") > 1:
        wrong = "packet: belongs before the destination" if here.packet else "a Service can't be the source"
        raise UsageError(f"{source!r}: {wrong}; write a Pod or an address as source")
    sources = _addresses(cluster, here.host)
    if there.host.startswith(_SERVICE) and there.host.count("/") == 2:
        return _to_service(cluster, sources, there)
    destinations = _addresses(cluster, there.host)
    target = None
    if not there.packet and not any(cluster.holder(address) for address in destinations):
        target = _service_target(cluster, destinations, there)
    if target is not None:
        port = target.port.node_port if target.address_kind == "node" else target.port.port
        return FlowQuery(sources, destinations, target.port.protocol, port, target)
    return _to_address(cluster, sources, destinations, there)


def describe_address(cluster: ClusterState, address: str) -> str:
    """Return an address with its Pod or node: `shop/web (10.0.0.1)`, `node a (192.168.0.1)`, or the address alone."""
    pod = cluster.holder(address)
    if pod is not None:
        return f"{pod.ref.path} ({address})"
    nodes = [node.name for node in cluster.nodes.values() if address in node.addresses]
    return f"node {nodes[0]} ({address})" if nodes else address


def _split(end: str) -> _End:
    found = _END.fullmatch(end)
    if found is None:
        raise UsageError(f"{end!r} is neither NAMESPACE/POD nor an address; write one like shop/web, 10.0.0.7:53/udp")
    host, protocol = cast("str", found["host"]).strip("[]"), (found["protocol"] or "").lower()
    if protocol in {"icmp", "icmpv6"}:
        raise UsageError(f"{end!r}: {protocol} has no port; omit the port to explain a ping")
    if protocol and protocol not in _PROTOCOLS:
        raise UsageError(f"{end!r}: {protocol} is not a protocol; write {', '.join(_PROTOCOLS[:-1])} or sctp")
    return _End(end, host, found["port"] or "", protocol, found["packet"] is not None)


def _addresses(cluster: ClusterState, host: str) -> tuple[str, ...]:
    if "/" not in host:
        try:
            return (canonical(host),)
        except AddressError as error:
            raise UsageError(
                f"{host!r} {error}; a Pod is written NAMESPACE/POD, a Service svc/NAMESPACE/NAME"
            ) from None
    pod = find_pod(cluster, host)
    if not pod.addresses:
        raise UsageError(f"Pod {host} has no address yet")
    if not (pod.holds_addresses or pod.host_network):
        raise UsageError(
            f"Pod {host} has ended ({pod.phase}): its addresses may belong to another Pod now; write the address"
        )
    return pod.addresses


def _number(end: _End) -> int | None:
    """Return a port that is a number; None if it is a name. Raises UsageError."""
    if not end.port.isdecimal():
        return None
    if len(end.port) <= _PORT_DIGITS and 1 <= int(end.port) <= 65535:
        return int(end.port)
    raise UsageError(f"{end.text!r}: {end.port} is not a port number; write 1 to 65535")


def _to_address(cluster: ClusterState, sources: tuple[str, ...], destinations: tuple[str, ...], end: _End) -> FlowQuery:
    if not end.port:
        return FlowQuery(sources, destinations, "", None, packet=end.packet)
    number = _number(end)
    if number is not None:
        return FlowQuery(sources, destinations, end.protocol or "tcp", number, packet=end.packet)
    pod = cluster.holder(destinations[0])
    declared: tuple[ContainerPort, ...] = pod.ports if pod is not None else ()
    for known in declared:
        if known.name == end.port and end.protocol in {"", known.protocol}:
            return FlowQuery(sources, destinations, known.protocol, known.port, packet=end.packet)
    has = f", which has {', '.join(f'{known.name}/{known.protocol}' for known in declared)}" if declared else ""
    whose = describe_address(cluster, destinations[0])
    raise UsageError(f"{end.text!r}: {_spelt(end)} is neither a port number nor the name of a port of {whose}{has}")


def _spelt(end: _End) -> str:
    return f"{end.port}/{end.protocol}" if end.protocol else end.port


def _to_service(cluster: ClusterState, sources: tuple[str, ...], end: _End) -> FlowQuery:
    _, namespace, name = end.host.split("/")
    service = cluster.services.get(ObjectRef("Service", namespace, name))
    if service is None:
        here = (ref.name for ref in cluster.services if ref.namespace == namespace)
        near = similar_names(here, namespace, name, (ref.namespace for ref in cluster.services if ref.name == name))
        raise UsageError(f"there is no Service {namespace}/{name}{f'; did you mean {near}?' if near else ''}")
    _check_known(service)
    number = _number(end) if end.port else None
    if service.headless and number is not None:
        # Its name resolves to the Pods' addresses: the client's port is not translated.
        port: ServicePort | None = ServicePort(number, number, cast("Protocol", end.protocol or "tcp"))
    elif end.port:
        port = _port_of((service,), end)
    else:
        port = service.ports[0] if len(service.ports) == 1 else None
    if port is None:
        raise _no_port(f"{end.text!r}: Service {service.ref.path}", (service,), end)
    destinations = service.cluster_addresses or service.external_addresses
    kind: ServiceAddressKind = "cluster" if service.cluster_addresses else "external" if destinations else "name"
    return FlowQuery(sources, destinations, port.protocol, port.port, ServiceTarget(service, port, kind))


def _service_target(cluster: ClusterState, destinations: tuple[str, ...], end: _End) -> ServiceTarget | None:
    """Return the Service that an address and a port belong to; None if there is none."""
    for address in destinations:
        services = cluster.service_index.by_address.get(address, ())
        port = _port_of(services, end) if end.port else None
        nodes = [node for node in cluster.nodes.values() if address in node.addresses]
        if port is not None:
            service = next(known for known in services if port in known.ports)
            _check_known(service)
            return ServiceTarget(service, port, "cluster" if address in service.cluster_addresses else "external")
        if services and not nodes:
            raise _no_port(f"{end.text!r}: {address} is Service {services[0].ref.path}, which", services, end)
        number = _number(end) if end.port else None
        found = cluster.service_index.find_by_node_port(end.protocol or "tcp", number) if number is not None else None
        if nodes and found is not None:
            _check_known(found[0])
            return ServiceTarget(*found, "node", nodes[0].name)
    return None


def _port_of(services: Iterable[Service], end: _End) -> ServicePort | None:
    """Return the Service port that an end names: TCP's if several protocols have it."""
    number = _number(end)
    ports = [port for service in services for port in service.ports if end.protocol in {"", port.protocol}]
    found = [port for port in ports if (port.name == end.port if number is None else port.port == number)]
    return min(found, key=lambda port: _PROTOCOLS.index(port.protocol), default=None)


def _no_port(who: str, services: Iterable[Service], end: _End) -> UsageError:
    has = ", ".join(dict.fromkeys(str(port) for service in services for port in service.ports)) or "none at all"
    if end.port:
        return UsageError(f"{who} has no port {_spelt(end)}; it has {has}")
    return UsageError(f"{who} needs a port; write one of them after a colon: {has}")


def _check_known(service: Service) -> None:
    """Raise UsageError for a Service whose Pods the cluster state can't tell."""
    if service.external_name:
        raise UsageError(
            f"Service {service.ref.path} is an alias of {service.external_name}; write an address of that name"
        )
    if service.selector is None:
        raise UsageError(
            f"Service {service.ref.path} has no selector: its EndpointSlices are written by another "
            "program, and not read by nfagent; write the server's own address and port"
        )
