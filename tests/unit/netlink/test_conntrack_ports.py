"""Ports in use, counted from encoded conntrack entries."""

from __future__ import annotations

import struct

import pytest

from nfagent.errors import WireError
from nfagent.netlink import codec
from nfagent.netlink.conntrack_ports import PortCounts, PortRanges, PortUse
from nfagent.netlink.packet_header import SCTP, TCP, UDP
from tests.support.ctnetlink_dump import GRE, ICMP, tuple_members

POD, NODE, OUTSIDE = "10.0.0.1", "192.0.2.1", "198.51.100.1"
SMALL: PortRanges = ((2000, 2009), (3000, 3009))


def entry(
    port: int,
    *,
    client: str = POD,
    node: str = NODE,
    server: str = OUTSIDE,
    server_port: int = 443,
    protocol: int = TCP,
    zone: int = 0,
    zone_in_tuple: bool = False,
) -> bytes:
    """Encode a connection of a client that the server sees as the node, from a port."""
    original = tuple_members(client, server, protocol, (40_000, server_port), request=True)
    reply = tuple_members(server, node, protocol, (server_port, port), request=False)
    number = struct.pack("!H", zone)
    return b"".join(
        [
            codec.nfgen(10 if ":" in client else 2, 0),
            codec.nested(1, *original),
            codec.nested(2, *reply, *([codec.attribute(3, number)] if zone_in_tuple else [])),
            codec.attribute(18, number) if zone and not zone_in_tuple else b"",
            codec.attribute(3, struct.pack("!I", 0x198)),
        ]
    )


def counted(*bodies: bytes, ranges: PortRanges = SMALL) -> PortUse | None:
    counts = PortCounts(ranges)
    for body in bodies:
        counts.add(body)
    return counts.busiest()


def test_all_ports_are_those_from_1024_on() -> None:
    assert PortCounts().available == 65_536 - 1024


def test_overlapping_ranges_have_each_port_once() -> None:
    assert PortCounts(((2000, 2009), (2005, 2014))).available == 15


@pytest.mark.parametrize(
    ("bodies", "used"),
    [
        ([entry(2000), entry(2001)], 2),
        ([entry(2000), entry(3009)], 2),
        ([entry(2000), entry(2010), entry(1999)], 1),
        ([entry(2000), entry(2001, server="198.51.100.2")], 1),
        ([entry(2000), entry(2001, server_port=80)], 1),
        ([entry(2000), entry(2001, protocol=UDP)], 1),
        ([entry(2000), entry(2001, node="192.0.2.2")], 1),
        ([entry(2000), entry(2001, zone=7)], 1),
        ([entry(2000, zone=7), entry(2001, zone=7, zone_in_tuple=True)], 2),
        ([entry(2000), entry(2001, client=NODE)], 2),
        ([entry(2000, protocol=SCTP), entry(2001, protocol=SCTP)], 2),
    ],
    ids=[
        "connections to one destination add up",
        "both ranges count",
        "ports outside the ranges are not counted",
        "another server has ports of its own",
        "another port of the server has ports of its own",
        "another protocol has ports of its own",
        "another translated address has ports of its own",
        "another conntrack zone has ports of its own",
        "the zone is the same in the tuple and beside it",
        "the node's own connections take ports too",
        "SCTP is counted",
    ],
)
def test_ports_are_counted_by_destination(bodies: list[bytes], used: int) -> None:
    found = counted(*bodies)
    assert found is not None
    assert found.used == used


@pytest.mark.parametrize(
    "body",
    [entry(2000, client=NODE), entry(2000, protocol=ICMP), entry(2000, protocol=GRE), entry(5000)],
    ids=["of the node itself", "of ICMP", "of GRE", "outside the ranges"],
)
def test_a_connection_without_a_translated_port_of_the_ranges_is_none(body: bytes) -> None:
    assert counted(body) is None


@pytest.mark.parametrize("busiest", ["198.51.100.1", "198.51.100.2"], ids=["the lower address", "the higher address"])
def test_the_busiest_destination_has_most_ports_in_use(busiest: str) -> None:
    bodies = [entry(2000, server=server) for server in ("198.51.100.1", "198.51.100.2")]
    assert counted(*bodies, entry(2001, server=busiest)) == PortUse(TCP, NODE, busiest, 443, 2)


def test_ipv6_addresses_are_canonical() -> None:
    body = entry(2000, client="fd00::1", node="2001:db8::1", server="2001:db8:99::1")
    assert counted(body) == PortUse(TCP, "2001:db8::1", "2001:db8:99::1", 443, 1)


@pytest.mark.parametrize(
    ("body", "why"),
    [
        (codec.nfgen(2, 0), "conntrack tuple without attribute 1"),
        (entry(2000)[:20], "length"),
        (codec.nfgen(2, 0) + codec.nested(1, b""), "conntrack tuple without attribute 1"),
        (
            entry(2000)[: -len(codec.attribute(3, bytes(4)))] + codec.attribute(18, b"\0"),
            "conntrack entry with an attribute of a wrong size",
        ),
    ],
    ids=["without tuples", "cut off", "an empty tuple", "a zone of one byte"],
)
def test_an_entry_that_can_not_be_read_is_refused_with_the_reason(body: bytes, why: str) -> None:
    with pytest.raises(WireError, match=why):
        counted(body)
