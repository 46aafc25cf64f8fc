"""Short ways to read an NFLOG record give what decoding it attribute by attribute gives, for any bytes."""

from __future__ import annotations

import struct

from hypothesis import given
from hypothesis import strategies as st

from nfagent.errors import WireError
from nfagent.netlink import codec
from nfagent.netlink.nflog import LoggedPacket, decode_datagram
from nfagent.netlink.nflog_layouts import RecordLayouts
from nfagent.netlink.packet_header import decode_head
from nfagent.verdicts.connection_key import (
    address_in_key,
    connection_of_head,
    connection_of_packet,
    key_of_head,
    key_of_packet,
)

_SMALL = st.binary(max_size=9)
_NUMBER = st.integers(0, 3).map(lambda value: struct.pack("!I", value))
_STAMP = st.tuples(st.integers(0, 2**34), st.integers(0, 999_999)).map(lambda pair: struct.pack("!QQ", *pair))
_FORWARDED = st.tuples(
    st.just(codec.attribute(1, struct.pack("!HBx", 0x800, 2))),
    st.sampled_from((b"deny a\0", b"deny b\0", b"allow long\0")).map(lambda text: codec.attribute(10, text)),
    _NUMBER.map(lambda value: codec.attribute(4, value)),
    _NUMBER.map(lambda value: codec.attribute(5, value)),
    _STAMP.map(lambda value: codec.attribute(3, value)),
    _NUMBER.map(lambda value: codec.attribute(12, value)),
    st.binary(max_size=40).map(lambda value: codec.attribute(9, value)),
)
"""The attributes of a forwarded packet, in the kernel's order."""
_ANY = st.lists(
    st.tuples(st.sampled_from((1, 3, 4, 5, 9, 10, 12, 15, 0x8009)), _SMALL | _STAMP).map(
        lambda pair: codec.attribute(*pair)
    ),
    max_size=9,
)


@st.composite
def _records(draw: st.DrawFn) -> bytes:
    attributes = list(draw(_FORWARDED)) if draw(st.integers(0, 3)) else draw(_ANY)
    for change in draw(st.lists(st.sampled_from(("swap", "drop", "twice", "behind")), max_size=2)):
        at = draw(st.integers(0, max(0, len(attributes) - 1)))
        if change == "swap":
            attributes[at:] = reversed(attributes[at:])
        elif change == "drop":
            del attributes[at : at + 1]
        elif change == "behind":
            attributes.append(codec.attribute(draw(st.sampled_from((4, 5))), draw(_NUMBER)))
        else:
            attributes += attributes[at : at + 1]
    body = codec.nfgen(2, 100) + b"".join(attributes)
    cut = draw(st.integers(0, 5))
    return codec.message(draw(st.sampled_from((0x400, 0x400, 0x400, 3))), 0, 0, body[: len(body) - cut])


@st.composite
def _datagrams(draw: st.DrawFn) -> bytes:
    whole = bytearray(b"".join(draw(st.lists(_records(), max_size=6))))
    for at in draw(st.lists(st.integers(0, max(0, len(whole) - 1)), max_size=2)) if whole else ():
        whole[at] = draw(st.integers(0, 255))
    return bytes(whole)


@given(st.lists(_datagrams() | st.binary(max_size=60), max_size=5))
def test_records_with_a_known_layout_are_decoded_as_any_other(datagrams: list[bytes]) -> None:
    layouts = RecordLayouts()
    for datagram in [*datagrams, *datagrams]:
        assert layouts.decode(datagram) == decode_datagram(datagram)


_ADDRESS4, _ADDRESS6 = st.binary(min_size=4, max_size=4), st.binary(min_size=16, max_size=16)
_PROTOCOL = st.sampled_from((6, 17, 33, 132, 136, 1, 58, 44, 0, 51, 47))


@st.composite
def _packets(draw: st.DrawFn) -> bytes:
    upper = draw(st.binary(max_size=24))
    length = draw(st.sampled_from((0, len(upper), 2, 60)))
    if draw(st.booleans()):
        first = draw(st.sampled_from((0x45, 0x45, 0x46, 0x44)))
        fragment = draw(st.sampled_from((0, 0x4000, 0x2000, 1, 0x1FFF)))
        head = struct.pack("!BBHHHBBH", first, 0, 20 + length if length else 0, 1, fragment, 63, draw(_PROTOCOL), 0)
        return head + draw(_ADDRESS4) + draw(_ADDRESS4) + upper
    return struct.pack("!IHBB", 6 << 28, length, draw(_PROTOCOL), 63) + draw(_ADDRESS6) + draw(_ADDRESS6) + upper


@given(_packets() | st.binary(max_size=50), st.booleans())
def test_the_key_of_a_packet_is_that_of_its_decoded_head(packet: bytes, is_reply: bool) -> None:  # noqa: FBT001
    key = key_of_packet(packet, is_reply=is_reply)
    try:
        head = decode_head(packet)
    except WireError:
        assert key is None
        return
    assert key in {None, key_of_head(head.reversed if is_reply else head)}


@given(_packets() | st.binary(max_size=50))
def test_the_connection_of_a_packet_is_that_of_its_decoded_head_which_lacks_the_identifier_of_icmp(
    packet: bytes,
) -> None:
    found = connection_of_packet(packet)
    try:
        head = decode_head(packet)
    except WireError:
        assert found is None
        return
    if found is not None:
        key, _opening = found
        assert [address_in_key(key, of_server=side) for side in (False, True)] == [head.source, head.destination]
        expected, _ = connection_of_head(head)
        assert key == expected if head.source_port is not None else key.startswith(expected)


def test_an_ordinary_packet_has_a_key_without_its_source_port() -> None:
    first = bytes.fromhex("45000021f3844000401149457f0000017f0000019c401092000dfe20")
    again = bytes.fromhex("45000021f3844000401149457f0000017f0000019c411092000dfe20")
    answer = bytes.fromhex("45000021f3844000401149457f0000017f00000110929c41000dfe20")
    known = key_of_packet(first, is_reply=False)
    assert known == bytes.fromhex("117f0000017f0000011092")
    assert (key_of_packet(again, is_reply=False), key_of_packet(answer, is_reply=True)) == (known, known)


def test_a_second_record_of_a_rule_is_read_by_its_layout() -> None:
    layouts = RecordLayouts()
    record = codec.message(
        0x400,
        0,
        0,
        codec.nfgen(2, 100)
        + codec.attribute(1, struct.pack("!HBx", 0x800, 2))
        + codec.attribute(10, b"deny a\0")
        + codec.attribute(4, struct.pack("!I", 3))
        + codec.attribute(3, struct.pack("!QQ", 1, 2))
        + codec.attribute(12, struct.pack("!I", 9))
        + codec.attribute(9, b"packet"),
    )
    expected = LoggedPacket("deny a", b"packet", 2, 0x800, 9, 1_000_002_000, 3, 0)
    assert layouts.decode(record).packets == [expected]
    assert layouts.known(record[16:]) == expected


def test_an_attribute_behind_the_timestamp_changes_no_later_record() -> None:
    number = struct.Struct("!I").pack
    head = codec.nfgen(2, 100) + codec.attribute(1, struct.pack("!HBx", 0x800, 2)) + codec.attribute(10, b"deny a\0")
    head += codec.attribute(4, number(3)) + codec.attribute(3, bytes(16))
    tail = codec.attribute(12, number(1)) + codec.attribute(9, b"packet")
    layouts = RecordLayouts()
    for behind, interface in ((codec.attribute(4, number(9)), 9), (b"", 3), (codec.attribute(4, number(9)), 9)):
        for record in (head + behind + tail, head + tail + behind):
            read = layouts.decode(codec.message(0x400, 0, 0, record))
            assert [packet.in_interface for packet in read.packets] == [interface]
