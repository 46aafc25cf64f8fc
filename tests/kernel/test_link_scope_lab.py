"""Link scope: link-local addresses, multicast groups and broadcast, neighbour discovery and listener messages."""

from __future__ import annotations

import contextlib
import socket
import struct
import subprocess
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path

import pytest

from nfagent.lab.probes.listeners import DOMAINS
from nfagent.lab.topology import netns
from nfagent.lab.topology.ip_commands import BRIDGE
from nfagent.lab.topology.plan import OutsideHost, PodPlan, grid
from nfagent.model.netaddr import FAMILIES, Family, family_of
from tests.support.edge_case_lab import (
    MARKER_PORT,
    OF_Y,
    OPEN_PORT,
    TCP_OPEN,
    UDP_MARKER,
    address_at,
    arrived,
    edge_case_lab,
    name_of,
    only_rule,
    restrict,
)
from tests.support.packet_labs import ManifestLab, namespace_document, pod_document, policy_document, running_lab
from tests.support.raw_sockets import Capture, bearing, marker, tcp_listener, udp_socket
from tests.support.removed_rules import remove_rules

pytestmark = [pytest.mark.kernel, pytest.mark.both_backends(asked=True)]

ANYWHERE: dict[Family, str] = {4: "0.0.0.0", 6: "::"}  # noqa: S104 - a Pod's own namespace
GROUPS = ["255.255.255.255", "10.244.1.255", "224.0.0.1", "224.0.0.251", "ff02::1", "ff02::fb"]
DISCOVERY, LISTENER = (133, 134, 135, 136, 137), (130, 131, 132, 143)
"""ICMPv6 types: neighbour discovery (RFC 4861), multicast listener discovery (RFC 2710, RFC 3810)."""

HOST = "eth1"
HOST_ADDRESSES: dict[Family, str] = {4: "10.244.1.200", 6: "2001:db8:244:1::200"}


@pytest.fixture(scope="module", params=["routed", "bridge"])
def lab(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory, backend: str
) -> Iterator[ManifestLab]:
    with edge_case_lab(tmp_path_factory.mktemp("lab"), request.param, backend=backend) as running:
        yield running


@pytest.fixture(scope="module")
def bridged(tmp_path_factory: pytest.TempPathFactory, backend: str) -> Iterator[ManifestLab]:
    """Connect the host `outside` to the bridge of n1's Pods too, as behind an uplink."""
    with edge_case_lab(tmp_path_factory.mktemp("bridged"), "bridge", backend=backend) as running:
        node, outside = running.topology.node_namespace("n1"), running.topology.outside_namespace("outside")
        netns.ip_batch([f"link add uplink netns {node} type veth peer name {HOST} netns {outside}"])
        netns.ip_batch([f"link set uplink master {BRIDGE} up"], node)
        lines = [
            f"address add {HOST_ADDRESSES[4]}/24 dev {HOST}",
            f"address add {HOST_ADDRESSES[6]}/64 dev {HOST} nodad",
        ]
        netns.ip_batch([f"link set {HOST} up", *lines], outside)
        # The bridge forwards to a port once it is running.
        netns.await_links(outside, (HOST,))
        netns.await_links(node, ("uplink",))
        yield running


@pytest.fixture
def held(request: pytest.FixtureRequest) -> Iterator[contextlib.ExitStack]:
    """Close what a test opens, and take its policies away."""
    with contextlib.ExitStack() as stack:
        yield stack
    for name in {"lab", "bridged"} & set(request.fixturenames):
        request.getfixturevalue(name).only_cluster()


def link_local(namespace: str, device: str = "eth0") -> str:
    """Return the link-local address of a namespace's interface."""
    asked = ["ip", "-n", namespace, "-o", "-6", "address", "show", "dev", device, "scope", "link"]
    return subprocess.run(asked, capture_output=True, text=True, check=True, timeout=20).stdout.split()[3].split("/")[0]


def say(  # noqa: PLR0917 - a datagram has these parts
    namespace: str, source: str, destination: str, content: bytes, device: str = "eth0", port: int = OPEN_PORT
) -> None:
    """Send a datagram by an ordinary socket; a group's goes out by the device."""

    def send() -> None:
        index = socket.if_nametoindex(device)
        family: Family = 6 if ":" in destination else 4
        with socket.socket(DOMAINS[family], socket.SOCK_DGRAM) as sock:
            if family == 6:
                sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_MULTICAST_IF, index)
                scope = index if destination.startswith(("fe80", "ff02")) else 0
                sock.bind((source, 0, 0, index if source.startswith("fe80") else 0))
                sock.sendto(content, (destination, port, 0, scope))
            else:
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_BROADCAST, 1)
                sock.setsockopt(socket.IPPROTO_IP, socket.IP_MULTICAST_IF, struct.pack("=4s4si", b"", b"", index))
                sock.bind((source, 0))
                sock.sendto(content, (destination, port))

    netns.inside(namespace, send)


def icmpv6(namespace: str, destination: str, kind: int, body: bytes, *, code: int = 0, hops: int = 64) -> None:
    """Send an ICMPv6 message of any type, as root in a Pod can."""

    def send() -> None:
        with socket.socket(socket.AF_INET6, socket.SOCK_RAW, socket.IPPROTO_ICMPV6) as sock:
            index = socket.if_nametoindex("eth0")
            sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_UNICAST_HOPS, hops)
            sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_MULTICAST_HOPS, hops)
            sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_MULTICAST_IF, index)
            scope = index if destination.startswith(("fe80", "ff02")) else 0
            sock.sendto(bytes([kind, code, 0, 0]) + body, (destination, 0, 0, scope))

    netns.inside(namespace, send)


def passing(
    lab: ManifestLab, capture: Capture, sent: Sequence[bytes], source: str = "y/near", target: str = "x/a"
) -> list[bytes]:
    """Return those of the contents that came before a datagram that may come, and is sent now."""
    came = [arrival.content for arrival in arrived(lab, capture, source, lab.address(target, 4))]
    return [content for content in sent if any(packet.endswith(content) for packet in came)]


def connects(namespace: str, destination: str, source: str = "") -> bool:
    """Return whether TCP gets through, from the namespace's eth0."""

    def connect() -> bool:
        index = socket.if_nametoindex("eth0")
        with socket.socket(socket.AF_INET6, socket.SOCK_STREAM) as sock:
            sock.settimeout(0.7)
            if source:
                sock.bind((source, 0, 0, index))
            try:
                sock.connect((destination, OPEN_PORT, 0, index if destination.startswith("fe80") else 0))
            except TimeoutError:
                return False
            return True

    return netns.inside(namespace, connect)


# Link-local addresses


@pytest.mark.parametrize("isolated", [True, False], ids=["isolated in both directions", "not isolated"])
def test_a_pod_reaches_no_pod_of_its_bridge_by_a_link_local_address(
    bridged: ManifestLab,
    held: contextlib.ExitStack,
    isolated: bool,  # noqa: FBT001 - a table's column
) -> None:
    lab, near, own = bridged, bridged.pod("y/near"), bridged.pod("x/a")
    if isolated:
        restrict(lab)
    for address in (link_local(near), lab.address("y/near", 6)):
        held.enter_context(netns.inside(near, partial(listening, address)))
    ways = {
        "to its link-local address": (link_local(near), ""),
        "from one": (lab.address("y/near", 6), link_local(own)),
    }
    assert [way for way, ends in ways.items() if connects(own, *ends)] == []


def listening(address: str) -> socket.socket:
    index = socket.if_nametoindex("eth0") if address.startswith("fe80") else 0
    sock = socket.socket(socket.AF_INET6, socket.SOCK_STREAM)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    sock.bind((address, OPEN_PORT, 0, index))
    sock.listen()
    return sock


def test_pods_with_ipv4_only_do_not_reach_each_other_by_link_local_addresses(
    tmp_path: Path, held: contextlib.ExitStack
) -> None:
    nodes, _, _ = grid("bridge")
    pods = [PodPlan("x", name, "n1", (f"10.244.1.{last}",)) for last, name in enumerate("ab", start=10)]
    closed = policy_document("x", "closed", podSelector={}, policyTypes=["Ingress", "Egress"])
    documents = [namespace_document("x"), *map(pod_document, pods), closed]
    with running_lab(tmp_path, nodes, pods, [OutsideHost("outside", ("198.51.100.10",))], documents) as lab:
        there = link_local(lab.pod("x/b"))
        held.enter_context(netns.inside(lab.pod("x/b"), lambda: listening(there)))
        assert not connects(lab.pod("x/a"), there)
        with udp_socket(lab.pod("x/b"), ANYWHERE[6], OPEN_PORT) as server:
            content = marker()
            say(lab.pod("x/a"), link_local(lab.pod("x/a")), "ff02::1", content)
            server.settimeout(0.7)
            with pytest.raises(TimeoutError):
                server.recv(100)


TRACKING = "table inet tracking { chain c { type filter hook forward priority 0; ct state established accept; }; }"


@pytest.mark.parametrize("when", ["at the start", "later"])
def test_a_connection_by_link_local_addresses_from_before_the_rules_ends_where_a_pod_is_isolated(
    bridged: ManifestLab, held: contextlib.ExitStack, when: str
) -> None:
    lab, node, near, own = bridged, bridged.topology.node_namespace("n1"), bridged.pod("y/near"), bridged.pod("x/a")
    there = link_local(near)
    listener = held.enter_context(netns.inside(near, partial(listening, there)))

    def connect() -> socket.socket:
        sock = socket.socket(socket.AF_INET6, socket.SOCK_STREAM)
        sock.settimeout(5)
        sock.connect((there, OPEN_PORT, 0, socket.if_nametoindex("eth0")))
        return sock

    if when == "at the start":
        restrict(lab)
    agent = lab.cluster.agent("n1")
    agent.stop()
    held.callback(subprocess.run, lab.topology.command(node, ["nft", "delete table inet tracking"]), check=True)
    subprocess.run(lab.topology.command(node, ["nft", TRACKING]), check=True, timeout=30)
    remove_rules(lab, agent)
    try:
        client = held.enter_context(netns.inside(own, connect))
        server = held.enter_context(listener.accept()[0])
        client.sendall(b"before")
        assert server.recv(100) == b"before"
    finally:
        agent.start()
    if when == "later":
        client.sendall(b"still")
        assert server.recv(100) == b"still"
        restrict(lab)
    lab.cluster.wait_for_recheck()
    client.sendall(b"after")
    server.settimeout(0.7)
    with pytest.raises(TimeoutError):
        server.recv(100)


# Groups and broadcast


def senders(lab: ManifestLab) -> dict[str, tuple[str, str, Callable[[Family], str]]]:
    """Return namespace, device and address of who can send to n1's bridge."""
    return {
        "a Pod": (lab.pod("y/near"), "eth0", lambda family: lab.address("y/near", family)),
        "a host on the uplink": (lab.topology.outside_namespace("outside"), HOST, HOST_ADDRESSES.__getitem__),
    }


@pytest.mark.parametrize("group", GROUPS)
@pytest.mark.parametrize("sender", ["a Pod", "a host on the uplink"])
def test_broadcast_and_groups_do_not_go_around_the_isolation_of_a_pod_on_a_bridge(
    bridged: ManifestLab, held: contextlib.ExitStack, sender: str, group: str
) -> None:
    lab, family = bridged, family_of(group)
    namespace, device, address = senders(lab)[sender]
    restrict(lab, **only_rule("ingress", {"ports": [UDP_MARKER]}))
    capture = held.enter_context(Capture(lab.pod("x/a")))
    content = marker(32)
    say(namespace, address(family), group, content, device)
    assert passing(lab, capture, [content]) == []


@pytest.mark.parametrize("group", GROUPS)
@pytest.mark.parametrize("spec", [{}, {"policyTypes": ["Egress"], "egress": [{}]}], ids=["no policy", "egress alone"])
def test_where_no_pod_is_isolated_for_ingress_broadcast_and_groups_pass(
    bridged: ManifestLab, held: contextlib.ExitStack, group: str, spec: dict[str, object]
) -> None:
    lab, family = bridged, family_of(group)
    if spec:
        lab.apply("policy", policy_document("x", "only", podSelector={}, **spec))
    capture = held.enter_context(Capture(lab.pod("x/a")))
    content = marker(32)
    say(lab.pod("y/near"), lab.address("y/near", family), group, content)
    assert passing(lab, capture, [content]) == [content]


@pytest.mark.parametrize("group", GROUPS)
def test_what_the_node_itself_sends_to_all_of_its_bridge_passes(
    bridged: ManifestLab, held: contextlib.ExitStack, group: str
) -> None:
    lab = bridged
    restrict(lab, **only_rule("ingress", {"ports": [UDP_MARKER]}))
    own = {4: "10.244.1.1", 6: "2001:db8:244:1::1"}[family_of(group)]
    capture = held.enter_context(Capture(lab.pod("x/a")))
    content = marker(32)
    say(lab.topology.node_namespace("n1"), own, group, content, BRIDGE)
    assert passing(lab, capture, [content]) == [content]


def test_a_multicast_group_is_denied_only_in_the_families_of_isolated_pods(
    tmp_path: Path, held: contextlib.ExitStack
) -> None:
    nodes, _, _ = grid("bridge")
    pods = [
        PodPlan("x", "a", "n1", ("10.244.1.10",)),
        PodPlan("y", "near", "n1", ("10.244.1.11", "2001:db8:244:1::11")),
    ]
    documents = [namespace_document(name) for name in "xy"] + list(map(pod_document, pods))
    with running_lab(tmp_path, nodes, pods, documents=documents) as lab:
        lab.apply(
            "policy", policy_document("x", "only", podSelector={}, ingress=[{"from": [OF_Y], "ports": [UDP_MARKER]}])
        )
        capture = held.enter_context(Capture(lab.pod("x/a")))
        sent = {group: marker(32) for group in ("224.0.0.1", "ff02::1")}
        for group, content in sent.items():
            say(lab.pod("y/near"), lab.address("y/near", family_of(group)), group, content)
        assert passing(lab, capture, list(sent.values())) == [sent["ff02::1"]]


# Neighbour discovery and listener messages


@pytest.mark.parametrize("destination", ["y/near", "y/far", "outside"])
@pytest.mark.parametrize("hops", [1, 2, 64, 255])
def test_messages_of_neighbours_and_listeners_carry_nothing_out_of_an_isolated_pod(
    lab: ManifestLab, held: contextlib.ExitStack, destination: str, hops: int
) -> None:
    restrict(lab, egress=[{"to": [OF_Y], "ports": [UDP_MARKER]}])
    there = address_at(lab, destination, 6)
    capture = held.enter_context(Capture(name_of(lab, destination)))
    sent = {kind: marker(796) for kind in (*DISCOVERY, *LISTENER)}
    for kind, content in sent.items():
        icmpv6(lab.pod("x/a"), there, kind, content, hops=hops)
    last = marker()
    if destination == "outside":
        say(lab.topology.node_namespace("n1"), "2001:db8:ffff::1", there, last, port=MARKER_PORT)
        came = capture.until(bearing(last))
    else:
        say(lab.pod("x/a"), lab.address("x/a", 6), there, last, port=MARKER_PORT)
        came = capture.until(bearing(last))
    assert [kind for kind, content in sent.items() if any(item.content.endswith(content) for item in came)] == []


@pytest.mark.parametrize("destination", ["y/near", "y/far"])
def test_malformed_neighbour_messages_meet_policies(
    lab: ManifestLab, held: contextlib.ExitStack, destination: str
) -> None:
    restrict(lab, egress=[{"to": [OF_Y], "ports": [UDP_MARKER]}])
    there = lab.address(destination, 6)
    capture = held.enter_context(Capture(lab.pod(destination)))
    wrong = {"a hop limit of 64": (64, 0), "of 254": (254, 0), "a code": (255, 1)}
    sent = {words: marker(28) for words in wrong}
    for words, content in sent.items():
        icmpv6(lab.pod("x/a"), there, 136, content, hops=wrong[words][0], code=wrong[words][1])
    last = marker()
    say(lab.pod("x/a"), lab.address("x/a", 6), there, last, port=MARKER_PORT)
    came = capture.until(bearing(last))
    assert [words for words, content in sent.items() if any(item.content.endswith(content) for item in came)] == []


def test_without_isolated_pods_malformed_neighbour_messages_pass(lab: ManifestLab, held: contextlib.ExitStack) -> None:
    there = lab.address("y/far", 6)
    capture = held.enter_context(Capture(lab.pod("y/far")))
    content = marker(100)
    icmpv6(lab.pod("x/a"), there, 136, content)
    capture.until(bearing(content))


def test_an_isolated_pod_on_a_bridge_may_report_its_multicast_groups(
    bridged: ManifestLab, held: contextlib.ExitStack
) -> None:
    lab = bridged
    restrict(lab, **only_rule("ingress", {"ports": [TCP_OPEN]}))
    capture = held.enter_context(Capture(lab.pod("y/near")))

    def join() -> socket.socket:
        sock = socket.socket(socket.AF_INET6, socket.SOCK_DGRAM)
        request = socket.inet_pton(socket.AF_INET6, "ff02::1234") + struct.pack("=I", socket.if_nametoindex("eth0"))
        sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_JOIN_GROUP, request)
        return sock

    held.enter_context(netns.inside(lab.pod("x/a"), join))
    capture.until(lambda arrival: b"\xff\x02" + bytes(12) + b"\x12\x34" in arrival.content)


@pytest.mark.parametrize("family", FAMILIES)
def test_pods_of_a_bridge_reach_each_other_after_their_neighbour_entries_were_deleted(
    bridged: ManifestLab, held: contextlib.ExitStack, family: Family
) -> None:
    lab = bridged
    restrict(lab, **only_rule("ingress", {"ports": [TCP_OPEN]}))
    held.enter_context(tcp_listener(lab.pod("x/a"), lab.address("x/a", family), OPEN_PORT))
    for place in ("n1", "x/a", "y/near"):
        netns.ip_batch(["neigh flush all"], name_of(lab, place))

    def connect() -> None:
        socket.create_connection((lab.address("x/a", family), OPEN_PORT), 5).close()

    netns.inside(lab.pod("y/near"), connect)
