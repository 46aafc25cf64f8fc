"""Packet headers: addresses always, ports and ICMP types if the copy has them."""

from __future__ import annotations

import ipaddress
import struct

import pytest

from nfagent.errors import WireError
from nfagent.netlink import packet_header
from nfagent.netlink.packet_header import PacketHead

PORTS = struct.pack("!HH", 55_644, 8_080)
ECHO = b"\x08\x00"
ECHO6 = b"\x80\x00"
FRAGMENT_FIRST = bytes([17, 0]) + (0 << 3 | 1).to_bytes(2, "big") + bytes(4)
FRAGMENT_LATER = bytes([17, 0]) + (185 << 3).to_bytes(2, "big") + bytes(4)


def ipv4(protocol: int, rest: bytes, *, options: bytes = b"", offset: int = 0, length: int | None = None) -> bytes:
    size = 20 + len(options)
    whole = size + len(rest) if length is None else length
    head = struct.pack("!BBHHHBBH", 0x40 | size // 4, 0, whole, 1, offset, 64, protocol, 0)
    return head + bytes([10, 84, 1, 7]) + bytes([10, 84, 0, 11]) + options + rest


def ipv6(protocol: int, rest: bytes, *, length: int | None = None) -> bytes:
    head = struct.pack("!IHBB", 6 << 28, len(rest) if length is None else length, protocol, 64)
    ends = (ipaddress.IPv6Address("2001:db8::1"), ipaddress.IPv6Address("fd00:0:0:1::a"))
    return head + ends[0].packed + ends[1].packed + rest


def extension(following: int, size: int = 8) -> bytes:
    return bytes([following, size // 8 - 1]) + bytes(size - 2)


def head4(protocol: int, **more: int) -> PacketHead:
    return PacketHead(4, "10.84.1.7", "10.84.0.11", protocol, **more)


def head6(protocol: int, **more: int) -> PacketHead:
    return PacketHead(6, "2001:db8::1", "fd00:0:0:1::a", protocol, **more)


BOTH_PORTS = {"source_port": 55_644, "destination_port": 8_080}


@pytest.mark.parametrize(
    ("raw", "expected"),
    [
        *(
            pytest.param(ipv4(number, PORTS), head4(number, **BOTH_PORTS), id=f"{name} over IPv4 has ports")
            for name, number in [("TCP", 6), ("UDP", 17), ("DCCP", 33), ("SCTP", 132), ("UDP-Lite", 136)]
        ),
        *(
            pytest.param(ipv6(number, PORTS), head6(number, **BOTH_PORTS), id=f"{name} over IPv6 has ports")
            for name, number in [("TCP", 6), ("UDP", 17), ("DCCP", 33), ("SCTP", 132), ("UDP-Lite", 136)]
        ),
        pytest.param(ipv4(1, ECHO), head4(1, icmp_type=8, icmp_code=0), id="ICMP has type and code"),
        pytest.param(ipv6(58, b"\x01\x04"), head6(58, icmp_type=1, icmp_code=4), id="ICMPv6 has type and code"),
        pytest.param(ipv6(1, ECHO), head6(1), id="ICMP of version 4 says nothing inside IPv6"),
        pytest.param(ipv4(58, ECHO6), head4(58), id="ICMPv6 says nothing inside IPv4"),
        pytest.param(ipv4(47, PORTS), head4(47), id="GRE has no ports"),
        pytest.param(ipv4(17, PORTS, options=bytes(40)), head4(17, **BOTH_PORTS), id="IPv4 options are skipped"),
        pytest.param(ipv4(17, PORTS, offset=0x2000), head4(17, **BOTH_PORTS), id="a first IPv4 fragment has ports"),
        pytest.param(ipv4(17, PORTS, offset=0x20B9), head4(17), id="a later IPv4 fragment has none"),
        pytest.param(ipv4(1, ECHO, offset=0x00B9), head4(1), id="a later ICMP fragment has no type"),
        pytest.param(ipv4(6, PORTS[:3]), head4(6), id="a copy that ends inside the ports has none"),
        pytest.param(ipv4(1, ECHO[:1]), head4(1), id="a copy that ends inside the ICMP type has none"),
        pytest.param(ipv4(6, b"", options=bytes(40))[:20], head4(6), id="a copy that ends inside IPv4 options"),
        pytest.param(ipv4(6, PORTS, length=20), head4(6), id="padding behind an IPv4 packet is no port"),
        pytest.param(ipv6(6, PORTS, length=2), head6(6), id="padding behind an IPv6 packet is no port"),
        pytest.param(ipv4(6, PORTS, length=0), head4(6, **BOTH_PORTS), id="an IPv4 length of 0 is not known yet"),
        pytest.param(ipv6(6, PORTS, length=0), head6(6, **BOTH_PORTS), id="an IPv6 length of 0 is not known yet"),
        pytest.param(ipv4(6, PORTS, length=1500), head4(6, **BOTH_PORTS), id="a packet longer than its copy"),
        pytest.param(ipv6(59, b""), head6(59), id="no next header is a protocol of its own"),
        pytest.param(ipv6(50, PORTS), head6(50), id="ESP hides its ports"),
        pytest.param(
            ipv6(0, extension(43) + extension(60, 24) + extension(17) + PORTS),
            head6(17, **BOTH_PORTS),
            id="hop-by-hop, routing and destination options are skipped",
        ),
        pytest.param(
            ipv6(51, bytes([6, 4]) + bytes(22) + PORTS),
            head6(6, **BOTH_PORTS),
            id="an authentication header counts in words of four bytes",
        ),
        pytest.param(ipv6(44, FRAGMENT_FIRST + PORTS), head6(17, **BOTH_PORTS), id="a first IPv6 fragment has ports"),
        pytest.param(ipv6(44, FRAGMENT_LATER + PORTS), head6(17), id="a later IPv6 fragment has none"),
        pytest.param(
            ipv6(0, extension(43) + extension(17)[:7]), head6(43), id="a copy that ends inside an extension names it"
        ),
        pytest.param(
            ipv6(0, extension(17, 2048)[:64]), head6(17), id="an extension longer than the copy leaves no ports"
        ),
    ],
)
def test_head(raw: bytes, expected: PacketHead) -> None:
    assert packet_header.decode_head(raw) == expected


@pytest.mark.parametrize(
    ("raw", "why"),
    [
        pytest.param(b"", "neither an IPv4 nor an IPv6", id="nothing"),
        pytest.param(b"\x50" + bytes(60), "neither an IPv4 nor an IPv6", id="version 5"),
        pytest.param(ipv4(6, b"")[:19], "ends before its addresses", id="IPv4 without its last byte"),
        pytest.param(ipv6(6, b"")[:39], "ends before its addresses", id="IPv6 without its last byte"),
        pytest.param(b"\x44" + ipv4(6, PORTS)[1:], "length is 16 bytes", id="an IPv4 header of four words"),
    ],
)
def test_bytes_that_are_not_a_packet_are_an_error(raw: bytes, why: str) -> None:
    with pytest.raises(WireError, match=why):
        packet_header.decode_head(raw)


def test_an_ipv4_mapped_source_stays_ipv6() -> None:
    mapped = ipv6(6, PORTS)
    mapped = mapped[:8] + bytes(10) + b"\xff\xff" + bytes([10, 0, 0, 1]) + mapped[24:]

    assert ":" in packet_header.decode_head(mapped).source
