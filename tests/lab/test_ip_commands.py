"""The `ip` lines of a topology, and how they differ between underlays."""

from __future__ import annotations

import re

import pytest

from nfagent.lab.topology import ip_commands
from nfagent.lab.topology.plan import Attachment, NodePlan, OutsideHost, PodPlan, Underlay, grid

UNDERLAYS: tuple[Underlay, ...] = ("flat", "vlan", "vxlan")


def node_lines(underlay: Underlay, attachment: Attachment = "routed") -> list[str]:
    nodes, _, _ = grid(attachment, 2, underlay)
    return list(ip_commands.node(nodes[0], nodes[1:]))


def those_of(lines: list[str], *words: str) -> list[str]:
    return [line for line in lines if all(word in line for word in words)]


@pytest.mark.parametrize(
    ("underlay", "device"), [("flat", "eth0"), ("vlan", "eth0.100"), ("vxlan", "eth0")], ids=UNDERLAYS
)
def test_the_addresses_of_nodes_and_hosts_outside_are_on(underlay: Underlay, device: str) -> None:
    nodes, _, [host] = grid("routed", 2, underlay)
    for lines, number in ((node_lines(underlay), "1"), (list(ip_commands.outside(host, nodes)), "100")):
        assert those_of(lines, f"address add 192.0.2.{number} ") == [f"address add 192.0.2.{number} dev {device} nodad"]
        assert those_of(lines, "route add ::/0 ") == [f"route add ::/0 dev {device}"]


def test_a_vlan_is_tagged_on_the_uplink_and_up_before_it_has_addresses() -> None:
    lines = node_lines("vlan")
    made = lines.index("link add link eth0 name eth0.100 type vlan id 100")
    assert lines[made + 1] == "link set eth0.100 up"
    assert those_of(lines[: made + 2], "address") == []


@pytest.mark.parametrize(
    ("underlay", "way"),
    [
        ("flat", "route add 10.244.2.0/24 via 192.0.2.2 dev eth0 onlink"),
        ("vlan", "route add 10.244.2.0/24 via 192.0.2.2 dev eth0.100 onlink"),
        ("vxlan", "route add 10.244.2.0/24 encap ip id 1 dst 192.0.2.2 csum via 10.244.2.0 dev vxlan0 onlink"),
    ],
    ids=UNDERLAYS,
)
def test_traffic_of_a_node_to_the_pods_of_another(underlay: Underlay, way: str) -> None:
    assert those_of(node_lines(underlay), "route add 10.244.2.0/24") == [way]


def test_the_tunnel_of_ipv6_pods_is_of_ipv6() -> None:
    [way] = those_of(node_lines("vxlan"), "route add 2001:db8:244:2::/64")
    assert "encap ip6 id 1 dst 2001:db8:ffff::2 csum via 2001:db8:244:2:: dev vxlan0" in way


def test_the_next_hop_of_a_tunnel_route_has_the_nodes_tunnel_address_and_mac() -> None:
    nodes, _, _ = grid("routed", 2, "vxlan")
    [made] = those_of(list(ip_commands.node(nodes[1], nodes[:1])), "link add vxlan0")
    own = re.search(r"address (\S+)", made)
    assert own is not None
    neighbours = those_of(node_lines("vxlan"), "neighbour add")
    assert {line.split()[2] for line in neighbours} == {"10.244.2.0", "2001:db8:244:2::"}
    assert {line.split()[4] for line in neighbours} == {own[1]}


def test_hosts_outside_are_in_no_tunnel() -> None:
    nodes, _, [host] = grid("routed", 2, "vxlan")
    lines = list(ip_commands.outside(host, nodes))
    assert those_of(lines, "vxlan") == []
    assert those_of(lines, "route add 10.244.2.0/24") == ["route add 10.244.2.0/24 via 192.0.2.2 dev eth0 onlink"]


@pytest.mark.parametrize(
    ("underlay", "cidrs", "mtu"),
    [
        ("flat", ("10.244.1.0/24", "2001:db8:1::/64"), 1500),
        ("vlan", ("10.244.1.0/24", "2001:db8:1::/64"), 1500),
        ("vxlan", ("10.244.1.0/24",), 1450),
        ("vxlan", ("2001:db8:1::/64",), 1430),
        ("vxlan", ("10.244.1.0/24", "2001:db8:1::/64"), 1430),
    ],
    ids=["flat", "a VLAN's tag is beside it", "vxlan over IPv4", "vxlan over IPv6", "vxlan over both"],
)
def test_pods_send_no_more_than_the_link_takes_whole(underlay: Underlay, cidrs: tuple[str, ...], mtu: int) -> None:
    node = NodePlan("n1", ("192.0.2.1", "2001:db8:ffff::1"), cidrs, underlay=underlay)
    pod = PodPlan("x", "a", "n1", ("10.244.1.5",))
    assert re.findall(r"mtu (\d+)", ip_commands.pod_link(pod, "pod", node, "node", "pod1")) == [str(mtu)] * 2
    assert re.findall(r"mtu (\d+)", " ".join(ip_commands.node(node, ()))) == [str(mtu)] * (underlay == "vxlan")


def test_a_host_outside_of_a_lab_without_nodes_is_on_the_link_itself() -> None:
    lines = list(ip_commands.outside(OutsideHost("web", ("192.0.2.9",)), ()))
    assert those_of(lines, "address") == ["address add 192.0.2.9 dev eth0 nodad"]
