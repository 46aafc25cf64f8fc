"""Conntrack entries of real traffic: found by client and by server, deleted singly, never confused with a later one."""

from __future__ import annotations

import os
import socket
import struct
import subprocess
from collections.abc import Iterator
from contextlib import ExitStack, closing
from typing import TYPE_CHECKING, ClassVar, TypeAlias
from uuid import uuid4

import msgspec
import pytest
from pyroute2 import netns

from nfagent.errors import HostError
from nfagent.kernel.conntrack import ConntrackClient, open_socket
from nfagent.lab.topology.netns import inside
from nfagent.netlink import codec
from nfagent.netlink.conntrack import ConntrackEntry, decode_entries, encode_dump
from nfagent.netlink.packet_header import ICMP, ICMPV6, TCP, UDP

if TYPE_CHECKING:
    from typing_extensions import Buffer

pytestmark = [
    pytest.mark.kernel,
    pytest.mark.skipif(os.geteuid() != 0, reason="needs root: network namespaces, nf_tables and conntrack"),
]

DEADLINE = 60.0
UNASSIGNED = 99  # a protocol that conntrack knows by its number alone
SEEN_REPLY, ASSURED, CONFIRMED, DST_NAT = 1 << 1, 1 << 2, 1 << 3, 1 << 5  # IPS_*
CLIENT4, SERVER4, OTHER4, SERVICE4 = "10.0.0.1", "10.0.0.2", "10.0.0.3", "10.96.0.1"
CLIENT6, SERVER6, OTHER6, SERVICE6 = "fd00::1", "fd00::2", "fd00::3", "fd00:96::1"
# Loopback answers for all of these; conntrack works because of the ct expressions. What calls a Service gets to SERVER.
# nodad: an IPv6 address is tentative until a kernel worker runs, also on loopback; bind(2) fails until then.
LINKS = f"""
link set lo up
route add local 10.0.0.0/16 dev lo
route add local 10.96.0.0/16 dev lo
route add local fd00::/16 dev lo
addr add {CLIENT6} dev lo nodad
addr add {SERVER6} dev lo nodad
addr add {OTHER6} dev lo nodad
addr add fd00:0:7::2 dev lo nodad
"""
RULES = f"""
table inet tracked {{
    chain zones {{
        type filter hook output priority raw
        ip daddr 10.0.7.0/24 ct zone set 7
        ip saddr 10.0.7.0/24 ct zone set 7
        ip6 daddr fd00:0:7::/48 ct original zone set 8
        ip daddr 10.0.9.0/24 ct reply zone set 9
        ip saddr 10.0.9.0/24 ct reply zone set 9
    }}
    chain services {{
        type nat hook output priority -100
        ip daddr {SERVICE4} tcp dport 80 dnat ip to {SERVER4}:8080
        ip daddr {SERVICE4} udp dport 53 dnat ip to {SERVER4}:5353
        ip6 daddr {SERVICE6} tcp dport 80 dnat ip6 to [{SERVER6}]:8080
        ip6 daddr {SERVICE6} udp dport 53 dnat ip6 to [{SERVER6}]:5353
    }}
}}
"""
MOVED = f"""
flush chain inet tracked services
add rule inet tracked services ip daddr {SERVICE4} udp dport 53 dnat ip to {OTHER4}:5353
"""

End: TypeAlias = tuple[str, int]


@pytest.fixture(autouse=True)
def _namespace() -> Iterator[None]:
    """Enter a new network namespace with this thread, with connection tracking on loopback."""
    name = f"nfagent-conntrack-{uuid4().hex[:8]}"
    subprocess.run(["ip", "netns", "add", name], check=True)
    try:
        netns.pushns(name)
        try:
            subprocess.run(["ip", "-batch", "-"], input=LINKS, text=True, check=True)
            nft(RULES)
            yield
        finally:
            netns.popns()
    finally:
        subprocess.run(["ip", "netns", "del", name], check=True)


@pytest.fixture
def connections(_namespace: None) -> Iterator[ConntrackClient]:
    with closing(ConntrackClient()) as opened:
        yield opened


@pytest.fixture
def stack() -> Iterator[ExitStack]:
    """Keep the sockets of a test open until it ends."""
    with ExitStack() as opened:
        yield opened


def nft(text: str) -> None:
    subprocess.run(["nft", "-f", "-"], input=text, text=True, check=True)


def opened_in(stack: ExitStack, address: str, kind: int, protocol: int = 0) -> socket.socket:
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    made = stack.enter_context(socket.socket(family, kind, protocol))
    made.settimeout(DEADLINE)
    return made


def tcp(stack: ExitStack, client: End, called: End, server: End) -> None:
    """Leave an established connection behind."""
    listener = opened_in(stack, server[0], socket.SOCK_STREAM)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    listener.bind(server)
    listener.listen()
    caller = opened_in(stack, client[0], socket.SOCK_STREAM)
    caller.bind(client)
    caller.connect(called)
    answering, _ = listener.accept()
    stack.enter_context(answering)


def udp(stack: ExitStack, client: End, called: End, server: End) -> None:
    """Leave a question and its answer behind."""
    serving = opened_in(stack, server[0], socket.SOCK_DGRAM)
    serving.bind(server)
    caller = opened_in(stack, client[0], socket.SOCK_DGRAM)
    caller.bind(client)
    caller.sendto(b"question", called)
    _, asker = serving.recvfrom(100)
    serving.sendto(b"answer", asker)
    caller.recv(100)


def ping(stack: ExitStack, client: End, called: End, _server: End) -> None:
    """Leave an echo request and its reply behind; a raw ICMP socket of IPv6 sums up by itself."""
    v6 = ":" in client[0]
    caller = opened_in(stack, client[0], socket.SOCK_RAW, socket.IPPROTO_ICMPV6 if v6 else socket.IPPROTO_ICMP)
    caller.bind((client[0], 0))
    request, reply = (128, 129) if v6 else (8, 0)
    head = struct.pack("!BBHHH", request, 0, 0, 4242, 1)
    if not v6:
        head = struct.pack("!BBHHH", request, 0, 0xFFFF - ((request << 8) + 4242 + 1), 4242, 1)
    caller.sendto(head, (called[0], 0))
    while True:
        packet = caller.recv(1_000)
        if packet[0 if v6 else 20] == reply:
            return


def unassigned(stack: ExitStack, client: End, called: End, server: End) -> None:
    """Leave a packet of a protocol without ports behind."""
    serving = opened_in(stack, server[0], socket.SOCK_RAW, UNASSIGNED)
    serving.bind((server[0], 0))
    caller = opened_in(stack, client[0], socket.SOCK_RAW, UNASSIGNED)
    caller.bind((client[0], 0))
    caller.sendto(b"packet", (called[0], 0))
    serving.recv(1_000)


TALKS = {TCP: tcp, UDP: udp, ICMP: ping, ICMPV6: ping, UNASSIGNED: unassigned}


class Expected(msgspec.Struct, frozen=True):
    """What a stream must look like: its ends (port 0 where there are none), protocol, zone, and status bits."""

    protocol: int
    client: End
    called: End
    server: End
    zone: int = 0
    status: int = SEEN_REPLY | CONFIRMED

    def start(self, stack: ExitStack) -> None:
        TALKS[self.protocol](stack, self.client, self.called, self.server)

    def matches(self, entry: ConntrackEntry) -> bool:
        ends = (
            (entry.client, entry.client_port or 0),
            (entry.called, entry.called_port or 0),
            (entry.server, entry.server_port or 0),
        )
        wanted = (self.client, self.called, self.server)
        return (ends, entry.protocol, entry.zone, entry.status & self.status) == (
            wanted,
            self.protocol,
            self.zone,
            self.status,
        )


ESTABLISHED = SEEN_REPLY | ASSURED | CONFIRMED
TALKED = [
    pytest.param(
        Expected(TCP, (CLIENT4, 40_000), (SERVICE4, 80), (SERVER4, 8080), status=ESTABLISHED | DST_NAT),
        id="TCP to a Service",
    ),
    pytest.param(
        Expected(UDP, (CLIENT4, 40_000), (SERVICE4, 53), (SERVER4, 5353), status=DST_NAT), id="UDP to a Service"
    ),
    pytest.param(Expected(TCP, (CLIENT4, 40_000), (SERVER4, 8080), (SERVER4, 8080)), id="TCP to a server"),
    pytest.param(Expected(ICMP, (CLIENT4, 0), (SERVER4, 0), (SERVER4, 0)), id="an IPv4 ping"),
    pytest.param(
        Expected(UNASSIGNED, (CLIENT4, 0), (SERVER4, 0), (SERVER4, 0), status=CONFIRMED), id="a protocol without ports"
    ),
    pytest.param(Expected(UDP, (CLIENT4, 1), ("10.0.7.2", 9), ("10.0.7.2", 9), zone=7), id="UDP in a zone"),
    pytest.param(Expected(UDP, (CLIENT4, 1), ("10.0.9.2", 9), ("10.0.9.2", 9), zone=9), id="a zone for replies alone"),
    pytest.param(
        Expected(TCP, (CLIENT6, 40_000), (SERVICE6, 80), (SERVER6, 8080), status=ESTABLISHED | DST_NAT),
        id="TCP to an IPv6 Service",
    ),
    pytest.param(
        Expected(UDP, (CLIENT6, 40_000), (SERVICE6, 53), (SERVER6, 5353), status=DST_NAT), id="UDP to an IPv6 Service"
    ),
    pytest.param(
        Expected(UDP, (CLIENT6, 1), ("fd00:0:7::2", 9), ("fd00:0:7::2", 9)), id="a zone for IPv6 requests alone"
    ),
    pytest.param(Expected(ICMPV6, (CLIENT6, 0), (SERVER6, 0), (SERVER6, 0)), id="an IPv6 ping"),
]


@pytest.mark.parametrize("stream", TALKED)
def test_a_connection_is_found_by_either_end_and_deleted(
    connections: ConntrackClient, stack: ExitStack, stream: Expected
) -> None:
    stream.start(stack)

    (entry,) = connections.entries(frozenset({stream.client[0]}))
    assert stream.matches(entry), entry
    assert entry.is_dnat == (stream.called[0] != stream.server[0])
    assert connections.entries(frozenset({stream.server[0]})) == [entry]

    assert connections.delete([entry]) == 1
    assert connections.entries(frozenset({stream.client[0], stream.server[0]})) == []
    assert connections.delete([entry]) == 0


def test_only_connections_of_the_addresses_are_found_in_both_families(
    connections: ConntrackClient, stack: ExitStack
) -> None:
    udp(stack, (CLIENT4, 1), (SERVICE4, 53), (SERVER4, 5353))
    udp(stack, (SERVER4, 2), (OTHER4, 9), (OTHER4, 9))
    udp(stack, (CLIENT6, 3), (OTHER6, 9), (OTHER6, 9))
    udp(stack, (CLIENT6, 4), (SERVER6, 9), (SERVER6, 9))

    def ports(*addresses: str) -> list[int]:
        return sorted(entry.client_port or 0 for entry in connections.entries(frozenset(addresses)))

    assert ports(SERVER4) == [1, 2]
    assert ports(OTHER4, OTHER6) == [2, 3]
    assert ports(CLIENT4, CLIENT6, SERVER4, "10.9.9.9") == [1, 2, 3, 4]
    assert ports(SERVICE4) == []
    assert ports() == []


class Counting(socket.socket):
    """A socket that keeps what is sent by it."""

    sent: ClassVar[list[codec.Message]] = []

    def send(self, message: Buffer, flags: int = 0, /) -> int:
        self.sent.extend(codec.messages(bytes(message)))
        return super().send(message, flags)


def test_entries_of_both_families_come_from_one_dump(stack: ExitStack) -> None:
    udp(stack, (CLIENT4, 1), (SERVICE4, 53), (SERVER4, 5353))
    tcp(stack, (CLIENT6, 2), (SERVICE6, 80), (SERVER6, 8080))
    udp(stack, (OTHER6, 3), (CLIENT6, 9), (CLIENT6, 9))
    udp(stack, (OTHER4, 4), (SERVER4, 9), (SERVER4, 9))

    def asking() -> socket.socket:
        return Counting(fileno=open_socket().detach())

    def ports(*addresses: str) -> tuple[list[int], list[int]]:
        """Return the clients' ports that were found, and the families of the dumps that were made for it."""
        Counting.sent.clear()
        found = sorted(entry.client_port or 0 for entry in counted.entries(frozenset(addresses)))
        return found, [message.payload[0] for message in Counting.sent]

    with closing(ConntrackClient(asking)) as counted:
        assert ports(CLIENT4, CLIENT6) == ([1, 2, 3], [socket.AF_UNSPEC])
        assert ports(SERVER4, SERVER6) == ([1, 2, 4], [socket.AF_UNSPEC])
        assert ports(CLIENT4, OTHER4) == ([1, 4], [socket.AF_UNSPEC]), "link-local ones are IPv6's"
        assert ports(CLIENT6) == ([2, 3], [socket.AF_INET6])


def test_deletion_takes_what_it_is_given_and_nothing_else(connections: ConntrackClient, stack: ExitStack) -> None:
    for port in range(1, 7):
        udp(stack, (CLIENT4, port), (SERVER4, port), (SERVER4, port))
        udp(stack, (CLIENT6, port), (SERVER6, port), (SERVER6, port))
    both = frozenset({CLIENT4, CLIENT6})
    doomed = [entry for entry in connections.entries(both) if (entry.client_port or 0) % 2]

    assert connections.delete(doomed) == 6
    assert sorted(entry.client_port or 0 for entry in connections.entries(both)) == [2, 2, 4, 4, 6, 6]
    assert connections.delete(doomed) == 0
    assert connections.delete([]) == 0


def test_a_later_entry_of_the_same_ends_with_another_id_survives(
    connections: ConntrackClient, stack: ExitStack
) -> None:
    caller = opened_in(stack, CLIENT4, socket.SOCK_DGRAM)
    caller.bind((CLIENT4, 40_000))
    serving = opened_in(stack, SERVER4, socket.SOCK_DGRAM)
    serving.bind((SERVER4, 9))

    def entry() -> ConntrackEntry:
        caller.sendto(b"question", (SERVER4, 9))
        serving.recv(100)
        (found,) = connections.entries(frozenset({SERVER4}))
        return found

    first = later = entry()
    # An id stands for ends and place in memory: another entry takes the place, until the ends get another one.
    for port in range(1, 100):
        assert connections.delete([later]) == 1
        udp(stack, (CLIENT4, port), (OTHER4, port), (OTHER4, port))
        later = entry()
        if later.id != first.id:
            break
    assert later.id != first.id

    assert connections.delete([first]) == 0
    assert connections.entries(frozenset({SERVER4})) == [later]


def test_a_later_entry_to_another_server_survives_even_with_the_same_id(
    connections: ConntrackClient, stack: ExitStack
) -> None:
    caller = opened_in(stack, CLIENT4, socket.SOCK_DGRAM)
    caller.bind((CLIENT4, 40_000))
    servers = {address: opened_in(stack, address, socket.SOCK_DGRAM) for address in (SERVER4, OTHER4)}
    for address, serving in servers.items():
        serving.bind((address, 5353))

    def entry(server: str) -> ConntrackEntry:
        caller.sendto(b"question", (SERVICE4, 53))
        servers[server].recv(100)
        (found,) = connections.entries(frozenset({CLIENT4}))
        return found

    first = entry(SERVER4)
    assert connections.delete([first]) == 1
    nft(MOVED)
    later = entry(OTHER4)
    assert (later.client, later.client_port, later.called) == (first.client, first.client_port, first.called)

    assert connections.delete([first]) == 0
    assert connections.entries(frozenset({CLIENT4})) == [later]
    assert connections.delete([later]) == 1


def test_filtered_dumps_find_what_whole_dumps_find(connections: ConntrackClient, stack: ExitStack) -> None:
    for number in range(1, 9):
        udp(stack, (CLIENT4, number), (f"10.0.{number % 3}.9", number), (f"10.0.{number % 3}.9", number))
        udp(stack, (f"10.0.{number % 3}.9", 100 + number), (CLIENT4, 100 + number), (CLIENT4, 100 + number))
        udp(stack, (CLIENT6, number), (SERVER6, number), (SERVER6, number))
        udp(stack, (SERVER6, 100 + number), (OTHER6, 100 + number), (OTHER6, 100 + number))
    asked = [
        frozenset({CLIENT4}),
        frozenset({"10.0.1.9"}),
        frozenset({"10.0.0.9", "10.0.2.9"}),
        frozenset({"10.9.9.9"}),
        frozenset({CLIENT6}),
        frozenset({OTHER6}),
        frozenset({"fd00::9"}),
        frozenset({CLIENT4, OTHER6, "10.0.2.9"}),
    ]

    with closing(ConntrackClient(filters_from=0)) as filtering:
        for addresses in asked * 2:
            whole = connections.entries(addresses)
            filtered = filtering.entries(addresses)
            assert len(filtered) == len(whole)
            assert set(filtered) == set(whole)


def test_a_connection_of_an_address_to_itself_is_found_by_every_dump(stack: ExitStack) -> None:
    udp(stack, (CLIENT6, 1), (CLIENT6, 9), (CLIENT6, 9))

    # A filter that is turned round, as some kernels' is, gives neither this entry nor another one that tells of it.
    with closing(ConntrackClient(filters_from=0)) as filtering:
        for _ in range(3):
            assert [entry.client_port for entry in filtering.entries(frozenset({CLIENT6}))] == [1]


def test_the_kernel_takes_filters_and_gives_what_they_ask_for(stack: ExitStack) -> None:
    udp(stack, (CLIENT4, 1), (SERVICE4, 53), (SERVER4, 5353))
    udp(stack, (OTHER4, 2), (SERVER4, 9), (SERVER4, 9))

    def ports(request: bytes) -> list[int]:
        asking.send(request)
        found: list[ConntrackEntry] = []
        done = False
        while not done:
            part = decode_entries(asking.recv(65_536))
            assert part.refusal is None
            found, done = found + part.entries, part.done
        return sorted(entry.client_port or 0 for entry in found)

    with closing(open_socket()) as asking:
        assert 1 in ports(encode_dump(4, 1, client=CLIENT4))
        assert ports(encode_dump(4, 2, server=SERVER4)) in ([1, 2], [])  # nothing where 0.0.0.0 is looked for
        assert ports(encode_dump(4, 3)) == [1, 2]
        assert ports(encode_dump(6, 4, client=CLIENT6, server=SERVER6)) == []


def test_twenty_thousand_connections_are_found_and_deleted(connections: ConntrackClient, stack: ExitStack) -> None:
    sink = opened_in(stack, SERVER4, socket.SOCK_DGRAM)
    sink.bind(("", 9))
    caller = opened_in(stack, CLIENT4, socket.SOCK_DGRAM)
    caller.bind((CLIENT4, 40_000))
    servers = [f"10.0.{100 + number // 200}.{number % 200}" for number in range(20_000)]
    for server in servers:
        caller.sendto(b"packet", (server, 9))

    every = connections.entries(frozenset({CLIENT4}))
    assert {entry.server for entry in every} == set(servers)
    assert len(every) == len(servers)
    assert {entry.server for entry in connections.entries(frozenset(servers[:500]))} == set(servers[:500])
    assert [entry.server for entry in connections.entries(frozenset({servers[7]}))] == [servers[7]]

    assert connections.delete(every[:15_000]) == 15_000
    assert connections.delete(every) == 5_000
    assert connections.entries(frozenset({CLIENT4})) == []


def test_another_network_namespace_is_not_seen(stack: ExitStack) -> None:
    udp(stack, (CLIENT4, 1), (SERVER4, 9), (SERVER4, 9))
    name = f"nfagent-conntrack-{uuid4().hex[:8]}"
    subprocess.run(["ip", "netns", "add", name], check=True)
    try:
        with closing(inside(name, ConntrackClient)) as elsewhere, closing(ConntrackClient()) as here:
            (entry,) = here.entries(frozenset({CLIENT4}))
            assert elsewhere.entries(frozenset({CLIENT4})) == []
            assert elsewhere.delete([entry]) == 0
            assert here.delete([entry]) == 1
    finally:
        subprocess.run(["ip", "netns", "del", name], check=True)


def test_without_the_capability_the_error_has_a_hint(connections: ConntrackClient, stack: ExitStack) -> None:
    udp(stack, (CLIENT4, 1), (SERVER4, 9), (SERVER4, 9))
    udp(stack, (CLIENT4, 2), (SERVER4, 10), (SERVER4, 10))
    entries = connections.entries(frozenset({CLIENT4}))
    os.seteuid(65_534)
    try:
        with pytest.raises(HostError, match="needs root"):
            ConntrackClient()
        with pytest.raises(HostError, match="needs root"):
            connections.entries(frozenset({CLIENT4}))
        with pytest.raises(HostError, match="needs root"):
            connections.delete(entries)
    finally:
        os.seteuid(0)
    assert connections.delete(entries) == 2
