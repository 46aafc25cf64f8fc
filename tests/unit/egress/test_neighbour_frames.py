"""The frames that announce an address, field by field."""

from __future__ import annotations

import ipaddress
import struct

from hypothesis import given
from hypothesis import strategies as st

from nfagent.egress.neighbour_frames import announcement

MAC = bytes.fromhex("020000000007")


def test_ipv4_is_announced_by_a_gratuitous_arp_request() -> None:
    frame = announcement("192.0.2.10", MAC)
    ethernet = ["ffffffffffff", "020000000007", "0806"]
    request = ["0001", "0800", "0604", "0001", "020000000007", "c000020a", "000000000000", "c000020a"]
    assert frame.hex() == "".join(ethernet + request)


def test_ipv6_is_announced_by_an_advertisement_to_all_nodes() -> None:
    frame = announcement("2001:db8::10", MAC)
    target = ipaddress.ip_address("2001:db8::10").packed
    assert frame[:14].hex() == "33330000000102000000000786dd"
    header, body = frame[14:54], frame[54:]
    assert header[:8] == struct.pack("!IHBB", 0x60000000, 32, 58, 255)
    assert header[8:24] == target
    assert header[24:] == ipaddress.ip_address("ff02::1").packed
    assert (body[0], body[1], body[4:8], body[8:24], body[24:]) == (
        136,
        0,
        bytes.fromhex("20000000"),
        target,
        b"\x02\x01" + MAC,
    )


@given(st.ip_addresses(v=6), st.binary(min_size=6, max_size=6))
def test_the_checksum_of_an_advertisement_is_right(address: ipaddress.IPv6Address, mac: bytes) -> None:
    frame = announcement(str(address), mac)
    # The sum over the pseudo-header and a message with its checksum is all ones (RFC 1071).
    summed = frame[22:54] + struct.pack("!II", 32, 58) + frame[54:]
    total = sum(struct.unpack(f"!{len(summed) // 2}H", summed))
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    assert total == 0xFFFF
