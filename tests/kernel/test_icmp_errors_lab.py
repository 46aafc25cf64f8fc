"""ICMP errors about a connection: its ends and routers may send them, another Pod only where policies allow it."""

from __future__ import annotations

import contextlib
import errno
import socket
import struct
import subprocess
from collections.abc import Iterator
from functools import partial

import pytest

from nfagent.kernel.conntrack import ConntrackClient
from nfagent.lab.probes.raw_packets import internet_checksum
from nfagent.lab.topology import netns
from nfagent.model.netaddr import FAMILIES, Family
from nfagent.netlink.conntrack import ConntrackEntry
from tests.support.edge_case_lab import (
    MARKER_PORT,
    OF_Y,
    UDP_MARKER,
    UDP_OPEN,
    A,
    address_at,
    edge_case_lab,
    name_of,
    only_rule,
    restrict,
)
from tests.support.packet_labs import Document, ManifestLab, policy_document
from tests.support.raw_sockets import Arrival, Capture, bearing, marker, send_raw, udp_socket, unreachable

pytestmark = [pytest.mark.kernel, pytest.mark.both_backends(asked=True)]

CLIENT_PORT, SERVER_PORT = 1234, 4321
"""Those of the datagram that `unreachable` writes about."""

ICMP: dict[Family, int] = {4: 1, 6: 58}
SERVICE: dict[Family, str] = {4: "198.18.0.1", 6: "2001:db8:5e::1"}
MTU = 600
TABLE = """
table inet service {
    chain translated {
        type nat hook prerouting priority dstnat
        ip daddr 198.18.0.1 udp dport 4321 dnat ip to ADDRESS4
        ip6 daddr 2001:db8:5e::1 udp dport 4321 dnat ip6 to ADDRESS6
    }
}
"""


@pytest.fixture(scope="module", params=["routed", "bridge"])
def lab(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory, backend: str
) -> Iterator[ManifestLab]:
    with edge_case_lab(tmp_path_factory.mktemp("lab"), request.param, backend=backend) as running:
        yield running


@pytest.fixture
def held(lab: ManifestLab) -> Iterator[contextlib.ExitStack]:
    """Close what a test opens, and take its policies away."""
    with contextlib.ExitStack() as stack:
        yield stack
    lab.only_cluster()


def too_big(family: Family, source: str, destination: str) -> bytes:
    """Write the error that says how much a path carries, about the same datagram as `unreachable`."""
    error = unreachable(family, source, destination)
    if family == 6:
        return bytes([2, 0, 0, 0]) + struct.pack("!I", 1280) + error[8:]
    whole = bytes([3, 4, 0, 0]) + struct.pack("!HH", 0, MTU) + error[8:]
    return whole[:2] + internet_checksum(whole).to_bytes(2, "big") + whole[4:]


def connected(
    lab: ManifestLab, held: contextlib.ExitStack, client: str, server: str, family: Family
) -> tuple[socket.socket, socket.socket]:
    """Exchange datagrams between the ports that errors are written about; give both sockets."""
    here = held.enter_context(udp_socket(lab.pod(client), lab.address(client, family), CLIENT_PORT))
    there = held.enter_context(udp_socket(name_of(lab, server), address_at(lab, server, family), SERVER_PORT))
    here.sendto(b"question", there.getsockname())
    there.sendto(b"answer", there.recvfrom(100)[1])
    assert here.recv(100) == b"answer"
    here.connect(there.getsockname())
    return here, there


def errors(lab: ManifestLab, capture: Capture, place: str, family: Family) -> list[Arrival]:
    """Return the ICMP errors that came before a datagram that is sent to this place now, by a Pod of another node."""
    last = marker()
    with udp_socket(lab.pod("y/far"), lab.address("y/far", family)) as sock:
        sock.sendto(last, (address_at(lab, place, family), MARKER_PORT))
    found = capture.until(bearing(last))
    return [arrival for arrival in found if arrival.head.icmp_type in ({1, 2} if family == 6 else {3})]


ISOLATED: dict[str, dict[str, object]] = {
    "that may not send": {"policyTypes": ["Egress"]},
    "that may send to a port": {"policyTypes": ["Egress"], "egress": [{"to": [OF_Y], "ports": [UDP_MARKER]}]},
}


@pytest.mark.parametrize("write", [unreachable, too_big], ids=["unreachable", "too big"])
@pytest.mark.parametrize("spec", ISOLATED.values(), ids=ISOLATED)
@pytest.mark.parametrize("ends", [("y/near", "y/far"), ("y/near", "n1"), ("y/far", "y/near")], ids=" to ".join)
@pytest.mark.parametrize("family", FAMILIES)
def test_an_isolated_pod_sends_no_error_about_other_pods_connections(  # noqa: PLR0917 - a table
    lab: ManifestLab,
    held: contextlib.ExitStack,
    family: Family,
    ends: tuple[str, str],
    spec: Document,
    write: object,
) -> None:
    lab.apply("policy", policy_document("x", "only", podSelector=A, **spec))
    connected(lab, held, *ends, family)
    capture = held.enter_context(Capture(lab.pod(ends[0])))
    addresses = [address_at(lab, end, family) for end in ends]
    send_raw(lab.pod("x/a"), addresses[0], ICMP[family], write(family, *addresses))  # type: ignore[operator]
    assert errors(lab, capture, ends[0], family) == []


@pytest.mark.parametrize("receiver", ["y/near", "y/far", "outside", "n2"])
@pytest.mark.parametrize("family", FAMILIES)
def test_an_isolated_pod_sends_no_error_about_a_connection_that_it_may_not_begin(
    lab: ManifestLab, held: contextlib.ExitStack, family: Family, receiver: str
) -> None:
    """A bridge confirms the conntrack entry of a multicast frame, even if the forward hook drops the packet."""
    lab.apply("policy", policy_document("x", "only", podSelector=A, policyTypes=["Egress"]))
    capture = held.enter_context(Capture(name_of(lab, receiver)))
    own, there = lab.address("x/a", family), address_at(lab, receiver, family)
    netns.inside(lab.pod("x/a"), partial(send_in_a_groups_frame, family, datagram(family, own, there)))
    error = unreachable(family, there, own, source_port=SERVER_PORT, destination_port=CLIENT_PORT)
    send_raw(lab.pod("x/a"), there, ICMP[family], error)
    assert errors(lab, capture, receiver, family) == []


@pytest.mark.parametrize("receiver", ["y/near", "y/far", "outside", "n2"])
@pytest.mark.parametrize("family", FAMILIES)
def test_a_unicast_packet_in_a_multicast_frame_creates_no_conntrack_entry(
    lab: ManifestLab, held: contextlib.ExitStack, family: Family, receiver: str
) -> None:
    """What pretends to be its answer would make it established, and everything after that passes."""
    lab.apply("policy", policy_document("x", "only", podSelector=A, policyTypes=["Egress"]))
    capture = held.enter_context(Capture(lab.pod("x/a")))
    own, there = lab.address("x/a", family), address_at(lab, receiver, family)
    netns.inside(lab.pod("x/a"), partial(send_in_a_groups_frame, family, datagram(family, own, there)))
    assert errors(lab, capture, "x/a", family) == []  # by now it has been at the bridge
    assert netns.inside(lab.topology.node_namespace("n1"), partial(called_by, own, there)) == []


def called_by(client: str, server: str) -> list[ConntrackEntry]:
    asking = ConntrackClient()
    try:
        found = asking.entries(frozenset({client}))
    finally:
        asking.close()
    return [entry for entry in found if (entry.client, entry.server) == (client, server)]


def datagram(family: Family, source: str, destination: str) -> bytes:
    """Write the one that `unreachable` quotes."""
    return unreachable(family, source, destination)[8:]


def send_in_a_groups_frame(family: Family, packet: bytes) -> None:
    group, kind = (b"\x33\x33\0\0\0\1", 0x86DD) if family == 6 else (b"\x01\0\x5e\0\0\1", 0x0800)
    with socket.socket(socket.AF_PACKET, socket.SOCK_DGRAM) as sender:
        sender.sendto(packet, ("eth0", kind, 0, 0, group))


@pytest.mark.parametrize("family", FAMILIES)
def test_an_isolated_pod_sends_its_node_no_error_about_a_connection_of_another_pod(
    lab: ManifestLab, held: contextlib.ExitStack, family: Family
) -> None:
    lab.apply("policy", policy_document("x", "only", podSelector=A, policyTypes=["Egress"]))
    client, server = connected(lab, held, "y/near", "n1", family)
    own = address_at(lab, "n1", family)
    server.connect(client.getsockname())
    error = about_answer(unreachable(family, own, lab.address("y/near", family)))
    send_raw(lab.pod("x/a"), own, ICMP[family], error)
    client.send(b"last")
    assert server.recv(100) == b"last"


@pytest.mark.parametrize("ends", [("y/near", "y/far"), ("y/far", "y/near")], ids=" to ".join)
@pytest.mark.parametrize("family", FAMILIES)
def test_a_pod_that_is_isolated_gets_no_error_about_its_connection_from_a_third_pod(
    lab: ManifestLab, held: contextlib.ExitStack, family: Family, ends: tuple[str, str]
) -> None:
    near = {"matchLabels": {"pod": "near"}}
    rule = {"ingress": [{"from": [OF_Y], "ports": [UDP_MARKER, {"protocol": "UDP", "port": SERVER_PORT}]}]}
    lab.apply("policy", policy_document("y", "only", podSelector=near, **rule))
    connected(lab, held, *ends, family)
    capture = held.enter_context(Capture(lab.pod("y/near")))
    addresses = [address_at(lab, end, family) for end in ("y/near", "y/far")]
    ports = unreachable(family, *addresses)
    send_raw(lab.pod("x/a"), addresses[0], ICMP[family], ports if ends[0] == "y/near" else about_answer(ports))
    assert errors(lab, capture, "y/near", family) == []


def about_answer(error: bytes) -> bytes:
    """Return an error about the reply to the datagram: with its ports swapped."""
    ports, swapped = struct.pack("!HH", CLIENT_PORT, SERVER_PORT), struct.pack("!HH", SERVER_PORT, CLIENT_PORT)
    return error.replace(ports, swapped)  # the checksum doesn't change


@pytest.mark.parametrize("source", ["y/far", "outside"], ids=["the other end", "a router"])
@pytest.mark.parametrize("family", FAMILIES)
def test_an_isolated_pod_gets_the_errors_about_its_connection_from(
    lab: ManifestLab, held: contextlib.ExitStack, family: Family, source: str
) -> None:
    restrict(lab, **only_rule("egress", {"ports": [{"protocol": "UDP", "port": SERVER_PORT}]}), ingress=MARKED)
    connected(lab, held, "x/a", "y/far", family)
    capture = held.enter_context(Capture(lab.pod("x/a")))
    error = unreachable(family, lab.address("x/a", family), lab.address("y/far", family))
    send_raw(name_of(lab, source), lab.address("x/a", family), ICMP[family], error)
    assert [bytes(item.content[-len(error) + 4 :]) for item in errors(lab, capture, "x/a", family)] == [error[4:]]


MARKED = [{"from": [OF_Y], "ports": [UDP_MARKER]}]


@pytest.mark.parametrize("client", ["y/near", "y/far"])
@pytest.mark.parametrize("by", ["the Pod's address", "a Service"])
@pytest.mark.parametrize("family", FAMILIES)
def test_a_client_gets_port_unreachable_from_an_isolated_server(
    lab: ManifestLab, held: contextlib.ExitStack, family: Family, by: str, client: str
) -> None:
    rule = {"from": [OF_Y], "ports": [{"protocol": "UDP", "port": SERVER_PORT}]}
    restrict(lab, ingress=[rule])
    address = lab.address("x/a", family)
    if by == "a Service":
        address = SERVICE[family]
        held.callback(nft, lab, client, "delete table inet service")
        nft(lab, client, TABLE.replace("ADDRESS4", lab.address("x/a", 4)).replace("ADDRESS6", lab.address("x/a", 6)))
    sock = held.enter_context(udp_socket(lab.pod(client), lab.address(client, family)))
    sock.connect((address, SERVER_PORT))
    sock.send(b"payload")
    with pytest.raises(OSError, match="refused") as refused:
        sock.recv(100)
    assert refused.value.errno == errno.ECONNREFUSED


def nft(lab: ManifestLab, client: str, text: str) -> None:
    node = lab.topology.node_namespace("n1" if client == "y/near" else "n2")
    subprocess.run(lab.topology.command(node, ["nft", "-f", "-"]), input=text, text=True, check=True, timeout=30)


@pytest.mark.parametrize("family", FAMILIES)
def test_an_outside_server_gets_port_unreachable_from_a_masqueraded_client(
    lab: ManifestLab, held: contextlib.ExitStack, family: Family
) -> None:
    port = {"protocol": "UDP", "port": SERVER_PORT}
    restrict(lab, egress=[{"ports": [port, UDP_OPEN]}])
    server = held.enter_context(udp_socket(name_of(lab, "outside"), address_at(lab, "outside", family), SERVER_PORT))
    with udp_socket(lab.pod("x/a"), lab.address("x/a", family)) as client:
        client.sendto(b"question", server.getsockname())
        _, asker = server.recvfrom(100)
    server.connect(asker)
    server.send(b"answer")
    with pytest.raises(OSError, match="refused"):
        server.recv(100)


@pytest.mark.parametrize("family", FAMILIES)
def test_a_pod_that_no_policy_isolates_may_route_for_others(
    lab: ManifestLab, held: contextlib.ExitStack, family: Family
) -> None:
    connected(lab, held, "y/near", "y/far", family)
    capture = held.enter_context(Capture(lab.pod("y/near")))
    addresses = [lab.address(end, family) for end in ("y/near", "y/far")]
    send_raw(lab.pod("x/a"), addresses[0], ICMP[family], unreachable(family, *addresses))
    assert len(errors(lab, capture, "y/near", family)) == 1
