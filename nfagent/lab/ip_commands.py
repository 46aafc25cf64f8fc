"""The `ip -batch` lines that make network namespaces what the plan says. Pure: plans in, lines out.

Nodes and hosts outside hang on the bridge `underlay` in a namespace of its own, each by its `eth0`: their addresses
are there, or on its VLAN `eth0.100`. A Pod's `eth0` has its other end in the node's namespace: on its own there
(routed), or a port of the bridge `cbr0` (bridge). Where nodes are joined by vxlan, the route to another's Pods says to
which node a packet goes in UDP, and the one device `vxlan0` puts it there, for both families.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Iterable, Iterator

from nfagent.lab.topology_plan import NodePlan, OutsideHost, PodPlan, Underlay, address_of, tunnel_address

UNDERLAY = "underlay"
BRIDGE = "cbr0"
UPLINK = "eth0"
VLAN = "eth0.100"
VXLAN = "vxlan0"

_VLAN_ID = 100
_VXLAN_ID = 1
_VXLAN_PORT = 8472  # Linux' own, from before there was RFC 7348's 4789; flannel's too

# The next hop of every routed Pod, whatever its node: link-local, answered for by a permanent neighbour entry.
_GATEWAYS = ("169.254.1.1", "fe80::1")
_ROUTED_MAC = "ee:ee:ee:ee:ee:ee"
_DEFAULTS = ("0.0.0.0/0", "::/0")

QUIET = {
    # Addresses are usable at once: duplicate address detection would hold IPv6 back for a second.
    "ipv6/conf/all/accept_dad": "0",
    "ipv6/conf/default/accept_dad": "0",
    "ipv6/conf/all/accept_ra": "0",
    "ipv6/conf/default/accept_ra": "0",
    "ipv4/conf/all/rp_filter": "0",
    "ipv4/conf/default/rp_filter": "0",
    # Every error is sent, however many there were: what doesn't arrive was stopped by a rule.
    "ipv4/icmp_ratelimit": "0",
    "ipv6/icmp/ratelimit": "0",
}
"""Sysctls of every namespace, written before it has interfaces: these take their values from `default`."""

FORWARDING = {
    **QUIET,
    "ipv4/ip_forward": "1",
    "ipv6/conf/all/forwarding": "1",
    "ipv6/conf/default/forwarding": "1",
    # Pods reach each other through the node for good: a redirect would send them past its rules.
    "ipv4/conf/all/send_redirects": "0",
    "ipv4/conf/default/send_redirects": "0",
}
"""Sysctls of a node."""

BRIDGED = {"bridge/bridge-nf-call-iptables": "1", "bridge/bridge-nf-call-ip6tables": "1"}
"""Sysctls that bring frames between two ports of a bridge to the forward hook; each namespace has its own."""


def mac_of(addresses: Iterable[str]) -> str:
    """Give the MAC address that goes with an IP address.

    The same address has the same MAC after its Pod was made again, so no neighbour has to forget the earlier one.
    """
    last = ipaddress.ip_address(next(iter(addresses))).packed[-4:]
    return "0a:58:" + last.hex(":")


def uplink(netns: str, underlay: str, port: str, addresses: tuple[str, ...]) -> str:
    """Connect a node or a host outside to the underlay; runs in any namespace."""
    return (
        f"link add name {port} netns {underlay} type veth peer name {UPLINK} netns {netns} address {mac_of(addresses)}"
    )


def pod_link(pod: PodPlan, pod_netns: str, node: NodePlan, node_netns: str, port: str) -> str:
    """Connect a Pod to its node; runs in any namespace."""
    mtu = f"mtu {node.pod_mtu}"
    near = f"netns {node_netns} {mtu}" + (f" address {_ROUTED_MAC}" if node.attachment == "routed" else "")
    far = f"netns {pod_netns} {mtu} address {mac_of(pod.addresses)}"
    return f"link add name {port} {near} type veth peer name eth0 {far}"


def underlay(ports: Iterable[str]) -> Iterator[str]:
    """Make the nodes' network, in the underlay namespace."""
    # Without a querier, multicast snooping would drop neighbour solicitations now and then.
    yield f"link add {UNDERLAY} type bridge mcast_snooping 0"
    for port in ports:
        yield f"link set {port} master {UNDERLAY} up"
    yield f"link set {UNDERLAY} up"


def node(plan: NodePlan, others: Iterable[NodePlan]) -> Iterator[str]:
    """Make a node, in its namespace: its addresses, its Pod ranges, the ways to the others' ranges."""
    yield from _member(plan.addresses, plan.underlay)
    if plan.attachment == "bridge":
        gateways = [f"{plan.gateway_of(cidr)}/{cidr.rpartition('/')[2]}" for cidr in plan.pod_cidrs]
        yield f"link add {BRIDGE} address {mac_of(map(plan.gateway_of, plan.pod_cidrs))} type bridge mcast_snooping 0"
        yield f"link set {BRIDGE} up"
        yield from (f"address add {address} dev {BRIDGE} nodad" for address in gateways)
    else:
        # What is for a Pod that isn't there stays here, instead of asking for it on the nodes' network.
        yield from (f"route add blackhole {cidr}" for cidr in plan.pod_cidrs)
    if plan.underlay == "vxlan":
        yield from _tunnel_end(plan)
    for other in others:
        yield from _tunnelled_ways(other) if plan.underlay == "vxlan" else _ways(other)


def outside(host: OutsideHost, nodes: Iterable[NodePlan]) -> Iterator[str]:
    """Make a host outside the cluster, in its namespace."""
    plans = tuple(nodes)
    yield from _member(host.addresses, plans[0].underlay if plans else "flat")
    for plan in plans:
        if host.routes_to_pods:
            yield from _ways(plan)
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
    # Everybody is on the link, whatever their prefix.
    yield from (f"route add {default} dev {link}" for default in _DEFAULTS if address_of(addresses, default))


def _link(joined: Underlay) -> str:
    return VLAN if joined == "vlan" else UPLINK


def _ways(to: NodePlan) -> Iterator[str]:
    for cidr in to.pod_cidrs:
        hop = address_of(to.addresses, cidr)
        if hop:
            yield f"route add {cidr} via {hop} dev {_link(to.underlay)} onlink"


def _tunnel_end(plan: NodePlan) -> Iterator[str]:
    # external: where a packet goes is said by the route that sent it here.
    yield (
        f"link add {VXLAN} address {_tunnel_mac(plan)} mtu {plan.pod_mtu} "
        f"type vxlan external dstport {_VXLAN_PORT} nolearning"
    )
    yield f"link set {VXLAN} up"
    yield from (f"address add {tunnel_address(cidr)} dev {VXLAN} nodad" for cidr in plan.pod_cidrs)


def _tunnelled_ways(to: NodePlan) -> Iterator[str]:
    for cidr in to.pod_cidrs:
        node_address = address_of(to.addresses, cidr)
        if node_address:
            hop = tunnel_address(cidr)
            # csum: UDP over IPv6 without a checksum is dropped at its destination.
            encap = f"encap {'ip6' if ':' in node_address else 'ip'} id {_VXLAN_ID} dst {node_address} csum"
            yield f"neighbour add {hop} lladdr {_tunnel_mac(to)} dev {VXLAN} nud permanent"
            yield f"route add {cidr} {encap} via {hop} dev {VXLAN} onlink"


def _tunnel_mac(plan: NodePlan) -> str:
    return mac_of(map(tunnel_address, plan.pod_cidrs))


def pod(plan: PodPlan, node_plan: NodePlan) -> Iterator[str]:
    """Make a Pod, in its namespace: its addresses and its way out."""
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
    """Attach a Pod's other end, in the node's namespace."""
    if node_plan.attachment == "bridge":
        yield f"link set {port} master {BRIDGE} up"
        return
    yield f"link set {port} up"
    yield f"address add {_GATEWAYS[1]}/64 dev {port} nodad"
    for address in plan.addresses:
        source = address_of(node_plan.addresses, address)
        yield f"route add {address} dev {port}" + (f" src {source}" if source else "")
