"""Edge cases that only packets show: fragments, errors, neighbours, protocols without ports, spoofed addresses.

The numbers are those of docs/semantics.md: 35, 36, 37, 39.
"""

from __future__ import annotations

import contextlib
import json
import socket
import subprocess
import sys
from collections.abc import Iterator
from typing import NamedTuple

import pytest

from nfagent.lab.probes import raw_packets
from nfagent.lab.probes.listeners import ICMP_NUMBERS
from nfagent.lab.topology import netns
from nfagent.model.netaddr import FAMILIES, Family
from tests.support.conntrack_table import forget
from tests.support.edge_case_lab import (
    DENIED_PORT,
    OPEN_PORT,
    OTHERS,
    PLACES,
    TCP_OPEN,
    TRANSLATED,
    UDP_MARKER,
    UDP_OPEN,
    address_at,
    arrived,
    edge_case_lab,
    name_of,
    only_rule,
    restrict,
)
from tests.support.packet_labs import Document, ManifestLab, policy_document
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
    unreachable,
)

pytestmark = [pytest.mark.kernel, pytest.mark.both_backends(asked=True)]

DIRECTIONS = ("ingress", "egress")
NEIGHBOURS = {135, 136}  # RFC 4861: solicitation, advertisement


@pytest.fixture(scope="module", params=["routed", "bridge"])
def lab(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory, backend: str
) -> Iterator[ManifestLab]:
    with edge_case_lab(tmp_path_factory.mktemp("lab"), request.param, backend=backend) as running:
        yield running


@pytest.fixture
def held(lab: ManifestLab) -> Iterator[contextlib.ExitStack]:
    """Return what closes a test's sockets; take its policies away after that."""
    with contextlib.ExitStack() as stack:
        stack.callback(lab.only_cluster)
        yield stack


def ends(direction: str, peer: str) -> tuple[str, str]:
    """Return sender and receiver of a packet for which a direction of x/a's policies counts."""
    return ("x/a", peer) if direction == "egress" else (peer, "x/a")


# 35


class OversizedDatagram(NamedTuple):
    """How large it is, and the destination options that go before its UDP header."""

    family: Family
    size: int
    options: bytes = b""


PADDING = bytes([0, 0, 1, 4, 0, 0, 0, 0])  # RFC 8200, 4.6 and 4.2: 8 bytes of options that mean nothing


@pytest.mark.parametrize(
    "datagram",
    [
        pytest.param(OversizedDatagram(4, 4000), id="IPv4 fragments"),
        pytest.param(OversizedDatagram(6, 4000), id="IPv6 fragments"),
        pytest.param(OversizedDatagram(6, 100, PADDING), id="IPv6 destination options before UDP"),
        pytest.param(OversizedDatagram(6, 4000, PADDING), id="IPv6 fragments with destination options"),
    ],
)
@pytest.mark.parametrize("peer", OTHERS, ids=PLACES)
@pytest.mark.parametrize("direction", DIRECTIONS)
def test_35_a_datagram_passes_whole_to_an_allowed_port_and_no_part_of_it_to_another(
    lab: ManifestLab, held: contextlib.ExitStack, direction: str, peer: str, datagram: OversizedDatagram
) -> None:
    source, destination = ends(direction, peer)
    restrict(lab, **only_rule(direction, {"ports": [UDP_OPEN]}))
    address = lab.address(destination, datagram.family)
    allowed = held.enter_context(udp_socket(lab.pod(destination), address, OPEN_PORT))
    sender = held.enter_context(udp_socket(lab.pod(source), lab.address(source, datagram.family)))
    if datagram.options:
        sender.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_DSTOPTS, datagram.options)
    capture = held.enter_context(Capture(lab.pod(destination)))
    content = marker(datagram.size)
    sender.sendto(marker(datagram.size), (address, DENIED_PORT))
    sender.sendto(content, (address, OPEN_PORT))
    assert allowed.recv(1 << 16) == content
    pieces = [head for head, _ in capture.until(bearing(content[-8:])) if head.protocol == socket.IPPROTO_UDP]
    assert {head.destination_port for head in pieces} - {None} == {OPEN_PORT}
    assert len(pieces) == -(-datagram.size // 1400)


# 36

PATH_MTU = 1300
MTU_OF_PATH = {4: (socket.IPPROTO_IP, 14), 6: (socket.IPPROTO_IPV6, 24)}  # linux/in.h IP_MTU, linux/in6.h IPV6_MTU


@contextlib.contextmanager
def narrowed(lab: ManifestLab, pod: str, family: Family) -> Iterator[None]:
    """Lower the MTU of the link from the node to a Pod."""
    namespace, name = pod.split("/")
    node = lab.topology.node_namespace(lab.topology.pods[namespace, name].node)
    asked = ["ip", "-n", node, "-json", "route", "get", lab.address(pod, family)]
    [route] = json.loads(subprocess.run(asked, capture_output=True, check=True, timeout=20).stdout)
    netns.ip_batch([f"link set {route['dev']} mtu {PATH_MTU}"], node)
    try:
        yield
    finally:
        netns.ip_batch([f"link set {route['dev']} mtu 1500"], node)


@pytest.mark.parametrize("family", FAMILIES)
def test_36_a_packet_too_big_error_reaches_the_sender_of_an_allowed_flow(
    lab: ManifestLab, held: contextlib.ExitStack, family: Family
) -> None:
    restrict(lab, **only_rule("egress", {"ports": [TCP_OPEN]}))
    held.enter_context(narrowed(lab, "y/far", family))
    listener = held.enter_context(tcp_listener(lab.pod("y/far"), lab.address("y/far", family), OPEN_PORT))
    client = held.enter_context(tcp_connect(lab.pod("x/a"), *listener.getsockname()[:2]))
    server = held.enter_context(accept(listener))
    content = marker(4000)
    client.sendall(content)
    assert server.recv(len(content), socket.MSG_WAITALL) == content
    assert client.getsockopt(*MTU_OF_PATH[family]) == PATH_MTU


@pytest.mark.parametrize("family", FAMILIES)
def test_36_an_error_about_no_connection_reaches_a_pod_unless_it_is_isolated(
    lab: ManifestLab, held: contextlib.ExitStack, family: Family
) -> None:
    own, outside = lab.address("x/a", family), name_of(lab, "outside")
    error = unreachable(family, own, TRANSLATED[family])
    capture = held.enter_context(Capture(lab.pod("x/a")))
    send_raw(outside, own, ICMP_NUMBERS[family], error)
    capture.until(bearing(error[4:]))
    restrict(lab, ingress=[{"ports": [UDP_MARKER]}])
    send_raw(outside, own, ICMP_NUMBERS[family], error)
    assert [head for head, _ in arrived(lab, capture, "y/far", own) if head.source == TRANSLATED[family]] == []


@pytest.mark.parametrize("source", ["n1", *OTHERS], ids=["the node", *PLACES])
def test_36_neighbours_find_isolated_pods_before_the_first_contact(
    lab: ManifestLab, held: contextlib.ExitStack, source: str
) -> None:
    restrict(lab, **({} if source == "n1" else only_rule("ingress", {"ports": [TCP_OPEN]})))
    to_x = [{"to": [{"namespaceSelector": {"matchLabels": {"ns": "x"}}}], "ports": [TCP_OPEN]}]
    lab.apply("y", policy_document("y", "only", podSelector={}, policyTypes=["Ingress", "Egress"], egress=to_x))
    capture = held.enter_context(Capture(lab.pod("x/a")))
    for place in ("n1", "n2", "x/a", *OTHERS):
        netns.ip_batch(["neigh flush all"], name_of(lab, place))
    for family in FAMILIES:
        with tcp_listener(lab.pod("x/a"), lab.address("x/a", family), OPEN_PORT) as listener:
            tcp_connect(name_of(lab, source), *listener.getsockname()[:2]).close()
    before = capture.until(lambda arrival: arrival.head.family == 6 and arrival.head.protocol == socket.IPPROTO_TCP)
    assert any(head.icmp_type in NEIGHBOURS for head, _ in before)


# 37

NUMBERS: dict[Family, tuple[int, ...]] = {family: (ICMP_NUMBERS[family], 4, 47, 50) for family in FAMILIES}
"""ICMP of the family, IP in IP, GRE, ESP (IANA's protocol numbers)."""

PORTS = {"ports": [UDP_MARKER, {"protocol": "TCP"}, {"protocol": "SCTP"}]}


@pytest.mark.parametrize(
    ("rule", "allowed"),
    [
        pytest.param({}, True, id="a rule with peers only lets them pass"),
        pytest.param(PORTS, False, id="a rule with ports does not"),
    ],
)
@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("peer", OTHERS, ids=PLACES)
@pytest.mark.parametrize("direction", DIRECTIONS)
def test_37_protocols_without_ports_4_47_50_and_icmp(  # noqa: PLR0917 - a case has these parts
    lab: ManifestLab,
    held: contextlib.ExitStack,
    direction: str,
    peer: str,
    family: Family,
    rule: Document,
    *,
    allowed: bool,
) -> None:
    source, destination = ends(direction, peer)
    restrict(lab, **only_rule(direction, rule))
    address = lab.address(destination, family)
    for node in lab.topology.nodes:
        # Without ports, this is the connection that an earlier case made.
        forget(name_of(lab, node))
    capture = held.enter_context(Capture(lab.pod(destination)))
    for number in NUMBERS[family]:
        echo = raw_packets.echo_request(family, 1, 1)
        send_raw(lab.pod(source), address, number, echo if number == ICMP_NUMBERS[family] else bytes(16))
    heads = [head for head, _ in arrived(lab, capture, source, address) if head.icmp_type not in NEIGHBOURS]
    found = {head.protocol for head in heads if head.source == lab.address(source, family)}
    assert found == (set(NUMBERS[family]) if allowed else set())


# 39

PROBE = "import socket, sys; socket.create_connection((sys.argv[1], int(sys.argv[2])), 5)"


@pytest.mark.parametrize("family", FAMILIES)
def test_39_any_user_of_the_node_reaches_its_pods(lab: ManifestLab, held: contextlib.ExitStack, family: Family) -> None:
    restrict(lab)
    listener = held.enter_context(tcp_listener(lab.pod("x/a"), lab.address("x/a", family), OPEN_PORT))
    probe = [sys.executable, "-IS", "-c", PROBE, *map(str, listener.getsockname()[:2])]
    unprivileged = ["setpriv", "--reuid", "65534", "--regid", "65534", "--clear-groups", "--", *probe]
    subprocess.run(lab.topology.command(name_of(lab, "n1"), unprivileged), check=True, timeout=20)


@pytest.fixture
def _gullible(lab: ManifestLab) -> Iterator[None]:
    """Set accept_local on the nodes: they accept IPv4 packets with their own source address."""

    def accept_local(value: str) -> None:
        for node in lab.topology.nodes:
            netns.write_sysctls(name_of(lab, node), {"ipv4/conf/all/accept_local": value})

    accept_local("1")
    yield
    accept_local("0")


def heard_in_n1_s_name(lab: ManifestLab, source: str, destination: str, family: Family) -> list[bytes]:
    """Send from a Pod with node n1's source address, through n1, to a denied port; return the arrivals."""
    place, there = name_of(lab, destination), address_at(lab, destination, family)
    lie = marker()
    with (
        udp_socket(place, there, DENIED_PORT) as denied,
        udp_socket(place, there, OPEN_PORT) as allowed,
        udp_socket(lab.pod(source), address_at(lab, "n1", family), spoofed=True) as liar,
        udp_socket(lab.pod(source), lab.address(source, family)) as honest,
        Capture(name_of(lab, "n1")) as capture,
    ):
        liar.sendto(lie, denied.getsockname())
        capture.until(bearing(lie))
        honest.sendto(b"the truth", allowed.getsockname())
        assert allowed.recv(100) == b"the truth"
        return heard(denied)


@pytest.fixture
def _unproven(lab: ManifestLab) -> Iterator[None]:
    """Forward spoofed packets of its Pods on the other node, as a node without rules does."""
    agent = lab.cluster.agent("n2")
    for settings in ({"NFAGENT_POLICY_UNROUTED_SOURCES": "judged"}, {}):
        agent.stop()
        agent.start(settings)
        if settings:
            yield


@pytest.mark.usefixtures("_gullible", "held", "_unproven")
@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("source", OTHERS, ids=PLACES)
def test_39_a_pod_that_spoofs_its_node_does_not_reach_an_isolated_pod(
    lab: ManifestLab, source: str, family: Family
) -> None:
    restrict(lab, **only_rule("ingress", {"ports": [UDP_OPEN]}))
    assert heard_in_n1_s_name(lab, source, "x/a", family) == []


@pytest.mark.usefixtures("_gullible", "held")
@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("destination", [*OTHERS, "outside", "n1"], ids=[*PLACES, "outside", "the node"])
def test_39_in_its_node_s_name_a_pod_does_not_get_out_of_its_isolation(
    lab: ManifestLab, destination: str, family: Family
) -> None:
    restrict(lab, egress=[{"ports": [UDP_OPEN]}])
    assert heard_in_n1_s_name(lab, "x/a", destination, family) == []
