"""Pod interfaces and tunnel ports, derived from links and routes."""

from __future__ import annotations

import pytest

from nfagent.desired.node_interfaces import NodeInterfaces
from nfagent.desired.pod_interfaces import node_links
from nfagent.netlink.rtnl_link import Interface
from nfagent.netlink.rtnl_route import Route
from nfagent.nftables.objects import ProtocolPort

UPLINK = Interface(2, "eth0")
VETH = Interface(7, "cali1", "veth")
BRIDGE = Interface(5, "cbr0", "bridge")
WORLD = [Route((2, 3), on_link=False)]


@pytest.mark.parametrize(
    ("links", "pods", "counted", "reason"),
    [
        ([VETH], [Route((7,))], {"cali1"}, ""),
        ([Interface(7, "tap0", "tun")], [Route((7,))], {"tap0"}, ""),
        ([Interface(7, "nk0", "netkit")], [Route((7,))], {"nk0"}, ""),
        ([VETH, Interface(8, "cali2", "veth")], [Route((7,)), None, Route((7,)), Route((8,))], {"cali1", "cali2"}, ""),
        ([VETH], [], set(), ""),
        ([VETH], [None], set(), ""),
        ([VETH], [Route((9,))], set(), ""),
        ([BRIDGE], [Route((5,))], {"cbr0"}, ""),
        ([BRIDGE, Interface(7, "veth1", "veth", 5), Interface(8, "tap1", "tun", 5)], [Route((5,))], {"cbr0"}, ""),
        ([VETH], [Route((7,), on_link=False), Route((7,))], {"cali1"}, ""),
        ([], [Route((2,))], set(), "it also leads to other hosts"),
        ([Interface(2, "eth0", "veth")], [Route((2,))], set(), "it also leads to other hosts"),
        ([Interface(2, "br0", "bridge")], [Route((2,))], set(), "it also leads to other hosts"),
        ([VETH], [Route((7,), on_link=False)], set(), ""),
        ([Interface(3, "eth1", "veth")], [Route((3,))], set(), "it also leads to other hosts"),
        ([BRIDGE, Interface(3, "eth1", "", 5)], [Route((5,))], set(), "its port eth1 may lead to other hosts"),
        ([BRIDGE, Interface(3, "vx0", "vxlan", 5)], [Route((5,))], set(), "its port vx0 may lead to other hosts"),
        ([Interface(7, "shim", "macvlan")], [Route((7,))], set(), "it is of kind macvlan, which the node may also use"),
        ([Interface(7, "eth1")], [Route((7,))], set(), "it is a physical device, which the node may also use"),
        ([Interface(7, 'ca"li', "veth")], [Route((7,))], set(), "its name cannot be written in nft syntax"),
        ([Interface(7, "cali*", "veth")], [Route((7,))], set(), "its name cannot be written in nft syntax"),
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
        "an unknown kind doesn't count",
        "a network card doesn't count",
        "a name with a quote can't be written",
        "a name that nft takes for a pattern can't be written",
    ],
)
def test_a_pod_interface_leads_to_pods_only(
    links: list[Interface], pods: list[Route | None], counted: set[str], reason: str
) -> None:
    found = node_links([UPLINK, *links], pods, WORLD)
    assert found.pod_links == counted
    assert [why for _, why in found.shared] == ([reason] if reason else [])


@pytest.mark.parametrize(
    ("link", "expected"),
    [
        (
            Interface(9, "flannel.1", "vxlan", up=True, port=8472),
            NodeInterfaces(tunnels=frozenset({ProtocolPort("udp", 8472)})),
        ),
        (
            Interface(9, "genev_sys", "geneve", up=True, port=6081),
            NodeInterfaces(tunnels=frozenset({ProtocolPort("udp", 6081)})),
        ),
        (Interface(9, "flannel.1", "vxlan", port=8472), NodeInterfaces()),
        (Interface(9, "tunl0", "ipip", up=True), NodeInterfaces(portless=True)),
        (Interface(9, "tunl0", "ipip"), NodeInterfaces()),
        (Interface(9, "gre1", "ip6gretap", up=True), NodeInterfaces(portless=True)),
        (Interface(9, "wg0", "wireguard", up=True), NodeInterfaces()),
    ],
    ids=[
        "VXLAN",
        "Geneve",
        "VXLAN that is switched off takes nothing",
        "IP in IP",
        "the kernel's own IP in IP device, which is down",
        "GRE over IPv6",
        "WireGuard proves who has sent it",
    ],
)
def test_tunnels_that_decapsulate_packets_are_found(link: Interface, expected: NodeInterfaces) -> None:
    assert node_links([UPLINK, link], [], WORLD) == expected
