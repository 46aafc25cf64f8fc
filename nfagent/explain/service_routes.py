"""The flows that a connection may become: one to an address, or one to each Pod behind a Service.

The client's and the server's policies may see different addresses. To the client's policies, a node port of another
node is an ordinary address; and a node that forwards a connection to a Pod of another node replaces the client's
address with its own, unless externalTrafficPolicy is Local (as kube-proxy does; docs/semantics.md, edge cases 28-30).
"""

from __future__ import annotations

from collections.abc import Generator, Iterator

import msgspec

from nfagent.errors import UsageError
from nfagent.explain.endpoints import FlowQuery, ServiceTarget
from nfagent.model.netaddr import endpoint, family_of
from nfagent.model.objects import Pod
from nfagent.model.slices import run_to_end, sort_in_slices
from nfagent.policy.evaluator import Flow
from nfagent.state.cluster import ClusterState


class ServiceRoute(msgspec.Struct, frozen=True):
    """One flow that a connection may become.

    leaving:  the flow as the client's policies see it
    arriving: the flow as the server's policies see it
    """

    leaving: Flow
    arriving: Flow


class ServiceRoutes(msgspec.Struct, frozen=True):
    """All flows that a connection may become: one, or one for each Pod behind a Service.

    flow:  the flow that the client starts; None for a Service without an address
    lines: remarks about the Service
    """

    flow: Flow | None
    routes: tuple[ServiceRoute, ...]
    lines: tuple[str, ...] = ()


def find_routes(cluster: ClusterState, query: FlowQuery) -> ServiceRoutes:
    """Return the flows of a connection. Raises UsageError if the ends have no address of one family."""
    return run_to_end(find_routes_in_steps(cluster, query))


def find_routes_in_steps(cluster: ClusterState, query: FlowQuery) -> Generator[None, None, ServiceRoutes]:
    """Return the same as `find_routes`, in steps of one Pod. Raises UsageError."""
    flow = query.flow()
    if flow is None and query.destinations:
        ends = " and ".join(", ".join(end) for end in (query.sources, query.destinations))
        raise UsageError(f"{ends} have no address of one family")
    if query.target is None:
        return ServiceRoutes(flow, () if flow is None else (ServiceRoute(flow, flow),))
    clients = query.sources if flow is None else (flow.source,)
    paths = [_ServicePath(cluster, query.target, client, flow) for client in clients]
    for path in paths:
        yield from path.find()
    chosen = next((path for path in paths if path.routes), paths[0])
    return ServiceRoutes(flow, chosen.routes, (chosen.headline(), *chosen.remarks()))


class _ServicePath:
    """The routes of one client's connections to a Service.

    _entry: the node that translates the Service's address; '' if it is unknown
    """

    def __init__(self, cluster: ClusterState, target: ServiceTarget, client: str, flow: Flow | None) -> None:
        self._cluster = cluster
        self._target = target
        self._client = client
        self._flow = flow
        self._family = family_of(client)
        self._client_node = self._node_of(client)
        self._entry = target.node or self._client_node
        self._external = target.address_kind in {"external", "node"}
        policy = target.service.external if self._external else target.service.internal
        self._local = policy == "Local" and not target.service.headless
        self._masqueraded = self._external and not self._local
        self._selected: list[Pod] = []
        self.routes: tuple[ServiceRoute, ...] = ()

    def find(self) -> Iterator[None]:
        """Find the Pods behind the Service, and the route to each: call it first."""
        pods = self._cluster.selected_pods(self._target.service)
        for pod in sort_in_slices((pod for pod in pods if pod.runs), lambda pod: (pod.namespace, pod.name)):
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
        """Return the node of an address; '' outside the cluster."""
        pod = self._cluster.holder(address)
        if pod is not None:
            return pod.node
        return next((node.name for node in self._cluster.nodes.values() if address in node.addresses), "")

    @property
    def _local_only(self) -> bool:
        """Whether only Pods on the entry node get traffic; its own clients reach all Pods by external addresses."""
        return self._local and bool(self._entry) and not (self._external and self._client_node == self._entry)

    def _eligible(self) -> list[Pod]:
        """Return the Pods that the traffic policy allows."""
        return [pod for pod in self._selected if pod.node == self._entry] if self._local_only else self._selected

    def _server(self, pod: Pod) -> tuple[str, int] | None:
        """Return a Pod's address and port; None if it has no address of the family, or no port of that name."""
        address = next((known for known in pod.addresses if family_of(known) == self._family), None)
        port = self._target.port.on(pod)
        return (address, port) if address is not None and port is not None else None

    def _route(self, pod: Pod, address: str, port: int) -> ServiceRoute:
        protocol = self._target.port.protocol
        translated = not self._target.service.headless
        direct = Flow(self._client, address, protocol, port, translated)
        leaving = self._flow if self._flow is not None and self._target.node not in {"", self._client_node} else direct
        seen = self._seen_by(pod)
        return ServiceRoute(
            leaving, direct if seen == self._client else Flow(seen, address, protocol, port, translated)
        )

    def _seen_by(self, pod: Pod) -> str:
        """Return the source address that a Pod sees: the client's, or that of the node that forwards the connection."""
        node = self._cluster.nodes.get(self._entry)
        if not self._masqueraded or node is None or pod.node == self._entry:
            return self._client
        return next((known for known in node.addresses if family_of(known) == self._family), self._client)

    def headline(self) -> str:
        """Return the line about the Service and the number of its Pods."""
        target, service = self._target, self._target.service
        what = f"Service {service.ref.path}"
        what += f", port {target.port.name}" if target.port.name else ""
        what += f", on node {target.node}" if target.node else ""
        if self._flow is not None:
            what = f"{endpoint(self._flow.destination, self._flow.port)}/{target.port.protocol} is {what}"
        count = len(self.routes)
        if not count:
            return f"{what}: no Pod serves it, as {self._why_no_pods()}"
        who = "its only Pod" if count == 1 else f"one of {count} Pods"
        return f"{what}: it goes to {who}{', by the address of the Pod itself' if service.headless else ''}"

    def remarks(self) -> list[str]:
        """Return the lines about the traffic policy: which Pods get traffic, and which address they see."""
        lines = []
        field = f"{'external' if self._external else 'internal'}TrafficPolicy"
        if self._local_only:
            seen = ", which see the client's address" if self._external else ""
            lines.append(f"{field} is Local: only to Pods on node {self._entry}{seen}")
        if self._cluster.holder(self._client) and any(route.leaving == self._flow for route in self.routes):
            lines.append(f"node {self._entry} translates it: the client's policies see the node's address and port")
        masquerading = {route.arriving.source for route in self.routes} - {self._client}
        if masquerading:
            lines.append(
                f"{field} is Cluster: Pods on other nodes see node {self._entry}'s address, {masquerading.pop()}"
            )
        elif self._masqueraded and not self._entry and self.routes:
            lines.append(
                f"{field} is Cluster: evaluated with the client's address, but Pods on other nodes see the entry node's"
            )
        return lines

    def _why_no_pods(self) -> str:
        """Return why the Service has no Pods."""
        service, port = self._target.service, self._target.port
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
