"""Which of a node's interfaces Pods are behind, by its interfaces and by the routes to its Pods.

An interface counts where a Pod of this node is reached by it without a router on the way, and nobody else can be: a
Pod's own veth, tap or netkit, or a bridge with such ports alone. Whatever leads anywhere else doesn't count, and is
named: a rule that took the node's uplink for a Pod's interface would cut the node off.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping

from nfagent.desired.node_interfaces import NodeInterfaces
from nfagent.netlink.rtnl_link import Interface
from nfagent.netlink.rtnl_route import Route
from nfagent.nftables.objects import ServicePort

_OF_PODS = {"veth", "tun", "netkit"}
_PORTLESS = {"ipip", "sit", "gre", "gretap", "erspan", "ip6tnl", "ip6gre", "ip6gretap", "ip6erspan"}
_WRITABLE = re.compile(r"[A-Za-z0-9_.+@-]{1,15}")
"""Names that nft's text can hold as they are."""


def node_links(
    links: Iterable[Interface], pods: Iterable[Route | None], beyond: Iterable[Route | None]
) -> NodeInterfaces:
    """Decide which interfaces count, and where tunnels end.

    pods:   the ways to Pods of this node
    beyond: the ways to other Nodes, and to the world
    """
    known = {link.index: link for link in links}
    ports: dict[int, list[Interface]] = {}
    for link in known.values():
        ports.setdefault(link.master, []).append(link)
    away = {link for route in beyond if route is not None for link in route.links}
    found: dict[int, str] = {}
    for route in pods:
        # A Pod that isn't there yet, or no longer, would be sent to a router, as whatever nobody knows.
        if route is not None and route.near and route.links[0] in known:
            link = known[route.links[0]]
            found[link.index] = _reason_against(link, ports, away)
    shared = {known[index].name: reason for index, reason in found.items() if reason}
    active = [link for link in known.values() if link.up]
    counted = {known[index].name: known[index].kind for index, reason in found.items() if not reason}
    return NodeInterfaces(
        pod_links=frozenset(counted),
        bridged="bridge" in counted.values(),
        tunnels=frozenset(ServicePort("udp", link.port) for link in active if link.port),
        portless=any(link.kind in _PORTLESS for link in active),
        shared=tuple(sorted(shared.items())),
    )


def _reason_against(link: Interface, ports: Mapping[int, list[Interface]], away: set[int]) -> str:
    """Say why an interface that a Pod is reached by doesn't count; '' where it does."""
    if link.index in away:
        return "other hosts are reached by it too"
    if not _WRITABLE.fullmatch(link.name):
        return "nftables can't be told its name"
    if link.kind in _OF_PODS:
        return ""
    if link.kind != "bridge":
        return f"it is {f'of kind {link.kind}' if link.kind else 'a device of its own'}, which the node may use too"
    others = sorted(port.name for port in ports.get(link.index, ()) if port.kind not in _OF_PODS or port.index in away)
    return f"its port {others[0]} may lead to other hosts" if others else ""
