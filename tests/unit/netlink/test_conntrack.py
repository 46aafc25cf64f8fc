"""Conntrack messages: requests as the kernel wants them, and entries as a kernel sent them (x86-64, Linux 6.18)."""

from __future__ import annotations

import struct
import sys

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from nfagent.errors import WireError
from nfagent.model.netaddr import Family
from nfagent.netlink import codec
from nfagent.netlink.conntrack import (
    ConntrackEntry,
    DumpChunk,
    decode_entries,
    decode_entry,
    encode_delete,
    encode_dump,
)
from nfagent.netlink.extack import Acknowledgement
from tests.support.ctnetlink_dump import GRE, INTERRUPTED, MULTI, NEW, DumpEntry, entry_body, tuple_members

little_endian = pytest.mark.skipif(sys.byteorder == "big", reason="captured from a little-endian kernel")

# TCP of 10.0.0.1:40000 to a Service, 10.96.0.1:80, which is 10.0.0.2:8080 (nft dnat); established
TCP4 = (
    "d4000000000122000100000022160000020000003400018014000180080001000a000001080002000a6000011c00028005000100"
    "06000000060002009c40000006000300005000003400028014000180080001000a000002080002000a0000011c00028005000100"
    "06000000060002001f900000060003009c40000008000300000001ae080008000000000008000c00c8f1debd08000b0000000001"
    "080007000006977f300004802c0001800500010003000000050002000a000000050003000a000000060004002300000006000500"
    "23000000"
)
# the same in IPv6: fd00::1 to fd00:96::1, which is fd00::2
TCP6 = (
    "040100000001220001000000221600000a0000004c0001802c00018014000300fd00000000000000000000000000000114000400"
    "fd0000960000000000000000000000011c0002800500010006000000060002009c40000006000300005000004c0002802c000180"
    "14000300fd00000000000000000000000000000214000400fd0000000000000000000000000000011c0002800500010006000000"
    "060002001f900000060003009c40000008000300000001ae080008000000000008000c0064b44c1b08000b000000000108000700"
    "0006977f300004802c0001800500010003000000050002000a000000050003000a00000006000400230000000600050023000000"
)
# ping of fd00::1 to fd00::2, answered
PING6 = (
    "e40000000001220001000000221600000a000000540001802c00018014000300fd00000000000000000000000000000114000400"
    "fd00000000000000000000000000000224000280050001003a000000060007001092000005000800800000000500090000000000"
    "540002802c00018014000300fd00000000000000000000000000000214000400fd00000000000000000000000000000124000280"
    "050001003a000000060007001092000005000800810000000500090000000000080003000000018a080008000000000008000c00"
    "d6e15d0908000b0000000001080007000000001d"
)
# a packet of protocol 99, 10.0.0.1 to 10.0.0.2
UNASSIGNED4 = (
    "84000000000122000100000022160000020000002400018014000180080001000a000001080002000a0000020c00028005000100"
    "630000002400028014000180080001000a000002080002000a0000010c0002800500010063000000080003000000018808000800"
    "0000000008000c003bc1308a08000b00000000010800070000000257"
)
# UDP of 10.0.0.1:1 to 10.0.9.2:9, whose replies alone are in zone 9
ZONE4 = (
    "ac000000000122000100000022160000020000003400018014000180080001000a000001080002000a0009021c00028005000100"
    "11000000060002000001000006000300000900003c00028014000180080001000a000902080002000a0000011c00028005000100"
    "11000000060002000009000006000300000100000600030000090000080003000000018a080008000000000008000c00d02b3c53"
    "08000b0000000001080007000000001d"
)
DONE = "1400000003000200010000002216000000000000"


@little_endian
def test_entries_of_a_kernel_are_read() -> None:
    part = decode_entries(bytes.fromhex(TCP4 + TCP6 + PING6 + UNASSIGNED4 + ZONE4))

    assert (part.others, part.done, part.interrupted, part.refusal) == (0, False, False, None)
    assert [msgspec.structs.astuple(entry)[:-1] for entry in part.entries] == [
        ("10.0.0.1", "10.96.0.1", "10.0.0.2", 6, 40_000, 80, 8080, 0, 0xC8F1DEBD, 0x1AE),
        ("fd00::1", "fd00:96::1", "fd00::2", 6, 40_000, 80, 8080, 0, 0x64B44C1B, 0x1AE),
        ("fd00::1", "fd00::2", "fd00::2", 58, None, None, None, 0, 0xD6E15D09, 0x18A),
        ("10.0.0.1", "10.0.0.2", "10.0.0.2", 99, None, None, None, 0, 0x3BC1308A, 0x188),
        ("10.0.0.1", "10.0.9.2", "10.0.9.2", 17, 1, 9, 9, 9, 0xD02B3C53, 0x18A),
    ]
    assert [entry.is_dnat for entry in part.entries] == [True, True, False, False, False]


@little_endian
@pytest.mark.parametrize(
    ("captured", "start", "stop"),
    [
        pytest.param(TCP4, 76, 124, id="IPv4 ports"),
        pytest.param(TCP6, 100, 172, id="IPv6 ports"),
        pytest.param(PING6, 108, 188, id="an echo reply"),
        pytest.param(UNASSIGNED4, 60, 92, id="addresses alone"),
        pytest.param(ZONE4, 76, 124, id="all but the zone"),
    ],
)
def test_an_entry_keeps_the_reply_tuple_as_it_was_written(captured: str, start: int, stop: int) -> None:
    raw = bytes.fromhex(captured)

    assert decode_entries(raw).entries[0].reply == raw[start:stop]


@little_endian
@pytest.mark.parametrize(
    ("addresses", "ids", "others6"),
    [
        pytest.param({"10.0.0.1"}, [0xC8F1DEBD, 0x3BC1308A, 0xD02B3C53], 2, id="of a client"),
        pytest.param({"10.0.0.2"}, [0xC8F1DEBD, 0x3BC1308A], 2, id="of a server"),
        pytest.param({"fd00::2"}, [0x64B44C1B, 0xD6E15D09], 0, id="of an IPv6 server"),
        pytest.param({"10.0.9.2", "fd00::1"}, [0x64B44C1B, 0xD6E15D09, 0xD02B3C53], 0, id="of any of the addresses"),
        pytest.param({"10.96.0.1", "fd00:96::1"}, [], 2, id="not those that merely called it"),
        pytest.param({"10.0.0.9", "0.0.0.0"}, [], 2, id="none"),  # noqa: S104 - an address without connections
        pytest.param(set(), [], 2, id="none where no address is asked for"),
    ],
)
def test_the_entries_of_addresses_are_picked_and_the_others_counted(
    addresses: set[str], ids: list[int], others6: int
) -> None:
    part = decode_entries(bytes.fromhex(TCP4 + TCP6 + PING6 + UNASSIGNED4 + ZONE4), frozenset(addresses))

    assert [entry.id for entry in part.entries] == ids
    assert (part.others, part.others6) == (5 - len(ids), others6)


ADDRESSES = [*(f"10.0.0.{number}" for number in range(1, 13)), "fd00::1", "fd00::2", "fe80::1"]
CONNECTIONS = st.builds(
    lambda ends, protocol: DumpEntry(ends[0], ends[1], ends[1], protocol),
    st.lists(st.sampled_from(ADDRESSES), min_size=2, max_size=2).filter(
        lambda ends: (":" in ends[0]) == (":" in ends[1])
    ),
    st.sampled_from([6, 17, 89]),
)


@given(st.lists(CONNECTIONS, max_size=6), st.frozensets(st.sampled_from(ADDRESSES)))
def test_few_and_many_addresses_pick_those_of_all_entries_that_have_them(
    connections: list[DumpEntry], addresses: frozenset[str]
) -> None:
    datagram = b"".join(codec.message(NEW, MULTI, 1, entry_body(one)) for one in connections)
    everything = decode_entries(datagram).entries
    wanted = [one for one in everything if {one.client, one.server} & (addresses | {"fe80::1"})]

    part = decode_entries(datagram, addresses)

    assert part.entries == wanted
    assert part.others == len(everything) - len(wanted)
    assert part.others6 == sum(":" in one.client for one in everything) - sum(":" in one.client for one in wanted)


@pytest.mark.parametrize(
    "connection",
    [
        pytest.param(DumpEntry(), id="a Service's"),
        pytest.param(DumpEntry(protocol=17, client="fd00::1", called="fd00::2", server="fd00::2"), id="IPv6"),
        pytest.param(DumpEntry(zone=7), id="a zone"),
        pytest.param(DumpEntry(zone=7, zone_of="reply"), id="a zone of replies"),
        pytest.param(DumpEntry(protocol=1, client_port=None, called_port=None, server_port=None), id="ICMP"),
        pytest.param(DumpEntry(protocol=89, client_port=None, called_port=None, server_port=None), id="OSPF"),
    ],
)
def test_what_is_written_is_read(connection: DumpEntry) -> None:
    entry = decode_entry(entry_body(connection))

    wanted = {name: value for name, value in msgspec.structs.asdict(connection).items() if name != "zone_of"}
    assert {name: value for name, value in msgspec.structs.asdict(entry).items() if name != "reply"} == wanted


def test_a_zone_of_requests_alone_does_not_name_an_entry() -> None:
    assert decode_entry(entry_body(DumpEntry(zone=7, zone_of="original"))).zone == 0


def test_the_keys_of_gre_are_no_ports() -> None:
    entry = decode_entry(entry_body(DumpEntry(protocol=GRE)))

    assert (entry.client_port, entry.called_port, entry.server_port) == (None, None, None)
    assert entry.reply == b"".join(tuple_members("10.0.0.2", "10.0.0.1", GRE, (None, None), request=False))


def test_attributes_in_another_order_are_read_all_the_same() -> None:
    body = entry_body(DumpEntry())
    members = [codec.nested(kind, value) for kind, value in codec.attributes(body, codec.NFGEN_SIZE)]
    turned = body[: codec.NFGEN_SIZE] + b"".join(reversed(members))

    assert decode_entry(turned) == decode_entry(body)
    datagram = codec.message(NEW, MULTI, 1, turned)
    assert decode_entries(datagram, frozenset({"10.0.0.2"})).entries == [decode_entry(body)]
    assert decode_entries(datagram, frozenset({"10.0.0.9"})).others == 1


@pytest.mark.parametrize(
    "body",
    [
        pytest.param(
            entry_body(DumpEntry())[:4]
            + codec.nested(14, *tuple_members("10.0.0.8", "10.0.0.9", 6, (1, 2), request=True))
            + entry_body(DumpEntry())[4:],
            id="with its master's tuple (CTA_TUPLE_MASTER) first",
        ),
        pytest.param(b"\0" + entry_body(DumpEntry())[1:], id="of a family that isn't told"),
    ],
)
def test_an_entry_in_an_unusual_message_is_picked_too(body: bytes) -> None:
    datagram = codec.message(NEW, MULTI, 1, body)

    for address in "10.0.0.1", "10.0.0.2":
        part = decode_entries(datagram, frozenset({address}))
        assert (part.entries, part.others) == ([decode_entry(entry_body(DumpEntry()))], 0)
    assert decode_entries(datagram, frozenset({"10.0.0.8"})).entries == []


def done(errno: int = 0) -> bytes:
    return codec.message(codec.NLMSG_DONE, MULTI, 5, struct.pack("=i", -errno))


def error(errno: int) -> bytes:
    return codec.message(codec.NLMSG_ERROR, 0, 5, struct.pack("=i", -errno) + codec.message(0x0101, 0, 5, b""))


ENTRY = codec.message(NEW, MULTI, 5, entry_body(DumpEntry()))


@pytest.mark.parametrize(
    ("datagram", "part"),
    [
        pytest.param(b"", DumpChunk([], 0, done=False, interrupted=False, refusal=None), id="nothing"),
        pytest.param(done(), DumpChunk([], 0, done=True, interrupted=False, refusal=None), id="the end"),
        pytest.param(
            done(12),
            DumpChunk([], 0, done=True, interrupted=False, refusal=Acknowledgement(5, 12)),
            id="an early end, and why",
        ),
        pytest.param(
            error(95),
            DumpChunk([], 0, done=True, interrupted=False, refusal=Acknowledgement(5, 95)),
            id="a refusal, and why",
        ),
        pytest.param(error(0), DumpChunk([], 0, done=True, interrupted=False, refusal=None), id="an acknowledgement"),
        pytest.param(
            codec.message(NEW, MULTI | INTERRUPTED, 5, entry_body(DumpEntry())) + done(),
            DumpChunk([decode_entry(entry_body(DumpEntry()))], 0, done=True, interrupted=True, refusal=None),
            id="an interruption that an entry tells of",
        ),
        pytest.param(
            codec.message(codec.NLMSG_DONE, INTERRUPTED, 5, bytes(4)),
            DumpChunk([], 0, done=True, interrupted=True, refusal=None),
            id="an interruption that the end tells of",
        ),
        pytest.param(
            codec.message(0x0102, 0, 5, b"other") + ENTRY,
            DumpChunk([decode_entry(entry_body(DumpEntry()))], 0, done=False, interrupted=False, refusal=None),
            id="a message of another type, passed over",
        ),
    ],
)
def test_a_datagram_has_the_state_of_the_dump(datagram: bytes, part: DumpChunk) -> None:
    assert decode_entries(datagram) == part


V4 = codec.nested(1, codec.attribute(1, b"abcd"), codec.attribute(2, b"efgh"))
PROTO = codec.nested(2, codec.attribute(1, b"\x06"))
ORIGINAL, REPLY = codec.nested(1, V4, PROTO), codec.nested(2, V4, PROTO)
TUPLES = ORIGINAL + REPLY
STATUS, ID = codec.attribute(3, bytes(4)), codec.attribute(12, bytes(4))


@pytest.mark.parametrize(
    ("attributes", "why"),
    [
        pytest.param(b"", "without attribute 1", id="nothing at all"),
        pytest.param(ORIGINAL + STATUS + ID, "without attribute 2", id="no reply"),
        pytest.param(TUPLES + STATUS, "without attribute 12", id="no id"),
        pytest.param(TUPLES + ID, "without attribute 3", id="no status"),
        pytest.param(TUPLES + ID + codec.attribute(3, b"abc"), "wrong size", id="a status of three bytes"),
        pytest.param(TUPLES + STATUS + ID + codec.attribute(18, b"a"), "wrong size", id="a zone of one byte"),
        pytest.param(codec.nested(1, V4) + REPLY + STATUS + ID, "without attribute 2", id="no protocol"),
        pytest.param(
            codec.nested(1, codec.nested(1, codec.attribute(1, b"abcd")), PROTO) + REPLY + STATUS + ID,
            "without attribute 2",
            id="no destination",
        ),
        pytest.param(
            ORIGINAL
            + codec.nested(2, codec.nested(1, codec.attribute(1, b"abc"), codec.attribute(2, b"efgh")), PROTO)
            + STATUS
            + ID,
            "wrong size",
            id="an address of three bytes",
        ),
        pytest.param(
            codec.nested(1, V4, codec.nested(2, codec.attribute(1, b"\x06"), codec.attribute(2, b"1")))
            + REPLY
            + STATUS
            + ID,
            "wrong size",
            id="a port of one byte",
        ),
        pytest.param(TUPLES + b"\x09\0\x03\0", "length 9", id="an attribute beyond the end"),
    ],
)
def test_an_entry_that_can_not_be_read_is_refused_with_the_reason(attributes: bytes, why: str) -> None:
    body = codec.nfgen(2, 0) + attributes
    with pytest.raises(WireError, match=why):
        decode_entry(body)
    for addresses in None, frozenset({"97.98.99.100"}):
        with pytest.raises(WireError, match=why):
            decode_entries(codec.message(NEW, MULTI, 1, body), addresses)


@pytest.mark.parametrize(
    "datagram",
    [
        pytest.param(ENTRY + b"\x10\0", id="half a header"),
        pytest.param(codec.message(codec.NLMSG_DONE, MULTI, 5, b"\0\0"), id="an end that says no errno"),
        pytest.param(codec.message(codec.NLMSG_ERROR, 0, 5, b"\0\0"), id="a refusal that says no errno"),
    ],
)
def test_a_datagram_that_can_not_be_read_is_refused(datagram: bytes) -> None:
    with pytest.raises(WireError):
        decode_entries(datagram)


@pytest.mark.parametrize(
    ("request_", "family", "attributes"),
    [
        pytest.param(encode_dump(4, 9), 2, [], id="all of IPv4"),
        pytest.param(encode_dump(6, 9), 10, [], id="all of IPv6"),
        pytest.param(encode_dump(None, 9), 0, [], id="all of both families"),
        pytest.param(
            encode_dump(4, 9, client="10.0.0.1"),
            2,
            [
                codec.nested(1, codec.nested(1, codec.attribute(1, b"\x0a\0\0\x01"))),
                codec.nested(25, codec.attribute(1, struct.pack("=I", 1))),
            ],
            id="an IPv4 client's",
        ),
        pytest.param(
            encode_dump(6, 9, server="fd00::1"),
            10,
            [
                codec.nested(2, codec.nested(1, codec.attribute(3, b"\xfd" + bytes(14) + b"\x01"))),
                codec.nested(25, codec.attribute(2, struct.pack("=I", 1))),
            ],
            id="an IPv6 server's",
        ),
        pytest.param(
            encode_dump(4, 9, client="10.0.0.1", server="10.0.0.2"),
            2,
            [
                codec.nested(1, codec.nested(1, codec.attribute(1, b"\x0a\0\0\x01"))),
                codec.nested(2, codec.nested(1, codec.attribute(1, b"\x0a\0\0\x02"))),
                codec.nested(25, *(codec.attribute(kind, struct.pack("=I", 1)) for kind in (1, 2))),
            ],
            id="those between two",
        ),
    ],
)
def test_a_dump_is_asked_for(request_: bytes, family: int, attributes: list[bytes]) -> None:
    (message,) = codec.messages(request_)

    assert (message.type, message.flags, message.sequence) == (0x0101, 0x301, 9)
    assert message.payload == codec.nfgen(family, 0) + b"".join(attributes)


@pytest.mark.parametrize(
    ("family", "address"),
    [
        pytest.param(4, "fd00::1", id="of the other family"),
        pytest.param(6, "10.0.0.1", id="of the other family, IPv4"),
        pytest.param(4, "10.0.0", id="no address"),
        pytest.param(6, "fd00::g", id="no IPv6 address"),
        pytest.param(None, "fd00::1", id="where both families are asked for"),
    ],
)
def test_a_filter_that_can_not_be_is_refused(family: Family | None, address: str) -> None:
    with pytest.raises(WireError, match=address):
        encode_dump(family, 1, client=address)


def named(connection: DumpEntry) -> ConntrackEntry:
    return decode_entry(entry_body(connection))


REPLY4 = codec.nested(2, *tuple_members("10.0.0.2", "10.0.0.1", 6, (8080, 40_000), request=False))
PING_REPLY6 = codec.nested(2, *tuple_members("fd00::2", "fd00::1", 58, (None, None), request=False))
PING = DumpEntry("fd00::1", "fd00::2", "fd00::2", 58, None, None, None, id=0x01020304)


@pytest.mark.parametrize(
    ("connection", "family", "attributes"),
    [
        pytest.param(DumpEntry(), 2, [REPLY4, codec.attribute(12, b"\0\0\0\7")], id="by tuple and id"),
        pytest.param(
            DumpEntry(zone=258),
            2,
            [REPLY4, codec.attribute(18, b"\1\2"), codec.attribute(12, b"\0\0\0\7")],
            id="by zone too",
        ),
        pytest.param(
            DumpEntry(zone=258, zone_of="reply"),
            2,
            [REPLY4, codec.attribute(18, b"\1\2"), codec.attribute(12, b"\0\0\0\7")],
            id="by the zone of its replies",
        ),
        pytest.param(
            DumpEntry(zone=258, zone_of="original"),
            2,
            [REPLY4, codec.attribute(12, b"\0\0\0\7")],
            id="not by the zone of its requests",
        ),
        pytest.param(PING, 10, [PING_REPLY6, codec.attribute(12, b"\1\2\3\4")], id="by an echo reply"),
    ],
)
def test_a_deletion_names_the_entry(connection: DumpEntry, family: int, attributes: list[bytes]) -> None:
    (message,) = codec.messages(encode_delete(named(connection), 9, acknowledge=False))

    assert (message.type, message.flags, message.sequence) == (0x0102, codec.NLM_F_REQUEST, 9)
    assert message.payload == codec.nfgen(family, 0) + b"".join(attributes)


def test_a_deletion_may_ask_for_an_acknowledgement() -> None:
    (message,) = codec.messages(encode_delete(named(DumpEntry()), 9, acknowledge=True))

    assert message.flags == codec.NLM_F_REQUEST | codec.NLM_F_ACK


def test_an_entry_without_a_name_is_never_deleted() -> None:
    nameless = msgspec.structs.replace(named(DumpEntry()), reply=b"")
    with pytest.raises(WireError, match=r"10\.0\.0\.1 to 10\.0\.0\.2"):
        encode_delete(nameless, 1, acknowledge=False)
