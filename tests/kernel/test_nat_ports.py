"""Ports of translated connections, filled in a network namespace: counted by destination, and their end is seen."""

from __future__ import annotations

import os
import socket
import subprocess
from collections.abc import Iterator
from contextlib import ExitStack

import pytest

from nfagent.kernel.nat_ports import describe, read_nat_ports, read_statistics
from nfagent.netlink.conntrack_ports import PortUse
from nfagent.netlink.packet_header import TCP, UDP
from tests.support.own_namespace import await_own_addresses, own_namespace

pytestmark = [
    pytest.mark.kernel,
    pytest.mark.skipif(os.geteuid() != 0, reason="needs root: network namespaces, nf_tables and conntrack"),
]

RANGE = ((2000, 2019),)
PORTS = 20
POD4, NODE4, SERVER4, OTHER4 = "10.0.0.1", "192.0.2.1", "198.51.100.1", "198.51.100.2"
POD6, NODE6, SERVER6 = "fd00::1", "2001:db8::1", "2001:db8:99::1"
LINKS = f"""
link set lo up
route add local 10.0.0.0/16 dev lo
route add local 192.0.2.0/24 dev lo
route add local 198.51.100.0/24 dev lo
addr add {POD6} dev lo nodad
addr add {NODE6} dev lo nodad
addr add {SERVER6} dev lo nodad
"""
RULES = f"""
table inet translated {{
    chain out {{
        type nat hook postrouting priority srcnat
        ip saddr {POD4} meta l4proto {{ tcp, udp }} snat ip to {NODE4}:2000-2019
        ip6 saddr {POD6} meta l4proto {{ tcp, udp }} snat ip6 to [{NODE6}]:2000-2019
    }}
}}
"""


@pytest.fixture(autouse=True)
def _namespace() -> Iterator[None]:
    """Enter a new network namespace with this thread, where what a Pod sends is translated to 20 ports."""
    with own_namespace("natports"):
        subprocess.run(["ip", "-batch", "-"], input=LINKS, text=True, check=True)
        subprocess.run(["nft", "-f", "-"], input=RULES, text=True, check=True)
        await_own_addresses(POD6, NODE6, SERVER6)
        yield


@pytest.fixture
def stack() -> Iterator[ExitStack]:
    """Keep the sockets of a test open until it ends."""
    with ExitStack() as opened:
        yield opened


def send(stack: ExitStack, client: str, server: str, port: int = 53) -> bool:
    """Send a datagram from a new port; return whether it left."""
    opened = stack.enter_context(socket.socket(socket.AF_INET6 if ":" in client else socket.AF_INET, socket.SOCK_DGRAM))
    opened.bind((client, 0))
    opened.connect((server, port))
    try:
        opened.send(b"x")
    except PermissionError:  # EPERM: the packet was dropped on its way out
        return False
    return True


def test_without_connections_no_port_is_in_use() -> None:
    found = read_nat_ports(RANGE)
    assert (found.available, found.busiest, found.nearly_full) == (PORTS, None, False)


@pytest.mark.parametrize(
    ("client", "node", "server"), [(POD4, NODE4, SERVER4), (POD6, NODE6, SERVER6)], ids=["IPv4", "IPv6"]
)
def test_a_full_port_range_is_seen_with_the_connections_that_it_refused(
    stack: ExitStack, client: str, node: str, server: str
) -> None:
    before = read_statistics()
    left = [send(stack, client, server) for _ in range(PORTS + 5)]
    found = read_nat_ports(RANGE)
    assert left == [True] * PORTS + [False] * 5
    assert found.busiest == PortUse(UDP, node, server, 53, PORTS)
    assert found.nearly_full
    assert found.statistics.since(before).insert_failed == 5
    assert describe(found).startswith(f"20 of 20 in use (100 %) from {node} to {server} UDP port 53")


def test_each_destination_has_the_whole_range(stack: ExitStack) -> None:
    sent = [send(stack, POD4, server, port) for server in (SERVER4, OTHER4) for port in (53, 54) for _ in range(15)]
    found = read_nat_ports(RANGE)
    assert all(sent)
    assert found.busiest is not None
    assert (found.busiest.used, found.nearly_full) == (15, False)


def test_connections_of_the_node_itself_are_no_translated_ones(stack: ExitStack) -> None:
    assert all(send(stack, NODE4, SERVER4) for _ in range(3))
    assert read_nat_ports().busiest is None


def test_connections_of_the_node_itself_take_ports_of_translated_ones(stack: ExitStack) -> None:
    for port in range(2000, 2005):
        own = stack.enter_context(socket.socket(socket.AF_INET, socket.SOCK_DGRAM))
        own.bind((NODE4, port))
        own.connect((SERVER4, 53))
        own.send(b"x")
    assert send(stack, POD4, SERVER4)
    assert read_nat_ports(RANGE).busiest == PortUse(UDP, NODE4, SERVER4, 53, 6)


def test_tcp_connections_are_counted_at_the_server_s_own_port(stack: ExitStack) -> None:
    listener = stack.enter_context(socket.socket())
    listener.bind((SERVER4, 8080))
    listener.listen()
    for _ in range(2):
        opened = stack.enter_context(socket.socket())
        opened.bind((POD4, 0))
        opened.connect((SERVER4, 8080))
    assert read_nat_ports(RANGE).busiest == PortUse(TCP, NODE4, SERVER4, 8080, 2)
