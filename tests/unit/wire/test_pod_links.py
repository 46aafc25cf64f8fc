"""Which interfaces Pods are behind, which ports are tunnels': decided by interfaces and routes."""

from __future__ import annotations

import pytest

from nfagent.ruleset.node_links import NodeLinks
from nfagent.ruleset.objects import ServicePort
from nfagent.wire.links import Link
from nfagent.wire.pod_links import node_links
from nfagent.wire.routes import Route

UPLINK = Link(2, "eth0")
VETH = Link(7, "cali1", "veth")
BRIDGE = Link(5, "cbr0", "bridge")
WORLD = [Route((2, 3), near=False)]


@pytest.mark.parametrize(
    ("links", "pods", "counted", "reason"),
    [
        ([VETH], [Route((7,))], {"cali1"}, ""),
        ([Link(7, "tap0", "tun")], [Route((7,))], {"tap0"}, ""),
        ([Link(7, "nk0", "netkit")], [Route((7,))], {"nk0"}, ""),
        ([VETH, Link(8, "cali2", "veth")], [Route((7,)), None, Route((7,)), Route((8,))], {"cali1", "cali2"}, ""),
        ([VETH], [], set(), ""),
        ([VETH], [None], set(), ""),
        ([VETH], [Route((9,))], set(), ""),
        ([BRIDGE], [Route((5,))], {"cbr0"}, ""),
        ([BRIDGE, Link(7, "veth1", "veth", 5), Link(8, "tap1", "tun", 5)], [Route((5,))], {"cbr0"}, ""),
        ([VETH], [Route((7,), near=False), Route((7,))], {"cali1"}, ""),
        ([], [Route((2,))], set(), "other hosts are reached by it too"),
        ([Link(2, "eth0", "veth")], [Route((2,))], set(), "other hosts are reached by it too"),
        ([Link(2, "br0", "bridge")], [Route((2,))], set(), "other hosts are reached by it too"),
        ([VETH], [Route((7,), near=False)], set(), ""),
        ([Link(3, "eth1", "veth")], [Route((3,))], set(), "other hosts are reached by it too"),
        ([BRIDGE, Link(3, "eth1", "", 5)], [Route((5,))], set(), "its port eth1 may lead to other hosts"),
        ([BRIDGE, Link(3, "vx0", "vxlan", 5)], [Route((5,))], set(), "its port vx0 may lead to other hosts"),
        ([Link(7, "shim", "macvlan")], [Route((7,))], set(), "it is of kind macvlan, which the node may use too"),
        ([Link(7, "eth1")], [Route((7,))], set(), "it is a device of its own, which the node may use too"),
        ([Link(7, 'ca"li', "veth")], [Route((7,))], set(), "nftables can't be told its name"),
        ([Link(7, "cali*", "veth")], [Route((7,))], set(), "nftables can't be told its name"),
    ],
    ids=[
        "a routed Pod's veth counts",
        "a virtual machine's tap counts",
        "a netkit counts",
        "Pods behind one interface, behind another, and behind none",
        "a veth without a Pod doesn't count",
        "a Pod that isn't reached at all gives nothing",
        "an interface that went meanwhile gives nothing",
        "a bridge counts before it has ports",
        "a bridge with Pods' ports alone counts",
        "one Pod's route through another Pod takes nothing from that one's interface",
        "a macvlan or SR-IOV Pod in the node's own network never makes the uplink count",
        "nor where the uplink is a veth itself",
        "nor where it is a bridge",
        "a Pod behind a router, or not there yet, doesn't make the way to it count",
        "nor where it is one of several uplinks",
        "a bridge with a network card doesn't count",
        "a bridge with a tunnel doesn't count",
        "a kind that nobody knows of doesn't count",
        "a network card doesn't count",
        "a name with a quote can't be written",
        "a name that nft takes for a pattern can't be written",
    ],
)
def test_an_interface_counts_where_pods_alone_are_behind_it(
    links: list[Link], pods: list[Route | None], counted: set[str], reason: str
) -> None:
    found = node_links([UPLINK, *links], pods, WORLD)
    assert found.pod_links == counted
    assert [why for _, why in found.shared] == ([reason] if reason else [])


@pytest.mark.parametrize(
    ("link", "expected"),
    [
        (Link(9, "flannel.1", "vxlan", up=True, port=8472), NodeLinks(tunnels=frozenset({ServicePort("udp", 8472)}))),
        (Link(9, "genev_sys", "geneve", up=True, port=6081), NodeLinks(tunnels=frozenset({ServicePort("udp", 6081)}))),
        (Link(9, "flannel.1", "vxlan", port=8472), NodeLinks()),
        (Link(9, "tunl0", "ipip", up=True), NodeLinks(portless=True)),
        (Link(9, "tunl0", "ipip"), NodeLinks()),
        (Link(9, "gre1", "ip6gretap", up=True), NodeLinks(portless=True)),
        (Link(9, "wg0", "wireguard", up=True), NodeLinks()),
    ],
    ids=[
        "VXLAN",
        "Geneve",
        "VXLAN that is switched off takes nothing",
        "IP in IP",
        "the kernel's own IP in IP device, which nobody switched on",
        "GRE over IPv6",
        "WireGuard proves who has sent it",
    ],
)
def test_tunnels_that_take_packets_are_known(link: Link, expected: NodeLinks) -> None:
    assert node_links([UPLINK, link], [], WORLD) == expected
