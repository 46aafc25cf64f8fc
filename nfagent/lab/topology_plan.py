"""What a lab consists of, as plain values: nodes, Pods and hosts outside the cluster.

Addresses are canonical text, one per family in any order; a family that a plan leaves out isn't there at all.
Nodes and hosts outside share one link, so their addresses need no common prefix; all nodes are joined in the same way.
"""

from __future__ import annotations

import ipaddress
import itertools
from collections.abc import Iterable, Sequence
from typing import Literal, TypeAlias

import msgspec

from nfagent.errors import UsageError

Attachment: TypeAlias = Literal["routed", "bridge"]
"""How a node's Pods hang on it: a /32 route to each (as Calico, GKE), or one bridge for all (as kubenet)."""

Underlay: TypeAlias = Literal["flat", "vlan", "vxlan"]
"""How nodes are joined.

flat:  their addresses are on the link itself, and each routes the others' Pod ranges to them
vlan:  the same inside one tagged VLAN (IEEE 802.1Q) of the link; hosts outside are in it too
vxlan: their addresses are on the link; what Pods of two nodes send each other goes in UDP from node to node (RFC 7348),
       and what a node itself sends to another's Pods has the first address of its Pod range as source (as flannel)
"""

LINK_MTU = 1500
# Of an inner packet on the link: IP, UDP and VXLAN headers, and the inner frame's own head.
_VXLAN_BYTES = {4: 20 + 8 + 8 + 14, 6: 40 + 8 + 8 + 14}


class NodePlan(msgspec.Struct, frozen=True):
    """A node: its name, addresses on the nodes' network, Pod ranges (CIDRs), how Pods hang on it, how it is joined.

    gateways: the node's own addresses on its Pods' bridge; of a range without one it is the second address
    """

    name: str
    addresses: tuple[str, ...]
    pod_cidrs: tuple[str, ...]
    attachment: Attachment = "routed"
    underlay: Underlay = "flat"
    gateways: tuple[str, ...] = ()

    @property
    def pod_mtu(self) -> int:
        """Give the largest packet, in bytes, that its Pods can send to Pods of other nodes whole."""
        if self.underlay != "vxlan":
            return LINK_MTU
        return LINK_MTU - max(_VXLAN_BYTES[6 if ":" in cidr else 4] for cidr in self.pod_cidrs)

    def pod_cidr_of(self, address: str) -> str | None:
        """Give the Pod range that an address lies in."""
        parsed = ipaddress.ip_address(address)
        return next((cidr for cidr in self.pod_cidrs if parsed in ipaddress.ip_network(cidr)), None)

    def gateway_of(self, cidr: str) -> str:
        """Give the node's own address in a Pod range, where Pods share a bridge."""
        return address_of(self.gateways, cidr) or gateway(cidr)


class PodPlan(msgspec.Struct, frozen=True):
    """A Pod: its namespace, name, node, and addresses out of the node's Pod ranges."""

    namespace: str
    name: str
    node: str
    addresses: tuple[str, ...]

    @property
    def key(self) -> tuple[str, str]:
        """What tells it from every other Pod: namespace and name."""
        return (self.namespace, self.name)


class OutsideHost(msgspec.Struct, frozen=True):
    """A host that is no part of the cluster, on the nodes' network.

    routes_to_pods: whether its answers to an unmasqueraded Pod address find the way back
    """

    name: str
    addresses: tuple[str, ...]
    routes_to_pods: bool = True


def grid(
    attachment: Attachment = "routed", nodes: int = 2, underlay: Underlay = "flat"
) -> tuple[tuple[NodePlan, ...], tuple[PodPlan, ...], tuple[OutsideHost, ...]]:
    """Plan the nine Pods of Kubernetes' own policy tests, and a host outside: namespaces x, y, z with a, b, c each.

    Nodes n1, n2, ... take the Pods in turn. Dual-stack: node n1 is 192.0.2.1 and 2001:db8:ffff::1, its Pods are in
    10.244.1.0/24 and 2001:db8:244:1::/64; the host outside is 192.0.2.100 and 2001:db8:ffff::100.
    """
    node_plans = tuple(
        NodePlan(
            f"n{number}",
            (f"192.0.2.{number}", f"2001:db8:ffff::{number:x}"),
            (f"10.244.{number}.0/24", f"2001:db8:244:{number:x}::/64"),
            attachment,
            underlay,
        )
        for number in range(1, nodes + 1)
    )
    pods = tuple(
        PodPlan(namespace, name, f"n{number}", (f"10.244.{number}.{last}", f"2001:db8:244:{number:x}::{last:x}"))
        for last, (namespace, name) in enumerate(itertools.product("xyz", "abc"), start=10)
        for number in (last % nodes + 1,)
    )
    return node_plans, pods, (OutsideHost("outside", ("192.0.2.100", "2001:db8:ffff::100")),)


def gateway(cidr: str) -> str:
    """Give the second address of a Pod range: the node's own, where Pods share a bridge."""
    return str(ipaddress.ip_network(cidr)[1])


def tunnel_address(cidr: str) -> str:
    """Give the first address of a Pod range: the node's own, where nodes are joined by vxlan."""
    return str(ipaddress.ip_network(cidr)[0])


def address_of(addresses: Iterable[str], like: str) -> str | None:
    """Give the first address of the same family as `like`, an address or a CIDR."""
    return next((address for address in addresses if (":" in address) == (":" in like)), None)


def check(nodes: Sequence[NodePlan], pods: Sequence[PodPlan], outside: Sequence[OutsideHost]) -> None:
    """Refuse a plan that can't be built: a name or an address twice, a Pod without its node or outside its ranges.

    Raises UsageError; also for nodes that are joined in different ways.
    """
    _once("node", (node.name for node in nodes))
    _once("Pod", ("/".join(pod.key) for pod in pods))
    _once("host", (host.name for host in outside))
    plans: tuple[NodePlan | PodPlan | OutsideHost, ...] = (*nodes, *pods, *outside)
    for plan in plans:
        if not plan.addresses:
            raise UsageError(f"{plan.name!r} has no address in the lab's plan: give it at least one")
    _once("address", (address for plan in plans for address in plan.addresses))
    _check_underlays(nodes)
    by_name = {node.name: node for node in nodes}
    for pod in pods:
        if pod.node not in by_name:
            raise UsageError(f"Pod {pod.namespace}/{pod.name}: no node {pod.node!r} in this lab: add a NodePlan for it")
        _check_addresses(pod, by_name[pod.node])


def _check_underlays(nodes: Sequence[NodePlan]) -> None:
    underlays = sorted({node.underlay for node in nodes})
    if len(underlays) > 1:
        raise UsageError(f"nodes are joined by {' and '.join(underlays)} in the lab's plan: give all the same underlay")
    for node in nodes:
        if node.underlay == "vxlan" and not node.pod_cidrs:
            raise UsageError(f"node {node.name!r} has no Pod range in the lab's plan: vxlan takes its address from one")


def _check_addresses(pod: PodPlan, node: NodePlan) -> None:
    for address in pod.addresses:
        cidr = node.pod_cidr_of(address)
        if cidr is None:
            ranges = ", ".join(node.pod_cidrs)
            raise UsageError(f"Pod {pod.namespace}/{pod.name}: {address} isn't in node {node.name}'s ranges: {ranges}")
        if node.attachment == "bridge" and address == node.gateway_of(cidr):
            raise UsageError(f"Pod {pod.namespace}/{pod.name}: {address} is the bridge's own: take a later address")
        if node.underlay == "vxlan" and address == tunnel_address(cidr):
            raise UsageError(f"Pod {pod.namespace}/{pod.name}: {address} is the tunnel's own: take a later address")


def _once(what: str, names: Iterable[str]) -> None:
    seen: set[str] = set()
    for name in names:
        if name in seen:
            raise UsageError(f"{what} {name!r} is in the lab's plan twice: give each its own")
        seen.add(name)
