"""Edge cases 31 to 34 and 50 of docs/semantics.md with packets: tracked, deleted, untracked entries, a full table."""

from __future__ import annotations

import contextlib
import select
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator

import pytest

from nfagent.lab.probes.listeners import ICMP_NUMBERS, Endpoint
from nfagent.model.netaddr import FAMILIES, Family
from tests.support.conntrack_table import count, fill, forget, limit
from tests.support.edge_case_lab import (
    MARKER_PORT,
    OF_Y,
    OPEN_PORT,
    OTHERS,
    PLACES,
    TCP_OPEN,
    TRANSLATED,
    UDP_MARKER,
    UDP_OPEN,
    UNTRANSLATED,
    A,
    address_at,
    arrived,
    blocks,
    denied_packets,
    edge_case_lab,
    name_of,
    restrict,
)
from tests.support.kube_proxy_rules import ProxiedService, proxying
from tests.support.packet_labs import ManifestLab, policy_document, wait_until
from tests.support.raw_sockets import (
    Arrival,
    Capture,
    accept,
    bearing,
    becomes,
    heard,
    marker,
    send_raw,
    tcp_begin,
    tcp_connect,
    tcp_listener,
    udp_socket,
    unreachable,
)

pytestmark = [pytest.mark.kernel, pytest.mark.both_backends(asked=True)]

NO_EGRESS = policy_document("x", "no-egress", podSelector=A, policyTypes=["Egress"])


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


# 31


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("client", OTHERS, ids=PLACES)
def test_31_under_deny_egress_an_answer_to_udp_from_before_the_policy_passes(
    lab: ManifestLab, held: contextlib.ExitStack, client: str, family: Family
) -> None:
    here = held.enter_context(udp_socket(lab.pod(client), lab.address(client, family)))
    server = held.enter_context(udp_socket(lab.pod("x/a"), lab.address("x/a", family), OPEN_PORT))
    here.sendto(b"asked before", server.getsockname())
    _, caller = server.recvfrom(100)
    lab.apply("policy", NO_EGRESS)
    with udp_socket(lab.pod("x/a"), lab.address("x/a", family)) as other:
        other.sendto(b"of its own accord", caller)
    server.sendto(b"answered after", caller)
    assert here.recv(100) == b"answered after"
    assert heard(here) == []


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("client", OTHERS, ids=PLACES)
def test_31_under_deny_egress_a_tcp_server_goes_on_sending_to_an_earlier_client(
    lab: ManifestLab, held: contextlib.ExitStack, client: str, family: Family
) -> None:
    listener = held.enter_context(tcp_listener(lab.pod("x/a"), lab.address("x/a", family), OPEN_PORT))
    here = held.enter_context(tcp_connect(lab.pod(client), *listener.getsockname()[:2]))
    server = held.enter_context(accept(listener))
    lab.apply("policy", NO_EGRESS)
    server.sendall(b"after the policy")
    assert here.recv(100) == b"after the policy"


# 32, its loosened half


def test_32_a_syn_that_was_dropped_gets_through_by_its_repetition_once_the_policy_is_loosened(
    lab: ManifestLab, held: contextlib.ExitStack
) -> None:
    clients: list[socket.socket] = []
    restrict(lab)
    before = denied_packets(lab)
    for family in FAMILIES:
        listener = held.enter_context(tcp_listener(lab.pod("x/a"), lab.address("x/a", family), OPEN_PORT))
        there = listener.getsockname()[:2]
        clients += [held.enter_context(tcp_begin(lab.pod(name), *there)) for name in OTHERS]
    wait_until(lambda: denied_packets(lab) >= before + len(clients))
    assert not any(becomes(client, select.POLLOUT, 0) for client in clients)
    restrict(lab, ingress=[{"from": [OF_Y], "ports": [TCP_OPEN]}])
    assert all(becomes(client, select.POLLOUT) for client in clients)
    assert {client.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR) for client in clients} == {0}


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("client", OTHERS, ids=PLACES)
def test_32_a_udp_flow_that_was_dropped_passes_once_the_policy_is_loosened(
    lab: ManifestLab, held: contextlib.ExitStack, client: str, family: Family
) -> None:
    server = held.enter_context(udp_socket(lab.pod("x/a"), lab.address("x/a", family), OPEN_PORT))
    here = held.enter_context(udp_socket(lab.pod(client), lab.address(client, family)))
    restrict(lab)
    before = denied_packets(lab)
    here.sendto(b"dropped", server.getsockname())
    wait_until(lambda: denied_packets(lab) > before)
    restrict(lab, ingress=[{"from": [OF_Y], "ports": [UDP_OPEN]}])
    here.sendto(b"passed", server.getsockname())
    assert server.recv(100) == b"passed"


# 33


def reset(sock: socket.socket) -> None:
    """Close by a RST, as all sockets of these tests do."""
    sock.close()


def finish(sock: socket.socket) -> None:
    """Send a FIN."""
    sock.shutdown(socket.SHUT_WR)


def go_on(sock: socket.socket) -> None:
    """Send more."""
    sock.sendall(b"more")


def late(
    lab: ManifestLab, held: contextlib.ExitStack, server: tuple[str, str], act: Callable[[socket.socket], None]
) -> list[Arrival]:
    """Connect from x/a, delete the conntrack entries on its node, act; return the packets that arrive afterwards."""
    namespace, address = name_of(lab, server[0]), server[1]
    listener = held.enter_context(tcp_listener(namespace, address, OPEN_PORT))
    client = held.enter_context(tcp_connect(lab.pod("x/a"), address, OPEN_PORT))
    held.enter_context(accept(listener))
    capture = held.enter_context(Capture(namespace))
    forget(name_of(lab, "n1"))
    assert count(name_of(lab, "n1")) == 0
    act(client)
    return arrived(lab, capture, "x/a", address)


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("act", [finish, reset, go_on], ids=["a FIN", "a RST", "data"])
def test_33_after_a_connection_is_forgotten_its_pod_s_address_does_not_leave_the_cluster_by(
    lab: ManifestLab, held: contextlib.ExitStack, act: Callable[[socket.socket], None], family: Family
) -> None:
    found = late(lab, held, ("outside", TRANSLATED[family]), act)
    assert [arrival.head for arrival in found if arrival.head.source == lab.address("x/a", family)] == []


@pytest.mark.parametrize("family", FAMILIES)
def test_33_nor_by_an_icmp_error_about_an_untracked_connection(
    lab: ManifestLab, held: contextlib.ExitStack, family: Family
) -> None:
    own, there = lab.address("x/a", family), TRANSLATED[family]
    capture = held.enter_context(Capture(name_of(lab, "outside")))
    send_raw(lab.pod("x/a"), there, ICMP_NUMBERS[family], unreachable(family, there, own))
    found = arrived(lab, capture, "x/a", there)
    assert [arrival.head for arrival in found if arrival.head.source == own] == []


@pytest.mark.parametrize("act", [finish, reset], ids=["a FIN", "a RST"])
@pytest.mark.parametrize("place", ["y/far", "outside"], ids=["to a Pod", "to a non-masquerade range"])
def test_33_where_nothing_would_be_translated_a_late_end_passes(
    lab: ManifestLab, held: contextlib.ExitStack, place: str, act: Callable[[socket.socket], None]
) -> None:
    found = late(lab, held, (place, UNTRANSLATED if place == "outside" else lab.address(place, 4)), act)
    assert (lab.address("x/a", 4), socket.IPPROTO_TCP) in {(head.source, head.protocol) for head, _ in found}


# 34

MOST_ENTRIES = 300_000
"""Connections that a test may fill a table up with: under 100 MB of the kernel's memory."""


@pytest.mark.parametrize("family", FAMILIES)
def test_34_a_masqueraded_connection_meets_policies_by_its_pods_address_in_both_directions(
    lab: ManifestLab, held: contextlib.ExitStack, family: Family
) -> None:
    restrict(lab, egress=[{"to": blocks(TRANSLATED[family]), "ports": [TCP_OPEN]}])
    listener = held.enter_context(tcp_listener(name_of(lab, "outside"), TRANSLATED[family], OPEN_PORT))
    client = held.enter_context(tcp_connect(lab.pod("x/a"), TRANSLATED[family], OPEN_PORT))
    server = held.enter_context(accept(listener))
    assert server.getpeername()[0] == address_at(lab, "n1", family)
    server.sendall(b"an answer")
    assert client.recv(100) == b"an answer"


def test_34_with_a_full_conntrack_table_new_connections_are_dropped_and_tracked_ones_go_on(
    lab: ManifestLab, held: contextlib.ExitStack
) -> None:
    """An isolated Pod stays isolated, and nothing leaves untranslated: such packets are dropped before all rules."""
    if not 0 < limit() <= MOST_ENTRIES:
        pytest.skip(f"nf_conntrack_max is {limit()}: filling it would take more of the kernel's memory than a test may")
    node = name_of(lab, "n1")
    restrict(lab, ingress=[{"from": [OF_Y], "ports": [TCP_OPEN, UDP_MARKER]}])
    calls = (("y/near", "outside"), ("y/far", "x/a"))
    known = []
    for source, place in calls:
        address = address_at(lab, place, 4)
        listener = held.enter_context(tcp_listener(name_of(lab, place), address, OPEN_PORT))
        client = held.enter_context(tcp_connect(lab.pod(source), address, OPEN_PORT))
        known.append((client, held.enter_context(accept(listener)), held.enter_context(Capture(name_of(lab, place)))))
    held.callback(forget, node)
    fill(node)
    assert count(node) >= limit()
    for (source, place), (client, server, capture) in zip(calls, known, strict=True):
        with udp_socket(lab.pod(source), lab.address(source, 4)) as fresh:
            fresh.sendto(b"new", (address_at(lab, place, 4), MARKER_PORT))
        last = marker()
        client.sendall(last)
        assert server.recv(100) == last
        assert socket.IPPROTO_UDP not in {head.protocol for head, _ in capture.until(bearing(last))}
    forget(node)
    for (source, place), (_, _, capture) in zip(calls, known, strict=True):
        arrived(lab, capture, source, address_at(lab, place, 4))


# 50

SERVICE: dict[Family, str] = {4: "10.96.0.10", 6: "2001:db8:96::10"}
PAIRS = 200
QUERIES = """
import mmap, os, select, socket, sys, time

family = socket.AF_INET6 if ":" in sys.argv[1] else socket.AF_INET
socks = [socket.socket(family, socket.SOCK_DGRAM) for _ in range(int(sys.argv[2]))]
for sock in socks:
    sock.connect((sys.argv[1], 53))
ready, end = mmap.mmap(-1, 2), time.monotonic() + 10
child = os.fork()
own, other, query = (0, 1, b"AAAA") if child == 0 else (1, 0, b"A")
for number, sock in enumerate(socks, start=1):
    ready[own] = number
    while ready[other] < number and time.monotonic() < end:
        pass
    sock.send(query)
if child == 0:
    os._exit(0)
os.waitpid(child, 0)
missing, end = {(sock, query) for sock in socks for query in (b"A", b"AAAA")}, time.monotonic() + 30
while missing and (heard := select.select({sock for sock, _ in missing}, [], [], max(0, end - time.monotonic()))[0]):
    missing -= {(sock, sock.recv(100)) for sock in heard}
print(len(missing))
"""


@pytest.mark.parametrize("family", FAMILIES)
def test_50_of_two_queries_at_once_from_one_port_to_a_service_neither_is_lost(
    lab: ManifestLab, held: contextlib.ExitStack, family: Family
) -> None:
    """Two processors send at the same time, and each packet may be given another server."""
    dns = [{"protocol": "UDP", "port": 53}]
    restrict(lab, egress=[{"to": [OF_Y], "ports": dns}])
    clients = [{"namespaceSelector": {"matchLabels": {"ns": "x"}}}]
    lab.apply("servers", policy_document("y", "dns", podSelector={}, ingress=[{"from": clients, "ports": dns}]))
    servers = [Endpoint(lab.pod(pod), lab.address(pod, family), "udp", 53) for pod in OTHERS]
    lab.servers.listen(servers)
    for server in servers:
        held.callback(lab.servers.stop, server.netns)
    endpoints = tuple((server.address, server.port) for server in servers)
    held.enter_context(proxying(lab.topology, [ProxiedService(SERVICE[family], 53, "udp", endpoints)]))
    before = denied_packets(lab)  # of the policies of the tests before: their counters wait for a last reading
    command = lab.topology.command(lab.pod("x/a"), [sys.executable, "-IS", "-c", QUERIES, SERVICE[family], str(PAIRS)])
    done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=90)
    assert (int(done.stdout), denied_packets(lab)) == (0, before)
