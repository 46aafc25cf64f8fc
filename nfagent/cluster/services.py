"""Services: who stands behind an address that a client calls.

Policies judge connections after a Service's address was translated, so no Service ever changes a rule. They are read
for people's sake: who asks about `10.96.0.10:80` means the Pods behind it.
"""

from __future__ import annotations

from typing import Any, Literal, TypeAlias, TypeVar

import msgspec

from nfagent.cluster.decode import document_field, namespaced_name
from nfagent.cluster.field_errors import FieldErrors
from nfagent.cluster.fields import Field
from nfagent.cluster.model import Labels, Pod, Protocol, Ref
from nfagent.errors import Problem

_K = TypeVar("_K")

TrafficPolicy: TypeAlias = Literal["Cluster", "Local"]
"""All Pods behind the Service, or only those on the node that took the connection in."""

_TYPES = ("ClusterIP", "NodePort", "LoadBalancer", "ExternalName")
_HEADLESS = "None"


class ServicePort(msgspec.Struct, frozen=True, gc=False):
    """v1 ServicePort: the port that clients call, and the Pods' port that it stands for.

    name:      '' where the Service has only this one and didn't name it
    target:    the Pods' port; a name is each Pod's own container port of that name and protocol
    node_port: the port on every node's own addresses; 0 for none
    """

    port: int
    target: int | str
    protocol: Protocol = "tcp"
    name: str = ""
    node_port: int = 0

    def on(self, pod: Pod) -> int | None:
        """Give the port's number on a Pod; None where the Pod has no container port of its target's name."""
        if isinstance(self.target, int):
            return self.target
        wanted = (self.target, self.protocol)
        return next((known.port for known in pod.ports if (known.name, known.protocol) == wanted), None)

    def __str__(self) -> str:
        """Write it as `http (80/tcp)`, or `80/tcp` without a name."""
        spelt = f"{self.port}/{self.protocol}"
        return f"{self.name} ({spelt})" if self.name else spelt


class Service(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """v1 Service, with what tells where a connection to it goes.

    cluster_addresses:  spec.clusterIPs, canonical, in the API's order; none for a headless Service or an ExternalName,
                        nor in a file before the API server gave one
    external_addresses: spec.externalIPs, and those of status.loadBalancer.ingress that the nodes translate themselves
                        (ipMode isn't Proxy)
    headless:           spec.clusterIP is None: its name stands for the Pods' own addresses, which clients call
    selector:           the labels of the Pods behind it; None: it has none, others say who stands behind it
    external:           spec.externalTrafficPolicy: of connections to node ports and external addresses
    internal:           spec.internalTrafficPolicy: of connections to cluster addresses
    external_name:      spec.externalName: the Service is an alias for that name, and '' otherwise
    problems:           what is wrong with the object, for people; the rest of it holds
    """

    namespace: str
    name: str
    cluster_addresses: tuple[str, ...] = ()
    external_addresses: tuple[str, ...] = ()
    ports: tuple[ServicePort, ...] = ()
    headless: bool = False
    selector: Labels | None = None
    external: TrafficPolicy = "Cluster"
    internal: TrafficPolicy = "Cluster"
    external_name: str = ""
    problems: tuple[Problem, ...] = ()

    @property
    def ref(self) -> Ref:
        """Name this object."""
        return Ref("Service", self.namespace, self.name)

    @property
    def addresses(self) -> tuple[str, ...]:
        """Every address of its own that clients call: the cluster's first."""
        return tuple(dict.fromkeys((*self.cluster_addresses, *self.external_addresses)))


class ServiceIndex:
    """The Services, found by what clients call.

    services:     every Service of the cluster
    by_address:   an address -> the Services that have it: one, but for external addresses that several share
    by_node_port: (protocol, port) on every node -> the Services that have it: one, but while two change places
    """

    def __init__(self) -> None:
        """Start without Services."""
        self.services: dict[Ref, Service] = {}
        self.by_address: dict[str, tuple[Service, ...]] = {}
        self.by_node_port: dict[tuple[str, int], tuple[Service, ...]] = {}

    def put(self, service: Service) -> None:
        """Take in a Service, new or changed."""
        self.remove(service.ref)
        self.services[service.ref] = service
        for address in service.addresses:
            _file(self.by_address, address, service)
        for key in _node_ports(service):
            _file(self.by_node_port, key, service)

    def remove(self, ref: Ref) -> None:
        """Drop a Service; one that isn't there changes nothing."""
        service = self.services.pop(ref, None)
        if service is None:
            return
        for address in service.addresses:
            _unfile(self.by_address, address, ref)
        for key in _node_ports(service):
            _unfile(self.by_node_port, key, ref)

    def called_on_node(self, protocol: str, port: int) -> tuple[Service, ServicePort] | None:
        """Find whose node port a client calls on a node's own address; None where it is nobody's."""
        for service in self.by_node_port.get((protocol, port), ()):
            for known in service.ports:
                if (known.protocol, known.node_port) == (protocol, port):
                    return service, known
        return None


def _node_ports(service: Service) -> set[tuple[str, int]]:
    return {(port.protocol, port.node_port) for port in service.ports if port.node_port}


def _file(index: dict[_K, tuple[Service, ...]], key: _K, service: Service) -> None:
    index[key] = tuple(sorted((*index.get(key, ()), service), key=lambda known: known.ref))


def _unfile(index: dict[_K, tuple[Service, ...]], key: _K, ref: Ref) -> None:
    index[key] = tuple(known for known in index[key] if known.ref != ref)
    if not index[key]:
        del index[key]


def decode_service(document: dict[str, Any]) -> Service:
    """Read a v1 Service. Raises ObjectError where its name can't be read."""
    top = document_field(document)
    namespace, name = namespaced_name(top)
    errors = FieldErrors(top)
    kind = errors.read("spec.type", _type, "ClusterIP")
    ports = tuple(errors.entries("spec.ports", _port))
    if kind == "ExternalName":
        alias = errors.read("spec.externalName", Field.string, "")
        return Service(namespace=namespace, name=name, ports=ports, external_name=alias, problems=errors.problems)
    given = [address for address in errors.entries("spec.clusterIPs", _cluster_address) if address]
    if not given and (lone := errors.read("spec.clusterIP", _cluster_address, "")):
        given = [lone]
    headless = _HEADLESS in given
    external = [*errors.entries("spec.externalIPs", Field.address)]
    external += [address for address in errors.entries("status.loadBalancer.ingress", _balanced) if address]
    return Service(
        namespace=namespace,
        name=name,
        cluster_addresses=() if headless else tuple(dict.fromkeys(given)),
        external_addresses=tuple(dict.fromkeys(external)),
        ports=ports,
        headless=headless,
        selector=errors.labels("spec.selector") or None,
        external=errors.read("spec.externalTrafficPolicy", _traffic, "Cluster"),
        internal=errors.read("spec.internalTrafficPolicy", _traffic, "Cluster"),
        problems=errors.problems,
    )


def _type(field: Field) -> str:
    return _choice(field, "ClusterIP", _TYPES)


def _cluster_address(field: Field) -> str:
    """Read a cluster address; `None` of a headless Service, '' where there is none yet."""
    return field.address() if field.string() not in {"", _HEADLESS} else field.string()


def _port(field: Field) -> ServicePort:
    port = (field / "port").port_number()
    return ServicePort(
        port=port,
        target=_target(field / "targetPort") or port,
        protocol=(field / "protocol").protocol(),
        name=(field / "name").string(),
        node_port=_number(field / "nodePort"),
    )


def _target(field: Field) -> int | str:
    if isinstance(field.value, str):
        return field.port_name() if field.value else ""
    return _number(field)


def _number(field: Field) -> int:
    """Read a port number; 0 where it is missing, which the API writes as 0 too."""
    return 0 if field.missing or field.integer() == 0 else field.port_number()


def _balanced(entry: Field) -> str:
    """Read the address of a load balancer that sends packets on with the address in place (ipMode VIP, the default)."""
    address = entry / "ip"
    kept = (entry / "ipMode").string("VIP") != "Proxy"
    return address.address() if kept and address.string() else ""


def _traffic(field: Field) -> TrafficPolicy:
    return "Local" if _choice(field, "Cluster", ("Cluster", "Local")) == "Local" else "Cluster"


def _choice(field: Field, default: str, known: tuple[str, ...]) -> str:
    found = field.string() or default
    if found not in known:
        raise field.error(f"is not known here; write {', '.join(known[:-1])} or {known[-1]}")
    return found
