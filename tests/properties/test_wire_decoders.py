"""Decoders are total: any bytes in, a value or a WireError out; what an encoder writes, its decoder reads back."""

from __future__ import annotations

import ipaddress
import struct
from contextlib import suppress

import msgspec
from hypothesis import given
from hypothesis import strategies as st

from nfagent.errors import DecodeError, WireError
from nfagent.netlink import codec, conntrack, conntrack_ports, conntrack_stats, nflog, nft_events, packet_header
from nfagent.verdicts import records
from tests.support.ctnetlink_dump import MULTI, NEW, DumpEntry, entry_body

U16 = st.integers(0, 0xFFFF)
U32 = st.integers(0, 0xFFFF_FFFF)
ATTRIBUTES = st.lists(st.tuples(st.integers(0, 0x3FFF), st.binary(max_size=40)), max_size=8)
PREFIXES = st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"]), max_size=30)
PACKETS = st.builds(
    nflog.LoggedPacket,
    prefix=PREFIXES,
    payload=st.binary(max_size=128),
    hook=st.integers(0, 5),
    hw_protocol=U16,
    sequence=st.none() | U32,
    timestamp_ns=st.none() | st.integers(0, 2**40).map(lambda microseconds: microseconds * 1000),
    in_interface=U32,
    out_interface=U32,
)
# an IPv6 packet with hop-by-hop, fragment and authentication headers before UDP, and an IPv4 one with options
HEADS = st.sampled_from(
    [
        struct.pack("!IHBB", 6 << 28, 60, 0, 64)
        + bytes(range(32))
        + bytes([44, 0, *bytes(6), 51, 0, 0, 1, *bytes(4), 17, 4, *bytes(22)])
        + struct.pack("!HHHH", 53, 5353, 8, 0),
        struct.pack("!BBHHHBBH", 0x47, 0, 36, 1, 0, 64, 6, 0) + bytes(range(16)) + struct.pack("!HHI", 1, 2, 3),
    ]
)

V4 = st.integers(0, 2).map(lambda n: f"10.0.0.{n}")
V6 = st.sampled_from(["::", "fd00::1", "fd00:0:0:1::2"])
PORTS = {"client_port": U16, "called_port": U16, "server_port": U16}
NO_PORTS = dict.fromkeys(PORTS, st.none())


def connections(address: st.SearchStrategy[str]) -> st.SearchStrategy[DumpEntry]:
    ends = {"client": address, "called": address, "server": address, "id": U32, "status": U32, "zone": U16}
    zone_of = st.sampled_from(["both", "reply"])
    return st.builds(DumpEntry, protocol=st.sampled_from([6, 17, 132]), zone_of=zone_of, **ends, **PORTS) | st.builds(
        DumpEntry, protocol=st.sampled_from([1, 58, 89]), zone_of=zone_of, **ends, **NO_PORTS
    )


CONNECTIONS = connections(V4) | connections(V6)
DUMPS = st.lists(CONNECTIONS, min_size=1, max_size=4).map(
    lambda many: b"".join(codec.message(NEW, MULTI, 1, entry_body(one)) for one in many)
)


def as_kernel_writes(logged: nflog.LoggedPacket) -> bytes:
    """Write a record as nfnetlink_log does: order of attributes, NUL behind the prefix, padding."""
    u32 = struct.Struct("!I").pack
    parts = [
        codec.nfgen(2, 5),
        codec.attribute(1, struct.pack("!HBx", logged.hw_protocol, logged.hook)),
        codec.attribute(10, logged.prefix.encode() + b"\0"),
        codec.attribute(4, u32(logged.in_interface)),
        codec.attribute(5, u32(logged.out_interface)),
        codec.attribute(15, b"\x03\x04"),
    ]
    if logged.timestamp_ns is not None:
        seconds, rest = divmod(logged.timestamp_ns, 1_000_000_000)
        parts.append(codec.attribute(3, struct.pack("!QQ", seconds, rest // 1000)))
    if logged.sequence is not None:
        parts.append(codec.attribute(12, u32(logged.sequence)))
    parts.append(codec.attribute(9, logged.payload))
    return codec.message(0x0400, 0, 0, b"".join(parts))


@st.composite
def mutated(draw: st.DrawFn, originals: st.SearchStrategy[bytes]) -> bytes:
    """Damage real bytes: a few of them changed, then the end cut off."""
    content = bytearray(draw(originals))
    for _ in range(draw(st.integers(1, 4))):
        content[draw(st.integers(0, len(content) - 1))] = draw(st.integers(0, 255))
    return bytes(content[: draw(st.integers(0, len(content)))])


DATAGRAMS = st.lists(PACKETS, min_size=1, max_size=4).map(lambda many: b"".join(map(as_kernel_writes, many)))


@given(st.binary(max_size=200))
def test_any_bytes_are_messages_or_a_wire_error(raw: bytes) -> None:
    with suppress(WireError):
        for message in codec.messages(raw):
            with suppress(WireError):
                assert 0 <= codec.ack_errno(message) <= 4095


@given(st.binary(max_size=200), st.integers(0, 8))
def test_any_bytes_are_attributes_or_a_wire_error(raw: bytes, start: int) -> None:
    with suppress(WireError):
        assert sum(4 + len(value) for _, value in codec.attributes(raw, start)) <= len(raw)


@given(st.binary(max_size=200))
def test_any_bytes_are_a_logged_packet_or_a_wire_error(raw: bytes) -> None:
    with suppress(WireError):
        assert nflog.decode_packet(raw).payload in raw


@given(mutated(DATAGRAMS) | st.binary(max_size=200))
def test_a_datagram_never_raises_and_gives_no_more_packets_than_it_can_hold(raw: bytes) -> None:
    read = nflog.decode_datagram(raw)

    assert 24 * len(read.packets) <= len(raw)


@given(mutated(HEADS) | st.binary(max_size=128) | st.builds(bytes.__add__, st.sampled_from([b"E", b"`"]), st.binary()))
def test_any_bytes_are_a_packet_head_or_a_wire_error(raw: bytes) -> None:
    with suppress(WireError):
        head = packet_header.decode_head(raw)
        assert str(ipaddress.ip_address(head.source)) == head.source
        assert (head.source_port is None) == (head.destination_port is None)
        assert head.source_port is None or head.icmp_type is None


@given(HEADS, st.data())
def test_a_shorter_copy_says_less_but_nothing_else(raw: bytes, data: st.DataObject) -> None:
    whole = packet_header.decode_head(raw)
    shorter = packet_header.decode_head(raw[: data.draw(st.integers(20 if whole.family == 4 else 40, len(raw)))])

    assert (shorter.source, shorter.destination) == (whole.source, whole.destination)
    assert shorter.source_port in {None, whole.source_port}


@given(mutated(DUMPS) | st.binary(max_size=200), st.none() | st.frozensets(V4 | V6))
def test_any_bytes_are_conntrack_entries_or_a_wire_error(raw: bytes, addresses: frozenset[str] | None) -> None:
    with suppress(WireError):
        for entry in conntrack.decode_entries(raw, addresses).entries:
            assert all(str(ipaddress.ip_address(end)) == end for end in (entry.client, entry.called, entry.server))
            assert addresses is None or not addresses.isdisjoint({entry.client, entry.server})


@given(mutated(CONNECTIONS.map(entry_body)) | st.binary(max_size=200))
def test_any_bytes_are_a_port_in_use_or_none_or_a_wire_error(raw: bytes) -> None:
    counts = conntrack_ports.PortCounts()
    with suppress(WireError):
        counts.add(raw)
    found = counts.busiest()
    assert found is None or (found.used, str(ipaddress.ip_address(found.destination))) == (1, found.destination)


@given(st.binary(max_size=200))
def test_any_bytes_are_conntrack_statistics_or_a_wire_error(raw: bytes) -> None:
    with suppress(WireError):
        assert conntrack_stats.decode_statistics(raw).drop < 2**32


@given(st.lists(CONNECTIONS, max_size=6), st.frozensets(V4 | V6, max_size=3))
def test_the_entries_of_addresses_are_those_of_all_entries(many: list[DumpEntry], addresses: frozenset[str]) -> None:
    datagram = b"".join(codec.message(NEW, MULTI, 1, entry_body(one)) for one in many)

    every = conntrack.decode_entries(datagram).entries
    assert [
        (entry.client, entry.called, entry.server, entry.protocol, entry.zone, entry.id, entry.status)
        for entry in every
    ] == [(one.client, one.called, one.server, one.protocol, one.zone, one.id, one.status) for one in many]
    picked = conntrack.decode_entries(datagram, addresses)
    assert picked.entries == [entry for entry in every if {entry.client, entry.server} & addresses]
    assert picked.others == len(many) - len(picked.entries)


@given(CONNECTIONS)
def test_an_entry_in_an_unusual_layout_reads_as_in_the_usual_one(connection: DumpEntry) -> None:
    body = entry_body(connection)
    original, reply, *rest = codec.attributes(body, codec.NFGEN_SIZE)
    turned = [codec.nested(kind, _turned(value)) for kind, value in (original, reply)]
    unusual = body[: codec.NFGEN_SIZE] + b"".join(turned) + b"".join(codec.attribute(*other) for other in rest)

    usual, read = conntrack.decode_entry(body), conntrack.decode_entry(unusual)
    assert msgspec.structs.replace(read, reply=usual.reply) == usual
    assert list(codec.attributes(read.reply)) == list(codec.attributes(usual.reply))
    for end in usual.client, usual.server:
        assert conntrack.decode_entries(codec.message(NEW, MULTI, 1, unusual), frozenset({end})).entries == [read]


def _turned(value: bytes) -> bytes:
    """Write the nests of a tuple in the opposite order."""
    return b"".join(reversed([codec.nested(kind, inner) for kind, inner in codec.attributes(value)]))


@given(st.lists(st.tuples(U16, U16, U32, st.binary(max_size=40), U32), max_size=5))
def test_messages_are_read_back_as_they_were_written(wanted: list[tuple[int, int, int, bytes, int]]) -> None:
    datagram = b"".join(
        codec.message(kind, flags, sequence, payload, port=port) for kind, flags, sequence, payload, port in wanted
    )

    assert list(codec.messages(datagram)) == [
        codec.Message(kind, flags, sequence, port, payload) for kind, flags, sequence, payload, port in wanted
    ]


@given(ATTRIBUTES)
def test_attributes_are_read_back_as_they_were_written(wanted: list[tuple[int, bytes]]) -> None:
    members = [codec.attribute(kind, value) for kind, value in wanted]

    assert list(codec.attributes(b"".join(members))) == wanted
    assert list(codec.attributes(codec.nested(7, *members))) == [(7, b"".join(members))]


@given(st.lists(PACKETS, max_size=4))
def test_logged_packets_are_read_back_as_the_kernel_wrote_them(wanted: list[nflog.LoggedPacket]) -> None:
    datagram = b"".join(map(as_kernel_writes, wanted)) + codec.message(codec.NLMSG_DONE, 0, 0, bytes(4))

    assert nflog.decode_datagram(datagram) == nflog.Datagram(wanted, 0)


@given(
    st.binary(max_size=100)
    | st.text(max_size=50).map(str.encode)
    | st.integers(1, 5000).map(lambda depth: b'{"later":' + b"[" * depth)
)
def test_any_bytes_are_a_record_or_a_decode_error(raw: bytes) -> None:
    with suppress(DecodeError):
        assert records.decode(records.encode(records.decode(raw))).count >= 1


GENERATIONS = st.builds(
    lambda process, name: codec.message(
        10 << 8 | 15,
        0,
        1,
        codec.nfgen(0, 1)
        + codec.attribute(1, process.to_bytes(4, "big"))
        + codec.attribute(2, process.to_bytes(4, "big"))
        + codec.attribute(3, name + b"\0"),
    ),
    st.integers(0, 2**32 - 1),
    st.binary(max_size=15),
)


@given(mutated(GENERATIONS) | GENERATIONS | st.binary(max_size=64))
def test_any_bytes_are_a_commit_origin_none_or_a_wire_error(raw: bytes) -> None:
    with suppress(WireError):
        assert not nft_events.named_families(raw) or b"nfagent" in raw
    with suppress(WireError):
        committer = nft_events.decode_commit_origin(raw)
        assert committer is None or 0 <= committer.process < 2**32


@given(mutated(GENERATIONS) | GENERATIONS | st.binary(max_size=64))
def test_any_bytes_are_a_generation_or_a_wire_error(raw: bytes) -> None:
    with suppress(WireError):
        assert 0 <= nft_events.decode_generation(raw) < 2**32


TABLES = st.builds(
    lambda name, size: codec.message(
        10 << 8, 0, 1, codec.nfgen(1, 1) + codec.attribute(1, name + b"\0") + codec.attribute(3, size)
    ),
    st.binary(max_size=15),
    st.binary(min_size=4, max_size=4) | st.binary(max_size=8),
)


@given(mutated(TABLES) | TABLES | st.binary(max_size=64))
def test_any_bytes_are_a_table_s_size_or_a_wire_error(raw: bytes) -> None:
    with suppress(WireError):
        for message in codec.messages(raw):
            assert 0 <= nft_events.decode_table(message).size < 2**32
