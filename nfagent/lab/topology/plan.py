"""The nodes, Pods and outside hosts of a lab, as plain values. Pure.

Addresses are canonical text, one per family in any order; a plan may leave a family out.
Nodes and outside hosts share one link, so their addresses need no common prefix; all nodes have the same underlay.
"""

from __future__ import annotations

import ipaddress
import itertools
from collections.abc import Iterable, Sequence
from typing import Literal, TypeAlias

import msgspec

from nfagent.errors import UsageError

Attachment: TypeAlias = Literal["routed", "bridge"]
"""How a node's Pods are attached: a /32 route to each (as Calico, GKE), or one bridge for all (as kubenet)."""

Underlay: TypeAlias = Literal["flat", "vlan", "vxlan"]
"""How nodes are connected.

flat:  their addresses are on the link itself, and each node routes the others' Pod ranges to them
vlan:  the same inside one tagged VLAN (IEEE 802.1Q) of the link; outside hosts are in it too
vxlan: their addresses are on the link; packets between Pods of two nodes are sent in UDP from node to node (RFC 7348),
       and packets of a node itself to another's Pods have the first address of its Pod range as source (as flannel)
"""

LINK_MTU = 1500
# The overhead of an inner packet on the link: IP, UDP and VXLAN headers, and the inner Ethernet header.
_VXLAN_BYTES = {4: 20 + 8 + 8 + 14, 6: 40 + 8 + 8 + 14}


class NodePlan(msgspec.Struct, frozen=True):
    """A node: its name, addresses on the nodes' network, Pod ranges (CIDRs), attachment of Pods, underlay.

    gateways: the node's own addresses on its Pods' bridge; the second address of a range without one
    """

    name: str
    addresses: tuple[str, ...]
    pod_cidrs: tuple[str, ...]
    attachment: Attachment = "routed"
    underlay: Underlay = "flat"
    gateways: tuple[str, ...] = ()

    @property
    def pod_mtu(self) -> int:
        """The largest packet, in bytes, that its Pods can send to Pods of other nodes without fragmentation."""
        if self.underlay != "vxlan":
            return LINK_MTU
        return LINK_MTU - max(_VXLAN_BYTES[6 if ":" in cidr else 4] for cidr in self.pod_cidrs)

    def pod_cidr_of(self, address: str) -> str | None:
        """Return the Pod range that an address lies in."""
        parsed = ipaddress.ip_address(address)
        return next((cidr for cidr in self.pod_cidrs if parsed in ipaddress.ip_network(cidr)), None)

    def gateway_of(self, cidr: str) -> str:
        """Return the node's own address in a Pod range, where Pods share a bridge."""
        return address_of(self.gateways, cidr) or gateway(cidr)


class PodPlan(msgspec.Struct, frozen=True):
    """A Pod: its namespace, name, node, and addresses out of the node's Pod ranges."""

    namespace: str
    name: str
    node: str
    addresses: tuple[str, ...]

    @property
    def key(self) -> tuple[str, str]:
        """Namespace and name."""
        return (self.namespace, self.name)


class OutsideHost(msgspec.Struct, frozen=True):
    """A host outside the cluster, on the nodes' network.

    routes_to_pods: whether it has routes to Pod addresses, for answers to connections that aren't masqueraded
    """

    name: str
    addresses: tuple[str, ...]
    routes_to_pods: bool = True


def grid(
    attachment: Attachment = "routed", nodes: int = 2, underlay: Underlay = "flat"
) -> tuple[tuple[NodePlan, ...], tuple[PodPlan, ...], tuple[OutsideHost, ...]]:
    """Return the nine Pods of Kubernetes' own policy tests, a to c in namespaces x to z, and an outside host.

    The Pods are assigned to nodes n1, n2, ... in turn. Dual-stack: node n1 is 192.0.2.1 and 2001:db8:ffff::1, its Pods
    are in 10.244.1.0/24 and 2001:db8:244:1::/64; the outside host is 192.0.2.100 and 2001:db8:ffff::100.
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
    """Return the second address of a Pod range: the node's own address, where Pods share a bridge."""
    return str(ipaddress.ip_network(cidr)[1])


def tunnel_address(cidr: str) -> str:
    """Return the first address of a Pod range: the node's own address with vxlan."""
    return str(ipaddress.ip_network(cidr)[0])


def address_of(addresses: Iterable[str], like: str) -> str | None:
    """Return the first address of the same family as `like`, an address or a CIDR."""
    return next((address for address in addresses if (":" in address) == (":" in like)), None)


def check(nodes: Sequence[NodePlan], pods: Sequence[PodPlan], outside: Sequence[OutsideHost]) -> None:
    """Check that a plan can be built.

    Raises UsageError for a duplicate name or address, a Pod without its node or outside the node's ranges, and nodes
    with different underlays.
    """
    _once("node", (node.name for node in nodes))
    _once("Pod", ("/".join(pod.key) for pod in pods))
    _once("host", (host.name for host in outside))
    plans: tuple[NodePlan | PodPlan | OutsideHost, ...] = (*nodes, *pods, *outside)
    for plan in plans:
        if not plan.addresses:
            raise UsageError(f"{plan.name!r} has no address in the lab's plan: add at least one")
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
        raise UsageError(f"nodes have underlays {' and '.join(underlays)} in the lab's plan: use one for all nodes")
    for node in nodes:
        if node.underlay == "vxlan" and not node.pod_cidrs:
            raise UsageError(f"node {node.name!r} has no Pod range in the lab's plan: add one for its vxlan address")


def _check_addresses(pod: PodPlan, node: NodePlan) -> None:
    for address in pod.addresses:
        cidr = node.pod_cidr_of(address)
        if cidr is None:
            ranges = ", ".join(node.pod_cidrs)
            raise UsageError(f"Pod {pod.namespace}/{pod.name}: {address} isn't in node {node.name}'s ranges: {ranges}")
        if node.attachment == "bridge" and address == node.gateway_of(cidr):
            raise UsageError(f"Pod {pod.namespace}/{pod.name}: {address} is the bridge's own: use a later address")
        if node.underlay == "vxlan" and address == tunnel_address(cidr):
            raise UsageError(f"Pod {pod.namespace}/{pod.name}: {address} is the tunnel's own: use a later address")


def _once(what: str, names: Iterable[str]) -> None:
    seen: set[str] = set()
    for name in names:
        if name in seen:
            raise UsageError(f"{what} {name!r} is in the lab's plan twice: write it once")
        seen.add(name)
