"""Determines which interfaces of a node lead to Pods only, from its links and from the routes to its Pods.

A Pod interface reaches a Pod of this node without a gateway, and nothing else: a Pod's own veth, tap or netkit, or a
bridge that has only such ports. Any other interface that leads to a Pod is reported with the reason, and left out: a
rule that took the node's uplink for a Pod interface would cut the node off.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping

from nfagent.desired.node_interfaces import NodeInterfaces
from nfagent.netlink.rtnl_link import Interface
from nfagent.netlink.rtnl_route import Route
from nfagent.nftables.objects import ProtocolPort

_OF_PODS = {"veth", "tun", "netkit"}
_PORTLESS = {"ipip", "sit", "gre", "gretap", "erspan", "ip6tnl", "ip6gre", "ip6gretap", "ip6erspan"}
_WRITABLE = re.compile(r"[A-Za-z0-9_.+@-]{1,15}")
"""Interface names that need no quoting in nft syntax."""


def node_links(
    links: Iterable[Interface], pods: Iterable[Route | None], beyond: Iterable[Route | None]
) -> NodeInterfaces:
    """Return the Pod interfaces and the tunnels of this node.

    pods:   the routes to Pods of this node
    beyond: the routes to other Nodes, and the default routes
    """
    known = {link.index: link for link in links}
    ports: dict[int, list[Interface]] = {}
    for link in known.values():
        ports.setdefault(link.master, []).append(link)
    away = {link for route in beyond if route is not None for link in route.links}
    found: dict[int, str] = {}
    for route in pods:
        # The route of a Pod without an interface (not created yet, or deleted) is the default route, with a gateway.
        if route is not None and route.on_link and route.links[0] in known:
            link = known[route.links[0]]
            found[link.index] = _reason_against(link, ports, away)
    shared = {known[index].name: reason for index, reason in found.items() if reason}
    active = [link for link in known.values() if link.up]
    counted = {known[index].name: known[index].kind for index, reason in found.items() if not reason}
    return NodeInterfaces(
        pod_links=frozenset(counted),
        bridged="bridge" in counted.values(),
        tunnels=frozenset(ProtocolPort("udp", link.port) for link in active if link.port),
        portless=any(link.kind in _PORTLESS for link in active),
        shared=tuple(sorted(shared.items())),
    )


def _reason_against(link: Interface, ports: Mapping[int, list[Interface]], away: set[int]) -> str:
    """Return why an interface that leads to a Pod is not a Pod interface; '' if it is one."""
    if link.index in away:
        return "it also leads to other hosts"
    if not _WRITABLE.fullmatch(link.name):
        return "its name cannot be written in nft syntax"
    if link.kind in _OF_PODS:
        return ""
    if link.kind != "bridge":
        return f"it is {f'of kind {link.kind}' if link.kind else 'a physical device'}, which the node may also use"
    others = sorted(port.name for port in ports.get(link.index, ()) if port.kind not in _OF_PODS or port.index in away)
    return f"its port {others[0]} may lead to other hosts" if others else ""
