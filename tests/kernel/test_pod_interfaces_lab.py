"""Checks by interface: Pods' source addresses, tunnels that Pods may not use, link-local sources."""

from __future__ import annotations

import functools
import ipaddress
import json
import re
import socket
import struct
import subprocess
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from nfagent.lab.probes.listeners import Endpoint
from nfagent.lab.probes.probe import Probe
from nfagent.lab.probes.raw_packets import internet_checksum
from nfagent.lab.topology import ip_commands, netns
from nfagent.lab.topology.plan import Attachment, PodPlan, Underlay, gateway, grid, tunnel_address
from nfagent.model.netaddr import FAMILIES, Family
from tests.support.packet_labs import (
    ManifestLab,
    holds_within,
    namespace_document,
    pod_document,
    policy_document,
    running_lab,
    wait_until,
)
from tests.support.raw_sockets import (
    Capture,
    accept,
    bearing,
    heard,
    marker,
    send_raw,
    tcp_connect,
    tcp_listener,
    udp_socket,
)

pytestmark = pytest.mark.kernel

WAYS: list[tuple[Attachment, Underlay]] = [
    ("routed", "flat"),
    ("bridge", "flat"),
    ("routed", "vxlan"),
    ("bridge", "vxlan"),
]
FLAT, JOINED = WAYS[:2], WAYS[2:]
PORT = 4000
ISOLATED = policy_document("x", "isolated", podSelector={"matchLabels": {"pod": "a"}}, policyTypes=["Egress"])
STRANGERS: dict[Family, list[str]] = {4: ["8.8.8.8", "240.0.0.1", "192.0.2.2"], 6: ["2606::1", "2001:db8:ffff::2"]}
"""Sources that no Pod has; the last is the other node's."""


def named(way: tuple[Attachment, Underlay]) -> str:
    return f"Pods {way[0]}, nodes {way[1]}"


@pytest.fixture(scope="module", params=WAYS, ids=named)
def lab(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[ManifestLab]:
    nodes, pods, outside = grid(request.param[0], 2, request.param[1])
    documents = [*map(namespace_document, "xyz"), *map(pod_document, pods), ISOLATED]
    with running_lab(tmp_path_factory.mktemp("lab"), nodes, pods, outside, documents) as running:
        yield running


def only(*ways: tuple[Attachment, Underlay]) -> pytest.MarkDecorator:
    return pytest.mark.parametrize("lab", ways, ids=named, indirect=True)


def family_address(addresses: tuple[str, ...], family: Family) -> str:
    return next(address for address in addresses if (":" in address) == (family == 6))


def node_address(lab: ManifestLab, node: str, family: Family) -> str:
    return family_address(lab.topology.nodes[node].addresses, family)


def receivers(lab: ManifestLab, family: Family) -> dict[str, tuple[str, str]]:
    """Return namespace and address of who a Pod of n1 may send to."""
    host = lab.topology.outside["outside"]
    return {
        "a Pod of its node": (lab.pod("y/b"), lab.address("y/b", family)),
        "a Pod of the other node": (lab.pod("y/a"), lab.address("y/a", family)),
        "its node": (lab.topology.node_namespace("n1"), node_address(lab, "n1", family)),
        "the other node": (lab.topology.node_namespace("n2"), node_address(lab, "n2", family)),
        "a host outside": (lab.topology.outside_namespace("outside"), family_address(host.addresses, family)),
    }


def arrived(receiver: socket.socket, send: Callable[[], None], fence: Callable[[], None]) -> list[bytes]:
    """Return the datagrams that a socket gets of what is sent, before that of `fence`, which arrives for sure."""
    assert heard(receiver) == []
    send()
    fence()
    found = [receiver.recv(1 << 16)]
    while found[-1] != b"fence":
        found.append(receiver.recv(1 << 16))
    return found[:-1]


def said(namespace: str, source: str, destination: str, content: bytes, *, spoofed: bool = False) -> None:
    with udp_socket(namespace, source, spoofed=spoofed) as sender:
        sender.sendto(content, (destination, PORT))


def dropped(lab: ManifestLab, word: str, node: str = "n1") -> int:
    listed = json.loads(lab.cluster.agent(node).nft("-j", "list", "counter", "inet", "nfagent", f"drop/{word}"))
    return int(next(item["counter"]["packets"] for item in listed["nftables"] if "counter" in item))


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("receiver", ["a Pod of its node", "a Pod of the other node", "its node", "a host outside"])
def test_a_packet_from_an_unassigned_source_is_dropped(lab: ManifestLab, receiver: str, family: Family) -> None:
    namespace, address = receivers(lab, family)[receiver]
    honest = functools.partial(said, lab.pod("x/c"), lab.address("x/c", family), address, b"fence")
    before = dropped(lab, "unrouted")
    with udp_socket(namespace, address, PORT) as listening:
        for source in STRANGERS[family]:
            lie = functools.partial(said, lab.pod("x/a"), source, address, source.encode(), spoofed=True)
            assert arrived(listening, lie, honest) == []
    assert dropped(lab, "unrouted") - before == len(STRANGERS[family])


@only(*FLAT)
@pytest.mark.parametrize("family", FAMILIES)
def test_a_packet_from_an_unassigned_source_leaves_no_conntrack_entry(lab: ManifestLab, family: Family) -> None:
    namespace, address = receivers(lab, family)["a Pod of the other node"]
    node = lab.topology.node_namespace("n1")
    rules = "table inet exempt {\nchain arriving {\ntype filter hook prerouting priority -300\nnotrack\n}\n}\n"
    subprocess.run(lab.topology.command(node, ["nft", "-f", "-"]), input=rules, text=True, check=True, timeout=30)
    try:
        with udp_socket(namespace, address, PORT) as listening:
            honest = functools.partial(said, lab.pod("x/c"), lab.address("x/c", family), address, b"fence")
            source = STRANGERS[family][0]
            lie = functools.partial(said, lab.pod("x/a"), source, address, b"lie", spoofed=True)
            assert arrived(listening, lie, honest) == []
    finally:
        subprocess.run(lab.topology.command(node, ["nft", "delete table inet exempt"]), check=True, timeout=30)


@only(("routed", "flat"))
@pytest.mark.parametrize("family", FAMILIES)
def test_another_pods_source_gets_nowhere_from_a_routed_pod(lab: ManifestLab, family: Family) -> None:
    namespace, address = receivers(lab, family)["a Pod of the other node"]
    with udp_socket(namespace, address, PORT) as listening:
        honest = functools.partial(said, lab.pod("x/c"), lab.address("x/c", family), address, b"fence")
        lie = functools.partial(said, lab.pod("x/a"), lab.address("z/a", family), address, b"lie", spoofed=True)
        assert arrived(listening, lie, honest) == []


@only(("routed", "flat"))
@pytest.mark.parametrize("family", FAMILIES)
def test_a_source_that_the_node_has_a_route_to_by_the_pods_interface_passes(lab: ManifestLab, family: Family) -> None:
    """A Pod that routes for others, which its network plugin knows of."""
    namespace, address = receivers(lab, family)["a Pod of its node"]
    node, behind = lab.topology.node_namespace("n1"), {4: "198.51.100.7", 6: "2001:db8:51::7"}[family]
    link = link_of(lab, "x/c")
    netns.ip_batch([f"route add {behind} dev {link}"], node)
    try:
        with udp_socket(namespace, address, PORT) as listening:
            said(lab.pod("x/c"), behind, address, b"for another", spoofed=True)
            assert listening.recv(100) == b"for another"
    finally:
        netns.ip_batch([f"route del {behind} dev {link}"], node)


@only(("routed", "flat"))
def test_with_the_setting_packets_from_unassigned_sources_meet_policies(lab: ManifestLab) -> None:
    namespace, address = receivers(lab, 4)["a Pod of its node"]
    agent = lab.cluster.agent("n1")
    try:
        agent.stop()
        agent.start({"NFAGENT_POLICY_UNROUTED_SOURCES": "judged"})
        with udp_socket(namespace, address, PORT) as listening:
            said(lab.pod("x/a"), "8.8.8.8", address, b"unassigned", spoofed=True)
            assert listening.recv(100) == b"unassigned"
    finally:
        agent.stop()
        agent.start()


# Tunnels.


def inner_frame(lab: ManifestLab, source: str, destination: str, content: bytes) -> bytes:
    """Write what a node that is joined by vxlan would take for another node's: a UDP datagram between Pods."""
    plan = lab.topology.nodes["n2"]
    mac = bytes.fromhex(ip_commands.mac_of(map(tunnel_address, plan.pod_cidrs)).replace(":", ""))
    udp = struct.pack("!HHHH", PORT, PORT, 8 + len(content), 0) + content
    ends = b"".join(ipaddress.ip_address(end).packed for end in (source, destination))
    head = struct.pack("!BBHHHBBH", 0x45, 0, 20 + len(udp), 0, 0, 64, 17, 0) + ends
    head = head[:10] + internet_checksum(head).to_bytes(2, "big") + head[12:]
    vxlan = struct.pack("!II", 1 << 27, 1 << 8)
    return vxlan + mac + bytes(6) + b"\x08\x00" + head + udp


def into_tunnel(lab: ManifestLab, pod: str, entry: str, content: bytes) -> None:
    family: Family = 6 if ":" in entry else 4
    frame = inner_frame(lab, lab.address("z/c", 4), lab.address("y/a", 4), content)
    with udp_socket(lab.pod(pod), lab.address(pod, family)) as sender:
        sender.sendto(frame, (entry, 8472))


def entries(lab: ManifestLab, node: str, family: Family) -> list[str]:
    """Return the addresses at which a node's tunnel can be reached."""
    plan = lab.topology.nodes[node]
    found = [node_address(lab, node, family), tunnel_address(family_address(plan.pod_cidrs, family))]
    return [*found, gateway(family_address(plan.pod_cidrs, family))] if plan.attachment == "bridge" else found


def pod_hears(lab: ManifestLab, send: Callable[[], None]) -> list[bytes]:
    """Return what y/a hears of what is sent."""
    address = lab.address("y/a", 4)
    with udp_socket(lab.pod("y/a"), address, PORT) as listening:
        return arrived(
            listening, send, functools.partial(said, lab.pod("x/c"), lab.address("x/c", 4), address, b"fence")
        )


@only(*JOINED)
@pytest.mark.parametrize("family", FAMILIES)
def test_tunnel_packets_of_a_pod_are_dropped(lab: ManifestLab, family: Family) -> None:
    for entry in (*entries(lab, "n2", family), *entries(lab, "n1", family)[::2]):
        before = dropped(lab, "tunnel")
        assert pod_hears(lab, functools.partial(into_tunnel, lab, "x/c", entry, b"forged")) == [], entry
        assert dropped(lab, "tunnel") == before + 1, entry


@only(*JOINED)
@pytest.mark.parametrize("family", FAMILIES)
def test_tunnel_packets_of_a_pod_on_a_node_without_rules_are_dropped(lab: ManifestLab, family: Family) -> None:
    agent = lab.cluster.agent("n1")
    agent.stop()
    agent.nft("delete", "table", "inet", "nfagent")
    try:
        for entry in entries(lab, "n2", family):
            before = dropped(lab, "tunnel", "n2")
            assert pod_hears(lab, functools.partial(into_tunnel, lab, "x/c", entry, b"forged")) == [], entry
            assert dropped(lab, "tunnel", "n2") == before + 1, entry
    finally:
        agent.start()


@only(*JOINED)
def test_pods_may_tunnel_to_each_other_and_to_hosts_outside(lab: ManifestLab) -> None:
    host = receivers(lab, 4)["a host outside"]
    for namespace, address in ((lab.pod("y/a"), lab.address("y/a", 4)), host):
        with (
            udp_socket(namespace, address, 8472) as listening,
            udp_socket(lab.pod("x/c"), lab.address("x/c", 4)) as sender,
        ):
            sender.sendto(b"nested", (address, 8472))
            assert listening.recv(100) == b"nested"


@only(*JOINED)
@pytest.mark.parametrize("protocol", [4, 41, 47], ids=["IP in IP", "IPv6 in IP", "GRE"])
def test_tunnels_without_ports_are_closed_to_pods(lab: ManifestLab, protocol: int) -> None:
    far, own = node_address(lab, "n2", 4), node_address(lab, "n1", 4)
    with Capture(lab.topology.node_namespace("n2")) as capture:
        before, lie, fence = dropped(lab, "tunnel"), marker(), marker()
        for entry in (far, own):
            send_raw(lab.pod("x/c"), entry, protocol, lie)
        said(lab.pod("x/c"), lab.address("x/c", 4), far, fence)
        seen = capture.until(bearing(fence))
    assert not any(map(bearing(lie), seen))
    assert dropped(lab, "tunnel") == before + 2


def answer(lab: ManifestLab, pod: str, protocol: int, port: int) -> None:
    """Send a packet from n2 that conntrack takes for a reply."""
    udp = struct.pack("!HHHH", 8472, port, 8, 0) if protocol == 17 else bytes(8)
    send_raw(lab.topology.node_namespace("n2"), lab.address(pod, 4), protocol, udp)


@only(*JOINED)
@pytest.mark.parametrize("protocol", [17, 47], ids=["VXLAN", "GRE"])
def test_what_a_pod_sends_to_a_tunnel_ends_with_the_rules_though_it_was_answered_before(
    lab: ManifestLab, protocol: int
) -> None:
    """At the node's address in the tunnel, which is what it answers by."""
    agent, far = lab.cluster.agent("n1"), tunnel_address(family_address(lab.topology.nodes["n2"].pod_cidrs, 4))
    head = struct.pack("!HHHH", PORT, 8472, 16, 0) if protocol == 17 else bytes(8)
    agent.stop()
    agent.nft("delete", "table", "inet", "nfagent")
    try:
        track = "table inet track {\nchain seen {\ntype filter hook forward priority 10\nct state new\n}\n}\n"
        node = lab.topology.node_namespace("n1")
        subprocess.run(lab.topology.command(node, ["nft", "-f", "-"]), input=track, text=True, check=True, timeout=30)
        with Capture(lab.topology.node_namespace("n2")) as capture, Capture(lab.pod("x/c")) as back:
            first, lie = marker(), marker()
            send_raw(lab.pod("x/c"), far, protocol, head + first)
            capture.until(bearing(first))
            answer(lab, "x/c", protocol, PORT)
            back.until(lambda seen: seen.head.source == far and seen.head.protocol == protocol)
            agent.start()
            send_raw(lab.pod("x/c"), far, protocol, head + lie)
            fence = marker()
            said(lab.pod("x/c"), lab.address("x/c", 4), far, fence)
            assert not any(map(bearing(lie), capture.until(bearing(fence))))
    finally:
        if not agent.is_running:
            agent.start()
        agent.nft("delete", "table", "inet", "track")


# IPv6 link-local sources.


def link_local(namespace: str, link: str) -> tuple[str, int]:
    """Return an interface's own link-local address and index; its first, where there are more."""
    listed = subprocess.run(
        ["ip", "-n", namespace, "-j", "address", "show", "dev", link],
        check=True,
        capture_output=True,
        timeout=30,
    ).stdout
    [found] = [item for item in json.loads(listed) if item]
    own = [
        entry["local"] for entry in found["addr_info"] if entry.get("scope") == "link" and entry["family"] == "inet6"
    ]
    return own[0], int(found["ifindex"])


def link_of(lab: ManifestLab, pod: str) -> str:
    """Return the node's interface behind which a Pod is."""
    plan = lab.topology.pods[tuple(pod.split("/"))]  # type: ignore[index]
    route = subprocess.run(
        ["ip", "-n", lab.topology.node_namespace(plan.node), "-j", "route", "get", plan.addresses[0]],
        check=True,
        capture_output=True,
        timeout=30,
    ).stdout
    return str(json.loads(route)[0]["dev"])


def set_text(lab: ManifestLab, name: str, node: str = "n1") -> str:
    return lab.cluster.agent(node).nft("list", "set", "inet", "nfagent", name)


def from_link_local(lab: ManifestLab, pod: str, destination: str, content: bytes, port: int = PORT) -> None:
    """Send a datagram from a Pod's link-local address."""

    def send() -> None:
        own, index = link_local(lab.pod(pod), "eth0")
        with socket.socket(socket.AF_INET6, socket.SOCK_DGRAM) as sender:
            sender.bind((own, 0, 0, index))
            sender.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_MULTICAST_IF, index)
            sender.sendto(content, (destination, port, 0, index))

    netns.inside(lab.pod(pod), send)


@pytest.mark.parametrize("destination", ["the node's link-local address", "its own address", "all nodes of the link"])
def test_a_pod_reaches_nothing_of_its_node_from_a_link_local_source(lab: ManifestLab, destination: str) -> None:
    node = lab.topology.node_namespace("n1")
    near, _ = link_local(node, link_of(lab, "x/a"))
    own = node_address(lab, "n1", 6)
    address = {"the node's link-local address": near, "its own address": own}.get(destination, "ff02::1")
    before = dropped(lab, "link-local")
    with udp_socket(node, "::", PORT) as listening:
        lie = functools.partial(from_link_local, lab, "x/a", address, b"lie")
        assert arrived(listening, lie, lambda: said(lab.pod("x/c"), lab.address("x/c", 6), own, b"fence")) == []
    # A bridge has a copy of what is for all for each of its ports, and these are counted in the forward hook.
    assert dropped(lab, "link-local") > before


def test_a_link_local_connection_that_began_before_the_rules_ends_with_them(lab: ManifestLab) -> None:
    node, agent = lab.topology.node_namespace("n1"), lab.cluster.agent("n1")
    near, _ = link_local(node, link_of(lab, "x/c"))
    _, index = link_local(lab.pod("x/c"), "eth0")
    agent.stop()
    agent.nft("delete", "table", "inet", "nfagent")
    try:
        with (
            tcp_listener(node, "::", PORT) as listener,
            tcp_connect(lab.pod("x/c"), f"{near}%{index}", PORT) as client,
            accept(listener) as server,
        ):
            client.send(b"before")
            assert server.recv(100) == b"before"
            agent.start()
            client.send(b"after")
            server.settimeout(0.5)
            with pytest.raises(TimeoutError):
                server.recv(100)
    finally:
        if not agent.is_running:
            agent.start()


def test_a_node_reaches_its_pod_at_its_link_local_address(lab: ManifestLab) -> None:
    own, _ = link_local(lab.pod("x/c"), "eth0")
    node = lab.topology.node_namespace("n1")
    _, index = link_local(node, link_of(lab, "x/c"))
    with (
        tcp_listener(lab.pod("x/c"), "::", PORT) as listener,
        tcp_connect(node, f"{own}%{index}", PORT) as client,
        accept(listener) as server,
    ):
        server.send(b"answer")
        assert client.recv(100) == b"answer"


def test_neighbour_discovery_and_listener_reports_pass_from_link_local_sources_and_from_none(lab: ManifestLab) -> None:
    """By a Pod that knows no neighbour, takes a new address by duplicate address detection, and joins a group."""
    namespace, before = lab.pod("x/c"), dropped(lab, "link-local") + dropped(lab, "unrouted")
    node = lab.topology.node_namespace("n1")
    link = link_of(lab, "x/c")
    near, _ = link_local(node, link)
    netns.ip_batch([f"neighbour flush dev {link}"], node)
    if lab.topology.nodes["n1"].attachment == "bridge":
        netns.ip_batch(["neighbour flush dev eth0"], namespace)
    netns.write_sysctls(namespace, {"ipv6/conf/eth0/accept_dad": "1"})
    netns.ip_batch(
        ["address add 2001:db8:244:1::99/128 dev eth0 nodad", "address add 224.9.9.9/32 dev eth0 autojoin"], namespace
    )
    try:
        with udp_socket(node, "::", PORT) as listening:
            said(namespace, lab.address("x/c", 6), node_address(lab, "n1", 6), b"found")
            assert listening.recv(100) == b"found"
            with udp_socket(namespace, lab.address("x/c", 6)) as sender:
                sender.sendto(b"found", (near, PORT, 0, link_local(namespace, "eth0")[1]))
            assert listening.recv(100) == b"found"
        states: Callable[[], str] = functools.partial(address_text, namespace)
        wait_until(lambda: "tentative" not in states())
        assert "dadfailed" not in states()
    finally:
        netns.write_sysctls(namespace, {"ipv6/conf/eth0/accept_dad": "0"})
        netns.ip_batch(["address del 2001:db8:244:1::99/128 dev eth0", "address del 224.9.9.9/32 dev eth0"], namespace)
    assert dropped(lab, "link-local") + dropped(lab, "unrouted") == before


def address_text(namespace: str) -> str:
    command = ["ip", "-n", namespace, "-6", "address", "show", "dev", "eth0"]
    return subprocess.run(command, check=True, capture_output=True, text=True, timeout=30).stdout


def test_dhcp_reaches_a_server_on_the_node(lab: ManifestLab) -> None:
    node = lab.topology.node_namespace("n1")
    with udp_socket(node, "0.0.0.0", 67) as four, udp_socket(node, "::", 547) as six:  # noqa: S104 - a namespace's own
        from_link_local(lab, "x/c", link_local(node, link_of(lab, "x/c"))[0], b"solicit", 547)
        assert six.recv(100) == b"solicit"
        netns.inside(lab.pod("x/c"), _discover)
        assert four.recv(100) == b"discover"


def _discover() -> None:
    """Send a broadcast from no address, as a DHCP client does."""
    content = b"discover"
    udp = struct.pack("!HHHH", 68, 67, 8 + len(content), 0) + content
    head = struct.pack("!BBHHHBBH", 0x45, 0, 20 + len(udp), 0, 0, 64, 17, 0) + bytes(4) + b"\xff" * 4
    head = head[:10] + internet_checksum(head).to_bytes(2, "big") + head[12:]
    with socket.socket(socket.AF_PACKET, socket.SOCK_DGRAM) as sender:
        sender.sendto(head + udp, ("eth0", 0x0800, 0, 1, b"\xff" * 6))


# How the sets live.


def knows(lab: ManifestLab, name: str, element: str, *, there: bool = True) -> bool:
    """Wait until the kernel's set has an element, or has it no longer; tell whether it came to that."""
    return holds_within(lambda: (element in re.findall(r"[\w.:]+", set_text(lab, name))) == there)


@only(("routed", "flat"))
def test_an_interface_is_known_as_soon_as_its_pod_and_forgotten_with_it(lab: ManifestLab) -> None:
    pod = PodPlan("x", "late", "n1", ("10.244.1.77", "2001:db8:244:1::77"))
    names = []
    for _ in range(2):  # made anew, it has another interface
        lab.topology.add_pod(pod)
        lab.apply("late", pod_document(pod))
        link = link_of(lab, "x/late")
        names.append(link)
        assert knows(lab, "podlinks", link)
        namespace, address = receivers(lab, 4)["a Pod of its node"]
        with udp_socket(namespace, address, PORT) as listening:
            honest = functools.partial(said, lab.pod("x/c"), lab.address("x/c", 4), address, b"fence")
            lie = functools.partial(said, lab.pod("x/late"), "8.8.8.8", address, b"lie", spoofed=True)
            assert arrived(listening, lie, honest) == []
        lab.topology.remove_pod("x", "late")
        assert knows(lab, "podlinks", link, there=False)
    lab.delete("late")
    assert names[0] != names[1]


@only(("routed", "flat"))
def test_an_interface_that_is_renamed_is_known_by_its_new_name(lab: ManifestLab) -> None:
    node, link = lab.topology.node_namespace("n1"), link_of(lab, "z/c")
    netns.ip_batch([f"link set {link} name other"], node)
    try:
        assert knows(lab, "podlinks", "other")
        assert knows(lab, "podlinks", link, there=False)
    finally:
        netns.ip_batch([f"link set other name {link}"], node)
    assert knows(lab, "podlinks", link)


@only(("bridge", "flat"))
def test_a_bridge_that_leads_elsewhere_no_longer_counts_and_is_named(lab: ManifestLab) -> None:
    node, agent = lab.topology.node_namespace("n1"), lab.cluster.agent("n1")
    assert knows(lab, "podlinks", "cbr0")
    netns.ip_batch(["link add elsewhere type vxlan id 7 dstport 4790", "link set elsewhere master cbr0"], node)
    try:
        assert knows(lab, "podlinks", "cbr0", there=False)
        why = "its port elsewhere may lead to other hosts"
        assert agent.ask("/v1/dump/state")["agent"]["links"]["shared"] == [{"link": "cbr0", "why": why}]
        checks: list[dict[str, Any]] = json.loads(agent.run("check", "-o", "json").stdout)["checks"]
        [found] = [item for item in checks if item["name"] == "Pod interfaces"]
        assert found["result"] == "warn"
        assert f"cbr0 ({why})" in found["found"]
        assert "reach the node from link-local addresses past their policies" in found["found"]
    finally:
        netns.ip_batch(["link del elsewhere"], node)
    assert knows(lab, "podlinks", "cbr0")


@only(("routed", "flat"))
def test_a_tunnel_that_is_switched_on_is_closed_and_open_when_it_is_off(lab: ManifestLab) -> None:
    node = lab.topology.node_namespace("n1")
    netns.ip_batch(["link add overlay type vxlan id 7 dstport 6081"], node)
    try:
        assert knows(lab, "tunnels", "6081", there=False)
        netns.ip_batch(["link set overlay up"], node)
        assert knows(lab, "tunnels", "6081")
        netns.ip_batch(["link set overlay down"], node)
        assert knows(lab, "tunnels", "6081", there=False)
    finally:
        netns.ip_batch(["link del overlay"], node)


@only(*FLAT, *JOINED)
def test_interfaces_stay_known_over_a_restart_of_the_agent(lab: ManifestLab) -> None:
    agent = lab.cluster.agent("n1")
    names = ("podlinks", "tunnels", "nodes4", "podranges4")
    before = [sorted(set_text(lab, name).split()) for name in names]
    for kill in (False, True):
        agent.stop(kill=kill)
        assert [sorted(set_text(lab, name).split()) for name in names] == before
        agent.start()
        assert [sorted(set_text(lab, name).split()) for name in names] == before
        assert agent.run("dump", "diff").returncode == 0


def test_packets_with_assigned_sources_pass(lab: ManifestLab) -> None:
    node = lab.topology.node_namespace("n1")
    own = [node_address(lab, "n1", family) for family in FAMILIES]
    lab.servers.listen(Endpoint(node, address, "tcp", 80) for address in own)
    lab.servers.listen(Endpoint(lab.pod("y/a"), lab.address("y/a", family), "tcp", 80) for family in FAMILIES)
    addresses = [*own, *(lab.address("y/a", family) for family in FAMILIES)]
    assert lab.wrong({Probe(lab.pod("x/c"), address, "tcp", 80): True for address in addresses}) == []
