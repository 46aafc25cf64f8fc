"""A cluster of two nodes, `a` and `b`, from documents in shorthand; checks flows with ruleset and evaluator at once."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

from nfagent.decode.admin_policy import decode_admin_policy, decode_baseline_policy, decode_cluster_policy
from nfagent.decode.core import (
    decode_namespace,
    decode_network_logging,
    decode_node,
    decode_pod,
    decode_service_cidr,
)
from nfagent.decode.egress_nat import decode_egress_policy, decode_gateway_group
from nfagent.decode.ip_masq import decode_ip_masq
from nfagent.decode.networkpolicy import decode_network_policy
from nfagent.decode.services import decode_service
from nfagent.desired.state import DesiredState
from nfagent.egress.masquerade import MasqueradeSettings
from nfagent.model.gvk import Item
from nfagent.model.netaddr import family_of
from nfagent.policy.evaluator import Flow, evaluate
from nfagent.policy.options import PolicyOptions
from nfagent.state.cluster import ClusterState
from tests.support.nft_interpreter import HookName, PacketResult, opening, run, seen_at

Document = dict[str, Any]

NODES = ("a", "b")
NODE_ADDRESSES = {"a": ("192.168.0.1", "fd00::1"), "b": ("192.168.0.2", "fd00::2")}
OUTSIDE = ("203.0.113.7", "2606:4700::1")

DECODERS: dict[str, Callable[[Document], Item | None]] = {
    "Namespace": decode_namespace,
    "Node": decode_node,
    "Pod": decode_pod,
    "Service": decode_service,
    "ServiceCIDR": decode_service_cidr,
    "NetworkPolicy": decode_network_policy,
    "AdminNetworkPolicy": decode_admin_policy,
    "BaselineAdminNetworkPolicy": decode_baseline_policy,
    "ClusterNetworkPolicy": decode_cluster_policy,
    "ConfigMap": decode_ip_masq,
    "EgressNATPolicy": decode_egress_policy,
    "NetworkGatewayGroup": decode_gateway_group,
    "NetworkLogging": decode_network_logging,
}


def decoded(document: Document) -> Item:
    """Return the object of a document, which has one."""
    item = DECODERS[document["kind"]](document)
    assert item is not None
    return item


def namespace(name: str, **labels: str) -> Document:
    return {"kind": "Namespace", "metadata": {"name": name, "labels": labels}}


def node(name: str) -> Document:
    addresses = [{"type": "InternalIP", "address": address} for address in NODE_ADDRESSES[name]]
    third = NODES.index(name)
    cidrs = [f"10.64.{third}.0/24", f"2001:db8:0:{name}::/64"]
    return {
        "kind": "Node",
        "metadata": {"name": name},
        "spec": {"podCIDRs": cidrs},
        "status": {"addresses": addresses},
    }


def port(number: int, name: str, protocol: str = "TCP") -> Document:
    return {"containerPort": number, "name": name, "protocol": protocol}


def pod(path: str, node: str, number: int, ports: tuple[Document, ...] = (), **labels: str) -> Document:
    """Describe a running Pod with both addresses: 10.64.0.NUMBER and 2001:db8:0:a::NUMBER on node a."""
    space, _, name = path.partition("/")
    addresses = [f"10.64.{NODES.index(node)}.{number}", f"2001:db8:0:{node}::{number}"]
    return {
        "kind": "Pod",
        "metadata": {"namespace": space, "name": name, "labels": labels},
        "spec": {"nodeName": node, "containers": [{"name": "main", "ports": list(ports)}]},
        "status": {"phase": "Running", "podIPs": [{"ip": address} for address in addresses]},
    }


def policy(path: str, pods: Document | None = None, **spec: Any) -> Document:  # noqa: ANN401 - a document's own fields
    """Describe a NetworkPolicy; `types` is policyTypes, and is left out where it isn't given."""
    space, _, name = path.partition("/")
    if "types" in spec:
        spec["policyTypes"] = spec.pop("types")
    return {
        "kind": "NetworkPolicy",
        "metadata": {"namespace": space, "name": name},
        "spec": {"podSelector": pods or {}, **spec},
    }


def service(path: str, selector: dict[str, str] | None = None, **spec: Any) -> Document:  # noqa: ANN401 - as above
    """Describe a Service; its one port is 80/tcp where `ports` aren't given."""
    space, _, name = path.partition("/")
    described = {"ports": [{"name": "http", "port": 80}], **spec}
    if selector is not None:
        described["selector"] = selector
    return {"kind": "Service", "metadata": {"namespace": space, "name": name}, "spec": described}


def tier_policy(kind: str, name: str, subject: Document, **spec: Any) -> Document:  # noqa: ANN401 - as above
    """Describe a policy of the tiers: an AdminNetworkPolicy, BaselineAdminNetworkPolicy or ClusterNetworkPolicy."""
    return {"kind": kind, "metadata": {"name": name}, "spec": {"subject": subject, **spec}}


def labelled(**labels: str) -> Document:
    return {"matchLabels": labels}


def hops(flow: Flow, cluster: ClusterState) -> Iterator[tuple[str, HookName]]:
    """Return the nodes that a flow passes, and the hook that sees it there."""
    owners = {address: found.name for found in cluster.nodes.values() for address in found.addresses}
    places = []
    for address in (flow.source, flow.destination):
        holder = cluster.holder(address)
        places.append(holder.node if holder is not None else owners.get(address))
    source, destination = places
    if source is not None:
        ends_here = source == destination and flow.destination in owners
        yield source, "output" if flow.source in owners else "input" if ends_here else "forward"
    if destination is not None and destination != source:
        yield destination, "input" if flow.destination in owners else "forward"


class TwoNodeCluster:
    """Both nodes' views of the same objects."""

    def __init__(
        self,
        *documents: Document,
        masquerade: MasqueradeSettings | None = None,
        policy_options: PolicyOptions | None = None,
    ) -> None:
        self.views = {name: DesiredState(name, masquerade, policy_options=policy_options) for name in NODES}
        for document in (*map(node, NODES), *documents):
            self.put(document)

    def put(self, document: Document) -> None:
        item = decoded(document)
        for view in self.views.values():
            view.put(item)

    def address(self, end: str, family: int = 4) -> str:
        """Return the address of `namespace/pod`, of node `a` or `b`, or of `outside`; an address is itself."""
        if end in NODE_ADDRESSES or end == "outside":
            return (NODE_ADDRESSES | {"outside": OUTSIDE})[end][family == 6]
        if "/" not in end:
            return end
        space, _, name = end.partition("/")
        held = self.views["a"].cluster.pods[space, name].addresses
        return next(address for address in held if family_of(address) == family)

    def flow(self, source: str, destination: str, port: str, family: int = 4) -> Flow:
        """Make a flow; `port` is written 80/tcp, or icmp."""
        number, slash, protocol = port.rpartition("/")
        ends = self.address(source, family), self.address(destination, family)
        return Flow(*ends, protocol, int(number) if slash else None)

    def results(self, flow: Flow) -> list[PacketResult]:
        """Return the result of a flow's first packet at every node on its path."""
        return [
            run(self.views[name].ruleset(), hook, seen_at(hook, opening(flow)))
            for name, hook in hops(flow, self.views["a"].cluster)
        ]

    def passes(self, source: str, destination: str, port: str, family: int = 4) -> bool:
        """Return the verdict; ruleset and evaluator must agree."""
        flow = self.flow(source, destination, port, family)
        view = self.views["a"]
        evaluated = evaluate(view.cluster, view.index.policies.values(), flow, view.policy_options).allowed
        assert all(result.accepted for result in self.results(flow)) == evaluated, (
            f"ruleset and evaluator differ on {flow}"
        )
        return evaluated

    def translates(self, source: str, destination: str, port: str = "80/tcp", family: int = 4) -> bool:
        """Return whether a node on the path masquerades the source."""
        return any(result.translated for result in self.results(self.flow(source, destination, port, family)))
