"""NFLOG messages: the bind request's layout, and datagrams as a kernel sent them (x86-64, Linux 6.18)."""

from __future__ import annotations

import struct
import sys

import pytest

from nfagent.errors import WireError
from nfagent.netlink import codec, nflog

pytestmark = pytest.mark.skipif(sys.byteorder == "big", reason="the captured datagrams are of a little-endian kernel")

UDP4 = bytes.fromhex("45000021f3844000401149457f0000017f0000019c401092000dfe2068656c6c6f")
UDP6 = bytes.fromhex(
    "60036a1d000d114000000000000000000000000000000001000000000000000000000000000000019c401092000d002068656c6c6f"
)
OUTPUT4 = (
    "6c00000000040000000000000000000002000005080001000800030008000a006f757400080005000000000108000b000000"
    "000008000e000000000008000c00000000002500090045000021f3844000401149457f0000017f0000019c401092000dfe20"
    "68656c6c6f000000"
)
INPUT6 = (
    "c80000000004000000000000000000000a0000050800010086dd010015000a0077656220696e67726573732064656e790000"
    "000008000400000000011000080000060000000000000000000006000f000304000006001100000e00001200100000000000"
    "000000000000000086dd000014000300000000006b03993000000000000cc63708000c00000000043900090060036a1d000d"
    "114000000000000000000000000000000001000000000000000000000000000000019c401092000d002068656c6c6f000000"
)
NO_PREFIX = (
    "7800000000040000000000000000000002000005080001000800030005000a0000000000080005000000000108000c000000"
    "00024100090045c0003d847d00004001f7807f0000017f00000103030e2a0000000045000021f3844000401149457f000001"
    "7f0000019c401092000dfe2068656c6c6f000000"
)
DONE = "1400000003000000000000000000000000000005"


def test_the_bind_request_has_all_settings_in_one_message() -> None:
    request = nflog.bind_request(300, 9, copy_range=128, queue_threshold=64, timeout_cs=10, buffer_size=32_768)

    (message,) = codec.messages(request)
    assert (message.type, message.flags, message.sequence) == (0x0401, codec.NLM_F_REQUEST | codec.NLM_F_ACK, 9)
    assert message.payload[: codec.NFGEN_SIZE] == b"\0\0" + (300).to_bytes(2, "big")
    assert dict(codec.attributes(message.payload, codec.NFGEN_SIZE)) == {
        1: b"\x01",
        2: struct.pack("!IBB", 128, 2, 0),
        3: (32_768).to_bytes(4, "big"),
        4: (10).to_bytes(4, "big"),
        5: (64).to_bytes(4, "big"),
        6: b"\0\x01",
    }


@pytest.mark.parametrize("group", [-1, 65_536])
def test_a_group_that_does_not_exist_is_refused(group: int) -> None:
    with pytest.raises(WireError, match=f"NFLOG group {group} "):
        nflog.bind_request(group, 1, copy_range=128, queue_threshold=64, timeout_cs=10, buffer_size=32_768)


def test_the_packets_of_a_datagram_are_decoded_in_order_and_its_end_is_skipped() -> None:
    read = nflog.decode_datagram(bytes.fromhex(OUTPUT4 + INPUT6 + NO_PREFIX + DONE))

    assert read.undecodable == 0
    assert read.packets[:2] == [
        nflog.LoggedPacket("out", UDP4, 3, 0x0800, 0, None, 0, 1),
        nflog.LoggedPacket("web ingress deny", UDP6, 1, 0x86DD, 4, 1_795_397_936_837_175_000, 1, 0),
    ]
    assert [(packet.prefix, packet.sequence) for packet in read.packets[2:]] == [("", 2)]


def test_an_unreadable_record_is_counted_and_its_neighbours_are_read() -> None:
    headless = codec.message(0x0400, 0, 0, codec.nfgen(2, 5) + codec.attribute(10, b"x\0"))

    read = nflog.decode_datagram(bytes.fromhex(OUTPUT4) + headless + bytes.fromhex(NO_PREFIX))

    assert [packet.sequence for packet in read.packets] == [0, 2]
    assert read.undecodable == 1


def test_a_datagram_that_ends_early_keeps_what_came_before() -> None:
    read = nflog.decode_datagram(bytes.fromhex(OUTPUT4 + INPUT6)[:-9])

    assert [packet.prefix for packet in read.packets] == ["out"]
    assert read.undecodable == 1


def _body(*attributes: bytes) -> bytes:
    return codec.nfgen(2, 5) + b"".join(attributes)


HEADER = codec.attribute(1, b"\x08\x00\x02\x00")


@pytest.mark.parametrize(
    ("body", "why"),
    [
        pytest.param(b"", "0 bytes ends inside a header", id="nothing at all"),
        pytest.param(_body(), "without a packet header", id="no attributes"),
        pytest.param(_body(codec.attribute(1, b"\x08\x00")), "wrong size", id="a packet header of two bytes"),
        pytest.param(_body(HEADER, codec.attribute(12, b"\0")), "wrong size", id="a sequence number of one byte"),
        pytest.param(_body(HEADER, codec.attribute(3, bytes(8))), "wrong size", id="a timestamp of one half"),
        pytest.param(_body(HEADER, b"\x03\0\x0a\0"), "length 3", id="an attribute shorter than its header"),
        pytest.param(_body(HEADER, b"\xff\0\x0a\0"), "length 255", id="an attribute beyond the end"),
        pytest.param(_body(HEADER, b"\x08\0"), "ends inside a header", id="half an attribute header"),
    ],
)
def test_a_record_that_can_not_be_read_is_refused_with_the_reason(body: bytes, why: str) -> None:
    with pytest.raises(WireError, match=why):
        nflog.decode_packet(body)


def test_a_record_with_a_packet_header_alone_is_read() -> None:
    assert nflog.decode_packet(_body(HEADER)) == nflog.LoggedPacket("", b"", 2, 0x0800, None, None, 0, 0)


def test_a_prefix_that_is_no_text_stays_readable() -> None:
    assert nflog.decode_packet(_body(HEADER, codec.attribute(10, b"a\xffb\0"))).prefix == "a\\xffb"
