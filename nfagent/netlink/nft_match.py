"""Encodes each match and each verdict of a rule as expressions, the same ones as nft 1.0.6 writes."""

from __future__ import annotations

import struct
from functools import lru_cache

from nfagent.errors import WireError
from nfagent.model.netaddr import Family, Range, family_of, number
from nfagent.netlink import nft_expressions as nft
from nfagent.netlink import packet_header
from nfagent.netlink.nft_anonymous import (
    Part,
    address_type_set,
    ether_type_set,
    frame_set,
    protocol_set,
    range_set,
)
from nfagent.netlink.nft_icmpv6 import Icmpv6Packet, Icmpv6TypeAndCode, Step, icmpv6_parts
from nfagent.netlink.nft_keys import (
    ADDRESS_AT,
    DESTINATION_PORT,
    SOURCE_PORT,
    TUPLES,
    address,
    flow,
    register,
    to_port,
)
from nfagent.netlink.nft_known import (
    Known,
    address_check,
    family_check,
    family_comparison,
    protocol_comparison,
    transport_check,
)
from nfagent.netlink.nft_messages import ADDRESS_BYTES, LINK_NAME_BYTES, NFPROTO_BRIDGE, NFPROTO_IP
from nfagent.netlink.nft_names import protocol_number
from nfagent.nftables.matches import (
    AddressInSet,
    ConntrackState,
    CtAddress,
    CtDirectionIs,
    CtFlowInSet,
    CtSeenReply,
    CtTranslated,
    CtUnconfirmed,
    EtherType,
    FamilyInSet,
    FamilyIs,
    FibLocalSource,
    FibUnrouted,
    Fragment,
    FromBridge,
    FromInterface,
    FromVeth,
    HopLimit,
    Icmpv6Code,
    Icmpv6Type,
    IpAddress,
    L4Proto,
    MarkIs,
    Match,
    MaxPayload,
    MulticastAddress,
    MulticastFrame,
    NamedPort,
    NextHopInSet,
    NotLoopback,
    PacketNamedPort,
    PacketPort,
    PacketPortIn,
    PairInSet,
    RandomBelow,
    ServerPort,
    ServerPortIn,
    SetUpdate,
    TcpReset,
    ToInterface,
    ToPort,
    UnicastDestination,
    UnknownExpr,
    Within,
)
from nfagent.nftables.objects import (
    MARK_BITS,
    Accept,
    Drop,
    Goto,
    Jump,
    MarkSet,
    Masquerade,
    Return,
    SourceNat,
    Verdict,
    VmapLookup,
)

_KEPT = 256
"""Encoded matches, 670 bytes each. A few dozen are in many rules; others name a set, and are in one chain's rules."""
_DIRECTIONS = {"original": 0, "reply": 1}  # enum ip_conntrack_dir
_STATES = {"invalid": 1, "established": 2, "related": 4, "new": 8, "untracked": 64}  # NF_CT_STATE_*BIT
_SEEN_REPLY, _CONFIRMED, _SOURCE_TRANSLATED = 2, 8, 16  # IPS_*, linux/netfilter/nf_conntrack_common.h
_TCP_FLAGS = 13  # RFC 9293, section 3.1: the octet with the control bits
_TCP_RST = b"\x04"
_FRAGMENT_HEADER = 44  # IPPROTO_FRAGMENT
_RTN_UNICAST, _RTN_LOCAL, _RTN_BROADCAST, _RTN_MULTICAST = 1, 2, 3, 5  # linux/rtnetlink.h
_PACKET_BROADCAST, _PACKET_MULTICAST = 1, 2  # linux/if_packet.h


@lru_cache(maxsize=_KEPT)
def match_parts(match: Step, known: Known) -> tuple[tuple[Part, ...], Known]:
    """Encode a match after what is known; return also what is known after it.

    Raises WireError for UnknownExpr; ValueError, KeyError, OverflowError or struct.error for a value that no packet can
    have.
    """
    match match:
        case UnknownExpr(expression):
            raise WireError(f"the expression {expression} is not one that nfagent writes")
        case AddressInSet() | PairInSet() | FamilyInSet() | FromInterface() | NextHopInSet() | ToPort():
            return _set_parts(match, known)
        case ToInterface(name):
            return (nft.meta(nft.META_OIFNAME) + nft.compare("==", _link_name(name.encode())),), known
        case Within() | HopLimit() | MaxPayload() | Fragment() | PacketNamedPort() | CtFlowInSet() | SetUpdate():
            return _network_parts(match, known)
        case FamilyIs() | EtherType() | L4Proto() | PacketPort() | PacketPortIn() | TcpReset():
            return _protocol_parts(match, known)
        case Icmpv6Type() | Icmpv6Code() | Icmpv6TypeAndCode() | Icmpv6Packet():
            return icmpv6_parts(match, known)
        case RandomBelow() | MarkIs():
            return (_number_match(match),), known
        case ServerPort() | ServerPortIn() | NamedPort() | CtDirectionIs():
            return (_tuple_match(match),), known
        case ConntrackState() | CtUnconfirmed() | CtSeenReply() | CtTranslated():
            return (_state_match(match),), known
        case _:
            return _CONSTANT[type(match)], known


def verdict_expressions(verdict: Verdict, known: Known) -> bytes:
    """Encode a verdict after what is known. Raises ValueError for a name or ports that the kernel can't hold."""
    match verdict:
        case Accept():
            return _ACCEPT
        case Drop():
            return _DROP
        case Return():
            return _RETURN
        case Goto(chain):
            return nft.verdict(nft.NFT_GOTO, chain)
        case Jump(chain):
            return nft.verdict(nft.NFT_JUMP, chain)
        case VmapLookup(key, name):
            return address_check(key, known)[0] + address(key) + nft.map_lookup(name)
        case Masquerade() | SourceNat():
            return _translation(verdict)


def _translation(verdict: Masquerade | SourceNat) -> bytes:
    if isinstance(verdict, SourceNat):
        family = family_of(verdict.address)
        return nft.source_nat(NFPROTO_IP[family], number(verdict.address).to_bytes(ADDRESS_BYTES[family], "big"))
    ports, random_fully = verdict.ports, verdict.random_fully
    if ports is None:
        return nft.masquerade(random_fully=random_fully)
    if ports.first > ports.last:
        raise ValueError(ports)
    return nft.masquerade_to(_port(ports.first), _port(ports.last), random_fully=random_fully)


def mark_expressions(item: MarkSet) -> bytes:
    """Encode a statement that sets bits of the packet mark. Raises ValueError for bits that can't be set."""
    mask, value = _bits(item.mask, item.value)
    kept = bytes(0xFF ^ byte for byte in mask)
    return nft.meta(nft.META_MARK) + nft.bitwise(kept, value) + nft.set_meta(nft.META_MARK)


def _number_match(match: RandomBelow | MarkIs) -> bytes:
    """Encode a match of a number that the packet's headers don't hold."""
    if isinstance(match, MarkIs):
        mask, value = _bits(match.mask, match.value)
        return nft.meta(nft.META_MARK) + nft.bitwise_and(mask) + nft.compare("!=" if match.negated else "==", value)
    if not match.modulus:
        raise ValueError(match)
    return nft.random_number(match.modulus) + nft.compare("<", struct.pack("!I", match.below))


def _bits(mask: int, value: int) -> tuple[bytes, bytes]:
    """Return bits of the packet mark as the kernel holds them: in host byte order."""
    if not 0 < mask <= MARK_BITS or value & ~mask:
        raise ValueError(mask, value)
    return struct.pack("=I", mask), struct.pack("=I", value)


def _set_parts(
    match: AddressInSet | PairInSet | FamilyInSet | FromInterface | NextHopInSet | ToPort, known: Known
) -> tuple[tuple[Part, ...], Known]:
    """Encode a look-up in a named set."""
    match match:
        case AddressInSet(key, name, negated):
            check, known = address_check(key, known)
            return (check + address(key) + nft.lookup(name, negated=negated),), known
        case PairInSet(other, name, negated):
            check, known = family_check(other.family, known)
            second = address(other, register(ADDRESS_BYTES[other.family]))
            pair = address(IpAddress("saddr", other.family)) + second
            return (check + pair + nft.lookup(name, negated=negated),), known
        case FamilyInSet(name, negated):
            return (nft.meta(nft.META_NFPROTO) + nft.lookup(name, negated=negated),), known
        case FromInterface(name, negated):
            return (nft.meta(nft.META_IIFNAME) + nft.lookup(name, negated=negated),), known
        case NextHopInSet(family, name):
            # Without a check of the family, as nft 1.0.6 writes it: the kernel ends the rule in another family.
            return (nft.next_hop(family) + nft.lookup(name),), known
        case ToPort(name):
            return (to_port(0) + nft.lookup(name),), known


def _network_parts(
    match: Within | HopLimit | MaxPayload | Fragment | PacketNamedPort | CtFlowInSet | SetUpdate, known: Known
) -> tuple[tuple[Part, ...], Known]:
    """Encode a match of the header of IPv4 or IPv6."""
    match match:
        case Within(key, ranges):
            check, known = family_check(key.family, known)
            return _within(check, key, ranges), known
        case HopLimit(hops):
            check, known = family_check(6, known)
            return (check + nft.payload("network", 7, 1) + nft.compare("==", bytes((hops,))),), known
        case MaxPayload(size):
            check, known = family_check(6, known)
            return (check + nft.payload("network", 4, 2) + nft.compare("<=", _port(size)),), known
    check, known = family_check(match.family, known)
    match match:
        case Fragment(family):
            return (check + _fragment(family),), known
        case PacketNamedPort(family, name):
            destination = address(IpAddress("daddr", family)) + to_port(ADDRESS_BYTES[family])
            return (check + destination + nft.lookup(name),), known
        case CtFlowInSet(family, name):
            return (check + flow(family) + nft.lookup(name),), known
        case SetUpdate(family, name, replies):
            return (check + flow(family, replies=replies) + nft.set_update(name),), known


def _protocol_parts(
    match: FamilyIs | EtherType | L4Proto | PacketPort | PacketPortIn | TcpReset, known: Known
) -> tuple[tuple[Part, ...], Known]:
    """Encode a match of the packet's family or protocol, or of the port of a protocol."""
    match match:
        case FamilyIs(family):
            return (family_comparison(family),), known._replace(network=family)
        case EtherType(types):
            return _ether_type_parts(types, known), known
        case L4Proto(names):
            numbers = [protocol_number(name) for name in names]
            if len(numbers) == 1:
                return (protocol_comparison(numbers[0]),), known._replace(transport=numbers[0])
            return (nft.meta(nft.META_L4PROTO), protocol_set(numbers)), known
        case PacketPort(protocol, first, last):
            check, known = transport_check(protocol_number(protocol), known)
            return (check + nft.payload("transport", DESTINATION_PORT, 2) + _port_comparison(first, last),), known
        case PacketPortIn(protocol, name):
            check, known = transport_check(protocol_number(protocol), known)
            return (check + nft.payload("transport", DESTINATION_PORT, 2) + nft.lookup(name),), known
        case TcpReset():
            check, known = transport_check(packet_header.TCP, known)
            return (
                check + nft.payload("transport", _TCP_FLAGS, 1) + nft.bitwise_and(_TCP_RST) + nft.compare("!=", b"\0"),
            ), known


def _ether_type_parts(types: tuple[int, ...], known: Known) -> tuple[Part, ...]:
    if known.hooks != NFPROTO_BRIDGE:
        raise ValueError("an EtherType in a table of another family than bridge")
    load = nft.payload("link", 12, 2)
    return (load + nft.compare("==", _port(types[0])),) if len(types) == 1 else (load, ether_type_set(types))


def _tuple_match(match: ServerPort | ServerPortIn | NamedPort | CtDirectionIs) -> bytes:
    """Encode a match of the connection's tuples, or of the packet's direction in it."""
    match match:
        case ServerPort(first, last):
            return _server_port() + _port_comparison(first, last)
        case ServerPortIn(name):
            return _server_port() + nft.lookup(name)
        case NamedPort(family, name, direction):
            port = DESTINATION_PORT if direction == "original" else SOURCE_PORT
            return address(CtAddress("server", family)) + to_port(ADDRESS_BYTES[family], port) + nft.lookup(name)
        case CtDirectionIs(direction):
            return nft.ct(nft.CT_DIRECTION) + nft.compare("==", bytes((_DIRECTIONS[direction],)))


def _state_match(match: ConntrackState | CtUnconfirmed | CtSeenReply | CtTranslated) -> bytes:
    """Encode a match of the connection's state or status: whether some of its bits are set."""
    match match:
        case ConntrackState(states):
            mask = _some(sum({_STATES[state] for state in states}))
            return nft.ct(nft.CT_STATE) + nft.bitwise_and(mask) + nft.compare("!=", _NO_BITS)
        case CtUnconfirmed():
            return nft.ct(nft.CT_STATUS) + nft.bitwise_and(_some(_CONFIRMED)) + nft.compare("==", _NO_BITS)
        case CtSeenReply():
            return nft.ct(nft.CT_STATUS) + nft.bitwise_and(_some(_SEEN_REPLY)) + nft.compare("!=", _NO_BITS)
        case CtTranslated():
            return nft.ct(nft.CT_STATUS) + nft.bitwise_and(_some(_SOURCE_TRANSLATED)) + nft.compare("!=", _NO_BITS)


def _within(check: bytes, key: IpAddress, ranges: tuple[Range, ...]) -> tuple[Part, ...]:
    if any(item.family != key.family or item.first > item.last for item in ranges):
        raise ValueError(ranges)
    if len(ranges) != 1:
        return check + address(key), range_set(key, ranges)
    first, last = (value.to_bytes(ADDRESS_BYTES[key.family], "big") for value in (ranges[0].first, ranges[0].last))
    prefix = _prefix_length(ranges[0])
    offset, size = ADDRESS_AT[key.side, key.family]
    if prefix is None:
        return (check + address(key) + nft.compare(">=", first) + nft.compare("<=", last),)
    if prefix and prefix % 8 == 0:
        return (check + nft.payload("network", offset, prefix // 8) + nft.compare("==", first[: prefix // 8]),)
    mask = ((1 << prefix) - 1 << 8 * size - prefix).to_bytes(size, "big")
    return (check + address(key) + nft.bitwise_and(mask) + nft.compare("==", first),)


def _prefix_length(item: Range) -> int | None:
    """Return the prefix length of a range that is a prefix, None for another one."""
    size = item.last - item.first + 1
    if size & (size - 1) or item.first % size:
        return None
    return 8 * ADDRESS_BYTES[item.family] - size.bit_length() + 1


def _fragment(family: Family) -> bytes:
    if family == 4:
        offset = nft.payload("network", 6, 2) + nft.bitwise_and(b"\x1f\xff")
        return offset + nft.compare("!=", bytes(2))
    return nft.extension_header(_FRAGMENT_HEADER) + nft.compare("==", b"\x01")


def _server_port() -> bytes:
    return nft.ct(nft.CT_PROTO_SRC, direction=TUPLES["server"])


def _port_comparison(first: int, last: int) -> bytes:
    if first > last:
        raise ValueError(first, last)
    if first == last:
        return nft.compare("==", _port(first))
    return nft.compare(">=", _port(first)) + nft.compare("<=", _port(last))


def _port(number: int) -> bytes:
    return struct.pack("!H", number)


def _some(bits: int) -> bytes:
    """Return bits as the kernel holds them: in host byte order."""
    if not bits:
        raise ValueError("no bits")
    return struct.pack("=I", bits)


def _link_name(name: bytes) -> bytes:
    return name.ljust(LINK_NAME_BYTES, b"\0")


_NO_BITS = bytes(4)
_ACCEPT, _DROP, _RETURN = map(nft.verdict, (nft.NF_ACCEPT, nft.NF_DROP, nft.NFT_RETURN))
_OF_DESTINATION = nft.fib(nft.FIB_ADDRTYPE, nft.FIB_DADDR)
_CONSTANT: dict[type[Match], tuple[Part, ...]] = {
    FibLocalSource: (nft.fib(nft.FIB_ADDRTYPE, nft.FIB_SADDR) + nft.compare("==", struct.pack("=I", _RTN_LOCAL)),),
    FibUnrouted: (nft.fib(nft.FIB_OIF, nft.FIB_SADDR | nft.FIB_IIF | nft.FIB_PRESENT) + nft.compare("==", bytes(4)),),
    NotLoopback: (nft.meta(nft.META_IIFNAME) + nft.compare("!=", _link_name(b"lo")),),
    FromBridge: (nft.meta(nft.META_IIFKIND) + nft.compare("==", _link_name(b"bridge")),),
    FromVeth: (nft.meta(nft.META_IIFKIND) + nft.compare("==", _link_name(b"veth")),),
    MulticastFrame: (nft.meta(nft.META_PKTTYPE), frame_set((_PACKET_BROADCAST, _PACKET_MULTICAST))),
    MulticastAddress: (_OF_DESTINATION, address_type_set((_RTN_BROADCAST, _RTN_MULTICAST))),
    UnicastDestination: (_OF_DESTINATION, address_type_set((_RTN_UNICAST, _RTN_LOCAL))),
}
