"""Targets: messages of the kernel."""

from __future__ import annotations

import ipaddress
import struct
from collections.abc import Callable, Iterator
from contextlib import suppress
from functools import cache, lru_cache

import msgspec

from nfagent.errors import WireError
from nfagent.kernel.refusals import refusal, refusal_of_batch
from nfagent.model.netaddr import FAMILIES
from nfagent.netlink import codec, conntrack, conntrack_ports, conntrack_stats, ipset, nfacct, nft_counters, nft_events
from nfagent.netlink.codec import Message, attribute, message, nested, nfgen
from nfagent.netlink.extack import decode_acknowledgement
from nfagent.netlink.ipset_listing import decode_answer, decode_name, decode_packets, decode_part, decode_type
from nfagent.netlink.nfacct import decode_account
from nfagent.netlink.nflog import decode_datagram, decode_packet
from nfagent.netlink.nflog_layouts import RecordLayouts
from nfagent.netlink.nft_batch import Batch, encode_batch
from nfagent.netlink.nft_log_rules import decode_log_rules
from nfagent.netlink.nft_messages import NEWOBJ, NEWRULE, NEWSETELEM
from nfagent.netlink.nft_rule_handles import decode_rule_handle
from nfagent.netlink.nft_xt_matches import decode_xt_matches
from nfagent.netlink.packet_header import decode_head
from nfagent.netlink.rtnl_address import InterfaceAddress, decode_address, encode_new_address
from nfagent.netlink.rtnl_link import RTM_NEWLINK, decode_link
from nfagent.netlink.rtnl_route import RTM_NEWROUTE, decode_neighbour_link, decode_route
from nfagent.netlink.rtnl_rule import MarkRule, decode_rule, encode_default_route, encode_new_rule
from nfagent.netlink.rtnl_tunnel import decode_mtu, encode_new_tunnel
from nfagent.netlink.unix_diag import SOCK_DIAG_BY_FAMILY, decode_socket
from nfagent.nftables.diff import diff
from nfagent.nftables.objects import ABSENT
from nfagent.verdicts.connection_key import connection_of_packet, key_of_packet
from nfagent.xtables.objects import SetMember
from tests.fuzz_decoders.target import FuzzTarget
from tests.support.ctnetlink_dump import MULTI, NEW, DumpEntry, entry_body
from tests.support.two_node_cluster import TwoNodeCluster, pod, policy

_NEWTABLE, _NEWGEN = 10 << 8, 10 << 8 | 15
_ACKNOWLEDGED, _TLVS = 2, 0x200  # NLMSG_ERROR, NLM_F_ACK_TLVS


def _each(content: bytes, *decoders: Callable[[Message], object]) -> None:
    """Decode every message by every decoder; each may refuse it."""
    for found in codec.messages(content):
        for decode in decoders:
            with suppress(WireError):
                made = decode(found)
                if isinstance(made, Iterator):
                    list(made)


def _read_netlink(content: bytes) -> None:
    _each(content, codec.ack_errno, decode_acknowledgement, decode_socket, lambda found: list(_attributes(found)))


def _attributes(found: Message) -> Iterator[tuple[int, bytes]]:
    for kind, value in codec.attributes(found.payload, codec.NFGEN_SIZE):
        yield kind, value
        with suppress(WireError):
            yield from codec.attributes(value)


def _netlink_seeds() -> Iterator[bytes]:
    yield _acknowledgement(-2, attribute(1, b"no such thing\0") + attribute(2, struct.pack("=I", 60)))
    yield message(SOCK_DIAG_BY_FAMILY, 2, 1, struct.pack("=BBBBIII", 1, 1, 1, 0, 7, 0, 0) + attribute(0, b"\0nfagent"))
    yield message(3, 0, 1, bytes(4)) + message(1, 2, 2, nfgen(1, 0) + nested(1, attribute(2, b"x")))


def _acknowledgement(code: int, more: bytes, sequence: int = 1) -> bytes:
    asked = struct.pack("=IHHII", 16, NEWRULE, 5, sequence, 0)
    return message(_ACKNOWLEDGED, _TLVS, sequence, struct.pack("=i", code) + asked + more)


def _read_notifications(content: bytes) -> None:
    for decode in (nft_events.named_families, nft_events.decode_commit_origin, nft_events.decode_generation):
        with suppress(WireError):
            decode(content)
    _each(
        content,
        nft_events.decode_table,
        nft_events.decode_chain_name,
        nft_counters.decode_named_counter,
        nft_counters.decode_named_value,
        nft_counters.decode_element_counters,
        decode_rule_handle,
        decode_log_rules,
        decode_xt_matches,
    )


def _notification_seeds() -> Iterator[bytes]:
    number, u64 = struct.Struct("!I").pack, struct.Struct("!Q").pack
    yield message(
        _NEWGEN, 0, 1, nfgen(0, 1) + attribute(1, number(7)) + attribute(2, number(99)) + attribute(3, b"nft\0")
    )
    yield message(_NEWTABLE, 0, 1, nfgen(1, 1) + attribute(1, b"nfagent\0") + attribute(3, number(9)))
    counter = nested(4, attribute(1, u64(40)), attribute(2, u64(1)))
    named = attribute(1, b"nfagent\0") + attribute(2, b"deny/x\0") + attribute(3, number(1)) + counter
    yield message(NEWOBJ, 2, 1, nfgen(1, 1) + named + attribute(6, u64(3)))
    counted = nested(7, attribute(1, b"counter\0"), nested(2, attribute(1, u64(40)), attribute(2, u64(1))))
    element = nested(1, nested(1, attribute(1, bytes(4))), counted)
    yield message(
        NEWSETELEM, 2, 1, nfgen(1, 1) + attribute(1, b"nfagent\0") + attribute(2, b"s\0") + nested(3, element)
    )
    log = nested(1, attribute(1, b"log\0"), nested(2, attribute(1, struct.pack("!H", 100))))
    target = nested(1, attribute(1, b"target\0"), nested(2, attribute(1, b"NFLOG\0"), attribute(3, bytes(80))))
    match = nested(
        1,
        attribute(1, b"match\0"),
        nested(2, attribute(1, b"mark\0"), attribute(2, number(1)), attribute(3, bytes(12))),
    )
    names = attribute(1, b"filter\0") + attribute(2, b"INPUT\0") + attribute(3, u64(5))
    yield message(NEWRULE, 2, 1, nfgen(2, 1) + names + nested(4, log, target, match) + attribute(7, b"\0\4abcd"))


@cache
def _batch() -> Batch:
    """Return the batch of a small ruleset: every kind of command that may be refused."""
    wanted = TwoNodeCluster(pod("shop/web", "a", 10), pod("shop/db", "a", 20), policy("shop/all")).views["a"].ruleset()
    return encode_batch(diff(ABSENT, wanted), 1)


def _read_refusals(content: bytes) -> None:
    batch = _batch()
    for found in codec.messages(content):
        with suppress(WireError):
            answer = decode_acknowledgement(found)
            request = batch.requests.get(answer.sequence)
            error = refusal_of_batch(answer, 3) if request is None else refusal(request, answer, 1)
            assert str(error)


def _refusal_seeds() -> Iterator[bytes]:
    for sequence in list(_batch().requests)[:: max(1, len(_batch().requests) // 24)]:
        for code, offset in ((-2, 36), (-17, 60), (-23, 100)):
            yield _acknowledgement(code, attribute(2, struct.pack("=I", offset)), sequence)


def _read_nflog(content: bytes) -> None:
    read = decode_datagram(content)
    assert 24 * len(read.packets) <= len(content)
    layouts = RecordLayouts()
    assert layouts.decode(content) == read
    assert layouts.decode(content) == read  # now with what the first time has taught
    with suppress(WireError):
        assert decode_packet(content).payload in content


def _nflog_seeds() -> Iterator[bytes]:
    u32 = struct.Struct("!I").pack
    for packet in _packet_seeds():
        body = nfgen(2, 100) + attribute(1, struct.pack("!HBx", 0x800, 2)) + attribute(10, b"deny ingress/x\0")
        body += attribute(4, u32(3)) + attribute(5, u32(4)) + attribute(3, struct.pack("!QQ", 1_600_000_000, 17))
        body += attribute(12, u32(9)) + attribute(9, packet[:128])
        yield message(0x0400, 0, 0, body)
        yield message(0x0400, 0, 0, body) + message(0x0400, 0, 0, body) + message(3, 0, 0, bytes(4))


def _read_conntrack(content: bytes) -> None:
    for addresses in (None, frozenset({"10.0.0.1", "fd00::1"})):
        with suppress(WireError):
            for entry in conntrack.decode_entries(content, addresses).entries:
                ends = entry.client, entry.called, entry.server
                assert all(map(_is_canonical, ends))
    ports = conntrack_ports.PortCounts()
    for decode in (conntrack.decode_entry, ports.add, conntrack_stats.decode_statistics):
        with suppress(WireError):
            decode(content)
    ports.busiest()


@lru_cache(maxsize=4_096)
def _is_canonical(address: str) -> bool:
    """Return whether an address is written as ipaddress writes it, which takes longer than to decode an entry."""
    return str(ipaddress.ip_address(address)) == address


def _conntrack_seeds() -> Iterator[bytes]:
    for client, server in (("10.0.0.1", "10.0.0.2"), ("fd00::1", "fd00::2")):
        ends = DumpEntry(client=client, called=server, server=server, zone=1)
        portless = msgspec.structs.replace(ends, protocol=1, client_port=None, called_port=None, server_port=None)
        for entry in (ends, msgspec.structs.replace(ends, protocol=17, zone_of="reply"), portless):
            yield message(NEW, MULTI, 1, entry_body(entry))
            yield entry_body(entry)
    yield nfgen(0, 0) + b"".join(attribute(kind, bytes(4)) for kind in range(1, 14))


def _read_rtnetlink(content: bytes) -> None:
    _each(content, decode_link, decode_address, decode_route, decode_neighbour_link, decode_rule, decode_mtu)


def _rtnetlink_seeds() -> Iterator[bytes]:
    number = struct.Struct("=I").pack
    link = struct.pack("=BxHiII", 0, 1, 7, 1, 0) + attribute(3, b"veth0\0") + attribute(4, number(1500))
    for kind, options in (
        (b"bridge", attribute(36, b"\1") + attribute(37, b"\1")),
        (b"vxlan", attribute(15, b"\x12\xb5")),
    ):
        info = nested(18, attribute(1, kind), nested(2, options))
        yield message(RTM_NEWLINK, 2, 1, link + attribute(10, number(3)) + info)
    for address in ("10.0.0.1", "fd00::1"):
        yield encode_new_address(1, InterfaceAddress(address, 7, 5), 78)
    route = struct.pack("=8BI", 2, 24, 0, 0, 254, 2, 0, 1, 0)
    yield message(RTM_NEWROUTE, 2, 1, route + attribute(1, bytes([10, 0, 0, 0])) + attribute(4, number(3)))
    hops = struct.pack("=HBBi", 16, 0, 0, 3) + attribute(5, bytes([10, 0, 0, 1])) + struct.pack("=HBBi", 8, 0, 0, 4)
    yield message(RTM_NEWROUTE, 2, 1, route + attribute(9, hops))
    for family in FAMILIES:
        yield encode_new_rule(1, MarkRule(family, 5, 0x100000, 0xFF00000, 78, 9))
        yield encode_default_route(1, family, 9, 78, None)
    yield encode_new_tunnel(1, "nfagent-gw", 4790)


def _read_packet(content: bytes) -> None:
    head = None
    with suppress(WireError):
        head = decode_head(content)
        assert str(ipaddress.ip_address(head.source)) == head.source
        assert (head.source_port is None) == (head.destination_port is None)
    for is_reply in (False, True):
        key_of_packet(content, is_reply=is_reply)
    connection_of_packet(content)


def _packet_seeds() -> Iterator[bytes]:
    for protocol, transport in (
        (6, bytes(20)),
        (17, b"\1\0\0\x35\0\x08\0\0"),
        (132, bytes(12)),
        (1, b"\x08\0" + bytes(6)),
    ):
        yield (
            struct.pack("!BBHHHBBH4s4s", 0x45, 0, 20 + len(transport), 1, 0, 64, protocol, 0, b"\n\0\0\1", b"\n\0\0\2")
            + transport
        )
        yield (
            struct.pack("!IHBB", 6 << 28, len(transport), 58 if protocol == 1 else protocol, 64)
            + bytes(range(32))
            + transport
        )
    yield struct.pack("!BBHHHBBH", 0x47, 0, 36, 1, 0, 64, 6, 0) + bytes(range(16)) + struct.pack("!HHI", 1, 2, 3)
    headers = bytes([44, 0, *bytes(6), 51, 0, 0, 1, *bytes(4), 17, 4, *bytes(22)])
    yield struct.pack("!IHBB", 6 << 28, 60, 0, 64) + bytes(range(32)) + headers + struct.pack("!HHHH", 53, 5353, 8, 0)
    error = struct.pack("!BBHHHBBH4s4s", 0x45, 0, 56, 1, 0, 64, 1, 0, b"\n\0\0\1", b"\n\0\0\2") + b"\3\4" + bytes(6)
    yield (
        error
        + struct.pack("!BBHHHBBH4s4s", 0x45, 0, 28, 1, 0, 64, 17, 0, b"\n\0\0\2", b"\n\0\0\1")
        + b"\0\x35\1\0"
        + bytes(4)
    )


def _read_ipset(content: bytes) -> None:
    _each(content, decode_part, decode_name, decode_type, decode_answer, decode_packets, decode_account)


def _ipset_seeds() -> Iterator[bytes]:
    number = struct.Struct("!I").pack
    header = attribute(ipset.TYPENAME, b"hash:ip\0") + attribute(ipset.REVISION, b"\1") + attribute(ipset.FAMILY, b"\2")
    properties = nested(
        ipset.DATA,
        attribute(ipset.MAXELEM, number(65536)),
        attribute(ipset.CADT_FLAGS, number(ipset.WITH_COUNTERS)),
        attribute(ipset.TIMEOUT, number(300)),
        attribute(ipset.REFERENCES, number(2)),
        attribute(ipset.ELEMENTS, number(1)),
    )
    named = attribute(ipset.PROTOCOL, b"\6") + attribute(ipset.SETNAME, b"nfa-s\0")
    counted = attribute(ipset.PACKETS, bytes(8)) + attribute(ipset.BYTES, bytes(8))
    members: tuple[SetMember, ...] = (
        *("10.0.0.1", "fd00::1", ("10.0.0.0", 8), ("fd00::", 8, "eth0"), 80),
        *(("10.0.0.1", "tcp", 80), ("10.0.0.1", "sctp", 80, "10.0.0.2")),
    )
    for member in members:
        (request,) = ipset.member_requests("add", "nfa-s", [member], 1)
        # As it is listed: without the number of its line, which comes last.
        (asked,) = codec.messages(request.data)
        content = dict(codec.attributes(asked.payload, codec.NFGEN_SIZE))[ipset.ADT]
        listed = nested(ipset.ADT, *(nested(ipset.DATA, value[:-8]) for _, value in codec.attributes(content)))
        yield message(ipset.LIST, 2, 1, nfgen(2, 0) + named + header + properties + listed)
        yield message(ipset.LIST, 2, 1, nfgen(2, 0) + named + listed)
        yield message(_ACKNOWLEDGED, 0, 1, struct.pack("=i", -4100) + request.data)
    address = nested(ipset.IP, attribute(ipset.IPADDR[4], bytes(4)))
    yield message(ipset.LIST, 2, 1, nfgen(2, 0) + named + nested(ipset.ADT, nested(ipset.DATA, address + counted)))
    revisions = attribute(ipset.REVISION, b"\5") + attribute(ipset.REVISION_MIN, b"\0")
    yield message(ipset.TYPE, 0, 1, nfgen(2, 0) + revisions)
    account = attribute(1, b"nfa-a\0") + attribute(2, bytes(8)) + attribute(3, bytes(8))
    yield message(nfacct.NEW, 2, 1, nfgen(0, 0) + account)


TARGETS = (
    FuzzTarget(name="netlink", read=_read_netlink, seeds=_netlink_seeds, longest=512),
    FuzzTarget(name="nft-notifications", read=_read_notifications, seeds=_notification_seeds, longest=512),
    FuzzTarget(name="nft-refusals", read=_read_refusals, seeds=_refusal_seeds, longest=256),
    FuzzTarget(name="nflog", read=_read_nflog, seeds=_nflog_seeds, longest=512),
    FuzzTarget(name="conntrack", read=_read_conntrack, seeds=_conntrack_seeds, longest=512),
    FuzzTarget(name="rtnetlink", read=_read_rtnetlink, seeds=_rtnetlink_seeds, longest=512),
    FuzzTarget(name="ipset", read=_read_ipset, seeds=_ipset_seeds, longest=512),
    FuzzTarget(name="packet-headers", read=_read_packet, seeds=_packet_seeds, longest=256),
)
