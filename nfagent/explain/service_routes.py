"""Where a connection goes: to the address that was called, or to the Pods behind a Service.

Policies at the client and at the server may see different ends. A node port of another node is an ordinary address
to the client's policies; and a node that passes a connection on to another node's Pod puts its own address into the
place of the client's, unless externalTrafficPolicy is Local (corner-cases.md 28 to 30; as kube-proxy does it).
"""

from __future__ import annotations

from collections.abc import Generator, Iterator

import msgspec

from nfagent.errors import UsageError
from nfagent.explain.endpoints import FlowQuery, ServiceTarget
from nfagent.model.netaddr import endpoint, family_of
from nfagent.model.objects import Pod
from nfagent.model.slices import in_order, result
from nfagent.policy.evaluator import Flow
from nfagent.state.cluster import ClusterState


class ServiceRoute(msgspec.Struct, frozen=True):
    """One way that a connection may take.

    leaving:  the flow as the client's policies see it
    arriving: the same as the server's policies see it
    """

    leaving: Flow
    arriving: Flow


class ServiceRoutes(msgspec.Struct, frozen=True):
    """All ways that it may take: one, or one for each Pod behind a Service.

    flow:  what the client calls; None where a Service has no address
    lines: what is to be said about the Service
    """

    flow: Flow | None
    routes: tuple[ServiceRoute, ...]
    lines: tuple[str, ...] = ()


def find_routes(cluster: ClusterState, question: FlowQuery) -> ServiceRoutes:
    """Find where a connection goes. Raises UsageError where the ends have no address of one family."""
    return result(finding(cluster, question))


def finding(cluster: ClusterState, question: FlowQuery) -> Generator[None, None, ServiceRoutes]:
    """Do the same in steps, of one Pod each. Raises UsageError."""
    flow = question.flow()
    if flow is None and question.destinations:
        ends = " and ".join(", ".join(end) for end in (question.sources, question.destinations))
        raise UsageError(f"{ends} have no address of one family")
    if question.called is None:
        return ServiceRoutes(flow, () if flow is None else (ServiceRoute(flow, flow),))
    clients = question.sources if flow is None else (flow.source,)
    passages = [_Passage(cluster, question.called, client, flow) for client in clients]
    for passage in passages:
        yield from passage.find()
    chosen = next((passage for passage in passages if passage.routes), passages[0])
    return ServiceRoutes(flow, chosen.routes, (chosen.headline(), *chosen.remarks()))


class _Passage:
    """The way of one client's connections through a Service.

    entry: the node that translates the Service's address; '' where that isn't known
    """

    def __init__(self, cluster: ClusterState, called: ServiceTarget, client: str, flow: Flow | None) -> None:
        self._cluster = cluster
        self._called = called
        self._client = client
        self._flow = flow
        self._family = family_of(client)
        self._home = self._node_of(client)
        self._entry = called.node or self._home
        self._external = called.way in {"external", "node"}
        policy = called.service.external if self._external else called.service.internal
        self._local = policy == "Local" and not called.service.headless
        self._masked = self._external and not self._local
        self._selected: list[Pod] = []
        self.routes: tuple[ServiceRoute, ...] = ()

    def find(self) -> Iterator[None]:
        """Find the Pods behind the Service, and the ways to them: before anything else is asked."""
        pods = self._cluster.selected_pods(self._called.service)
        for pod in in_order((pod for pod in pods if pod.runs), lambda pod: (pod.namespace, pod.name)):
            yield
            if pod is not None:
                self._selected.append(pod)
        routes = []
        for pod in self._eligible():
            yield
            server = self._server(pod)
            if server is not None:
                routes.append(self._route(pod, *server))
        self.routes = tuple(routes)

    def _node_of(self, address: str) -> str:
        """Name the node where an address is; '' outside the cluster."""
        pod = self._cluster.holder(address)
        if pod is not None:
            return pod.node
        return next((node.name for node in self._cluster.nodes.values() if address in node.addresses), "")

    @property
    def _kept(self) -> bool:
        """Whether only Pods on the node that translates take part; its own clients reach all by external addresses."""
        return self._local and bool(self._entry) and not (self._external and self._home == self._entry)

    def _eligible(self) -> list[Pod]:
        """Give the Pods that traffic policies leave."""
        return [pod for pod in self._selected if pod.node == self._entry] if self._kept else self._selected

    def _server(self, pod: Pod) -> tuple[str, int] | None:
        """Give a Pod's address and port; None where it has none of this family, or no port of that name."""
        address = next((known for known in pod.addresses if family_of(known) == self._family), None)
        port = self._called.port.on(pod)
        return (address, port) if address is not None and port is not None else None

    def _route(self, pod: Pod, address: str, port: int) -> ServiceRoute:
        protocol = self._called.port.protocol
        translated = not self._called.service.headless
        direct = Flow(self._client, address, protocol, port, translated)
        leaving = self._flow if self._flow is not None and self._called.node not in {"", self._home} else direct
        seen = self._seen_by(pod)
        return ServiceRoute(
            leaving, direct if seen == self._client else Flow(seen, address, protocol, port, translated)
        )

    def _seen_by(self, pod: Pod) -> str:
        """Give the address that a Pod sees: the client's, or that of the node that passes the connection on."""
        node = self._cluster.nodes.get(self._entry)
        if not self._masked or node is None or pod.node == self._entry:
            return self._client
        return next((known for known in node.addresses if family_of(known) == self._family), self._client)

    def headline(self) -> str:
        """Say which Service it is, and how many Pods stand behind it."""
        called, service = self._called, self._called.service
        what = f"Service {service.ref.path}"
        what += f", port {called.port.name}" if called.port.name else ""
        what += f", on node {called.node}" if called.node else ""
        if self._flow is not None:
            what = f"{endpoint(self._flow.destination, self._flow.port)}/{called.port.protocol} is {what}"
        count = len(self.routes)
        if not count:
            return f"{what}: no Pod serves it, as {self._lacking()}"
        who = "its only Pod" if count == 1 else f"one of {count} Pods"
        return f"{what}: it goes to {who}{', by the address of the Pod itself' if service.headless else ''}"

    def remarks(self) -> list[str]:
        """Say what traffic policies make of it: who takes part, and which address a Pod sees."""
        said = []
        field = f"{'external' if self._external else 'internal'}TrafficPolicy"
        if self._kept:
            seen = ", which see the client's own address" if self._external else ""
            said.append(f"{field} is Local: only to Pods on node {self._entry}{seen}")
        if self._cluster.holder(self._client) and any(route.leaving == self._flow for route in self.routes):
            said.append(f"node {self._entry} translates it: the client's own policies see the node's address and port")
        masks = {route.arriving.source for route in self.routes} - {self._client}
        if masks:
            said.append(f"{field} is Cluster: Pods on other nodes see node {self._entry}'s address, {masks.pop()}")
        elif self._masked and not self._entry and self.routes:
            said.append(
                f"{field} is Cluster: judged as from the client, but Pods on other nodes see the node that takes it in"
            )
        return said

    def _lacking(self) -> str:
        """Say why no Pod stands behind the Service."""
        service, port = self._called.service, self._called.port
        wanted = set(service.selector or ())
        labels = ",".join(f"{key}={value}" for key, value in service.selector or ())
        known = self._cluster.by_namespace.get(service.namespace, ())
        if not any(wanted <= set(identity.labels) for identity in known):
            return f"no Pod in namespace {service.namespace} has the labels {labels}"
        if not self._selected:
            return f"no Pod with the labels {labels} is running and has an address"
        near = self._eligible()
        if not near:
            policy = "externalTrafficPolicy" if self._external else "internalTrafficPolicy"
            return f"none of its Pods is on node {self._entry}, and {policy} is Local"
        if all(port.on(pod) is None for pod in near):
            return f"none of its Pods has a {port.protocol} port of the name {port.target}"
        return f"none of its Pods has an IPv{self._family} address"
