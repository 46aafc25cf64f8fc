"""The `ip -batch` lines that configure network namespaces after a plan. Pure: plans in, lines out.

Nodes and outside hosts are ports of the bridge `underlay`, in a namespace of its own, each with its `eth0`. Their
addresses are on `eth0`, or on its VLAN `eth0.100`. The peer of a Pod's `eth0` is in the node's namespace: a routed
interface of its own, or a port of the bridge `cbr0`. With vxlan, the route to another node's Pods has the node's
address as its encapsulation, and the one device `vxlan0` sends both families.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Iterable, Iterator

from nfagent.lab.topology.plan import NodePlan, OutsideHost, PodPlan, Underlay, address_of, tunnel_address

UNDERLAY = "underlay"
BRIDGE = "cbr0"
UPLINK = "eth0"
VLAN = "eth0.100"
VXLAN = "vxlan0"

_VLAN_ID = 100
_VXLAN_ID = 1
_VXLAN_PORT = 8472  # the Linux default, older than RFC 7348's 4789; flannel uses it too

# The next hop of every routed Pod on every node: link-local, resolved by a permanent neighbour entry.
_GATEWAYS = ("169.254.1.1", "fe80::1")
_ROUTED_MAC = "ee:ee:ee:ee:ee:ee"
_DEFAULTS = ("0.0.0.0/0", "::/0")

QUIET = {
    # Addresses are usable at once: duplicate address detection would delay IPv6 for a second.
    "ipv6/conf/all/accept_dad": "0",
    "ipv6/conf/default/accept_dad": "0",
    "ipv6/conf/all/accept_ra": "0",
    "ipv6/conf/default/accept_ra": "0",
    "ipv4/conf/all/rp_filter": "0",
    "ipv4/conf/default/rp_filter": "0",
    # No rate limit for ICMP errors: one that doesn't arrive was dropped by a rule.
    "ipv4/icmp_ratelimit": "0",
    "ipv6/icmp/ratelimit": "0",
}
"""Sysctls of every namespace, written before it has interfaces, which copy their values from `default`."""

FORWARDING = {
    **QUIET,
    "ipv4/ip_forward": "1",
    "ipv6/conf/all/forwarding": "1",
    "ipv6/conf/default/forwarding": "1",
    # Pods reach each other through the node only: an ICMP redirect would bypass its rules.
    "ipv4/conf/all/send_redirects": "0",
    "ipv4/conf/default/send_redirects": "0",
}
"""Sysctls of a node."""

BRIDGED = {"bridge/bridge-nf-call-iptables": "1", "bridge/bridge-nf-call-ip6tables": "1"}
"""Sysctls that pass frames between two ports of a bridge to the forward hook; each namespace has its own."""


def mac_of(addresses: Iterable[str]) -> str:
    """Return the MAC address that belongs to the first IP address.

    A Pod that is created again with the same address has the same MAC, so that neighbour entries stay valid.
    """
    last = ipaddress.ip_address(next(iter(addresses))).packed[-4:]
    return "0a:58:" + last.hex(":")


def uplink(netns: str, underlay: str, port: str, addresses: tuple[str, ...]) -> str:
    """Return the line that connects a node or an outside host to the underlay; runs in any namespace."""
    return (
        f"link add name {port} netns {underlay} type veth peer name {UPLINK} netns {netns} address {mac_of(addresses)}"
    )


def pod_link(pod: PodPlan, pod_netns: str, node: NodePlan, node_netns: str, port: str) -> str:
    """Return the line that connects a Pod to its node; runs in any namespace."""
    mtu = f"mtu {node.pod_mtu}"
    near = f"netns {node_netns} {mtu}" + (f" address {_ROUTED_MAC}" if node.attachment == "routed" else "")
    far = f"netns {pod_netns} {mtu} address {mac_of(pod.addresses)}"
    return f"link add name {port} {near} type veth peer name eth0 {far}"


def underlay(ports: Iterable[str]) -> Iterator[str]:
    """Return the lines for the nodes' network, in the underlay namespace."""
    # Without a querier, multicast snooping sometimes drops neighbour solicitations.
    yield f"link add {UNDERLAY} type bridge mcast_snooping 0"
    for port in ports:
        yield f"link set {port} master {UNDERLAY} up"
    yield f"link set {UNDERLAY} up"


def node(plan: NodePlan, others: Iterable[NodePlan]) -> Iterator[str]:
    """Return the lines for a node, in its namespace: addresses, Pod ranges, routes to other nodes' Pod ranges."""
    yield from _member(plan.addresses, plan.underlay)
    if plan.attachment == "bridge":
        gateways = [f"{plan.gateway_of(cidr)}/{cidr.rpartition('/')[2]}" for cidr in plan.pod_cidrs]
        yield f"link add {BRIDGE} address {mac_of(map(plan.gateway_of, plan.pod_cidrs))} type bridge mcast_snooping 0"
        yield f"link set {BRIDGE} up"
        yield from (f"address add {address} dev {BRIDGE} nodad" for address in gateways)
    else:
        # Packets to a Pod that doesn't exist are dropped here, instead of a neighbour look-up on the nodes' network.
        yield from (f"route add blackhole {cidr}" for cidr in plan.pod_cidrs)
    if plan.underlay == "vxlan":
        yield from _tunnel_end(plan)
    for other in others:
        yield from _vxlan_routes(other) if plan.underlay == "vxlan" else _routes(other)


def outside(host: OutsideHost, nodes: Iterable[NodePlan]) -> Iterator[str]:
    """Return the lines for a host outside the cluster, in its namespace."""
    plans = tuple(nodes)
    yield from _member(host.addresses, plans[0].underlay if plans else "flat")
    for plan in plans:
        if host.routes_to_pods:
            yield from _routes(plan)
        else:
            yield from (f"route add blackhole {cidr}" for cidr in plan.pod_cidrs)


def _member(addresses: tuple[str, ...], joined: Underlay) -> Iterator[str]:
    yield "link set lo up"
    yield f"link set {UPLINK} up"
    link = _link(joined)
    if joined == "vlan":
        yield f"link add link {UPLINK} name {link} type vlan id {_VLAN_ID}"
        yield f"link set {link} up"
    for address in addresses:
        yield f"address add {address} dev {link} nodad"
    # All nodes and hosts are on the link, without a common prefix.
    yield from (f"route add {default} dev {link}" for default in _DEFAULTS if address_of(addresses, default))


def _link(joined: Underlay) -> str:
    return VLAN if joined == "vlan" else UPLINK


def _routes(to: NodePlan) -> Iterator[str]:
    for cidr in to.pod_cidrs:
        hop = address_of(to.addresses, cidr)
        if hop:
            yield f"route add {cidr} via {hop} dev {_link(to.underlay)} onlink"


def _tunnel_end(plan: NodePlan) -> Iterator[str]:
    # external: the route that leads here has the tunnel's destination.
    yield (
        f"link add {VXLAN} address {_tunnel_mac(plan)} mtu {plan.pod_mtu} "
        f"type vxlan external dstport {_VXLAN_PORT} nolearning"
    )
    yield f"link set {VXLAN} up"
    yield from (f"address add {tunnel_address(cidr)} dev {VXLAN} nodad" for cidr in plan.pod_cidrs)


def _vxlan_routes(to: NodePlan) -> Iterator[str]:
    for cidr in to.pod_cidrs:
        node_address = address_of(to.addresses, cidr)
        if node_address:
            hop = tunnel_address(cidr)
            # csum: the receiver drops UDP over IPv6 without a checksum.
            encap = f"encap {'ip6' if ':' in node_address else 'ip'} id {_VXLAN_ID} dst {node_address} csum"
            yield f"neighbour add {hop} lladdr {_tunnel_mac(to)} dev {VXLAN} nud permanent"
            yield f"route add {cidr} {encap} via {hop} dev {VXLAN} onlink"


def _tunnel_mac(plan: NodePlan) -> str:
    return mac_of(map(tunnel_address, plan.pod_cidrs))


def pod(plan: PodPlan, node_plan: NodePlan) -> Iterator[str]:
    """Return the lines for a Pod, in its namespace: its addresses and default routes."""
    yield "link set lo up"
    yield "link set eth0 up"
    for address in plan.addresses:
        cidr = node_plan.pod_cidr_of(address) or address
        default = address_of(_DEFAULTS, address)
        if node_plan.attachment == "bridge":
            yield f"address add {address}/{cidr.rpartition('/')[2]} dev eth0 nodad"
            yield f"route add {default} via {node_plan.gateway_of(cidr)} dev eth0"
        else:
            hop = address_of(_GATEWAYS, address)
            yield f"address add {address} dev eth0 nodad"
            yield f"neighbour add {hop} lladdr {_ROUTED_MAC} dev eth0 nud permanent"
            yield f"route add {default} via {hop} dev eth0 onlink"


def pod_port(plan: PodPlan, node_plan: NodePlan, port: str) -> Iterator[str]:
    """Return the lines for the peer of a Pod's interface, in the node's namespace."""
    if node_plan.attachment == "bridge":
        yield f"link set {port} master {BRIDGE} up"
        return
    yield f"link set {port} up"
    yield f"address add {_GATEWAYS[1]}/64 dev {port} nodad"
    for address in plan.addresses:
        source = address_of(node_plan.addresses, address)
        yield f"route add {address} dev {port}" + (f" src {source}" if source else "")
