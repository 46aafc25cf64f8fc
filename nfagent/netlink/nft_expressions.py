"""Encodes the expressions of rules: what the kernel evaluates, each by itself (linux/netfilter/nf_tables.h).

Each function returns one NFTA_LIST_ELEM of NFTA_RULE_EXPRESSIONS: the kernel's name of the expression, and its
attributes. Registers are those of `enum nft_registers`, sizes are in bytes. Functions that take the name of an object
raise WireError for what can't be one.
"""

from __future__ import annotations

import struct
from functools import lru_cache
from typing import Literal, TypeAlias

from nfagent.model.netaddr import Family
from nfagent.netlink.codec import NLA_F_NESTED, attribute, attributes, nested
from nfagent.netlink.nft_messages import NFT_OBJECT_COUNTER, name_attribute, u32_attribute

ANONYMOUS = "__set%d"
"""The name of every anonymous set in requests; the kernel puts a number in."""

Comparison: TypeAlias = Literal["==", "!=", "<", "<=", ">="]
PayloadBase: TypeAlias = Literal["link", "network", "transport"]

META_MARK, META_IIFNAME, META_OIFNAME, META_NFPROTO, META_L4PROTO, META_PKTTYPE, META_IIFKIND = 3, 6, 7, 15, 16, 19, 26
"""Some of NFT_META_*."""
CT_STATE, CT_DIRECTION, CT_STATUS, CT_PROTO_SRC, CT_SRC_IP, CT_SRC_IP6 = 0, 1, 2, 11, 19, 21
"""Some of NFT_CT_*."""
FIB_SADDR, FIB_DADDR, FIB_IIF, FIB_PRESENT = 1, 2, 8, 32
"""Some of NFTA_FIB_F_*."""
FIB_OIF, FIB_ADDRTYPE = 1, 3
"""Some of NFT_FIB_RESULT_*."""
VERDICT_REGISTER = 0
_NEXT_HOP: dict[Family, int] = {4: 1, 6: 2}  # NFT_RT_NEXTHOP4, NFT_RT_NEXTHOP6
NF_DROP, NF_ACCEPT, NFT_JUMP, NFT_GOTO, NFT_RETURN = 0, 1, -3, -4, -5
_BASES = {"link": 0, "network": 1, "transport": 2}  # enum nft_payload_bases
_COMPARISONS = {"==": 0, "!=": 1, "<": 2, "<=": 3, ">=": 5}  # enum nft_cmp_ops
_LOOKUP_INVERTED = 1  # NFT_LOOKUP_F_INV
_LIST_ELEM = 1  # NFTA_LIST_ELEM
_NAME, _DATA = 1, 2  # NFTA_EXPR_*
_VALUE, _VERDICT = 1, 2  # NFTA_DATA_*
_DYNSET_UPDATE = 1  # NFT_DYNSET_OP_UPDATE
_PROTO_SPECIFIED, _RANDOM_FULLY = 0x2, 0x10  # NF_NAT_RANGE_PROTO_*, linux/netfilter/nf_nat.h
_SOURCE_NAT = 0  # NFT_NAT_SNAT
_RANDOM = 1  # NFT_NG_RANDOM
_HOST_TO_NETWORK = 1  # NFT_BYTEORDER_HTON
_EXTHDR_PRESENT = 1  # NFT_EXTHDR_F_PRESENT
_KEPT = 128  # results of each function, below `nft_match.match_parts`, which keeps whole matches
_HEADER = struct.Struct("=HH")  # struct nlattr
_u32 = lru_cache(maxsize=_KEPT)(u32_attribute)


@lru_cache(maxsize=_KEPT)
def payload(base: PayloadBase, offset: int, size: int, register: int = 1) -> bytes:
    """Load bytes of the packet: `size` bytes from `offset` after the start of a header."""
    return _expression("payload", _u32(1, register), _u32(2, _BASES[base]), _u32(3, offset), _u32(4, size))


@lru_cache(maxsize=_KEPT)
def meta(key: int, register: int = 1) -> bytes:
    """Load a property of the packet, one of NFT_META_*."""
    return _expression("meta", _u32(1, register), _u32(2, key))


def set_meta(key: int) -> bytes:
    """Set a property of the packet, one of NFT_META_*, to the value of register 1."""
    return _expression("meta", _u32(2, key), _u32(3, 1))


@lru_cache(maxsize=_KEPT)
def ct(key: int, register: int = 1, *, direction: int | None = None) -> bytes:
    """Load a property of the connection, one of NFT_CT_*; `direction` of a tuple: 0 is original, 1 is reply."""
    of_direction = () if direction is None else (attribute(3, bytes((direction,))),)
    return _expression("ct", _u32(1, register), _u32(2, key), *of_direction)


@lru_cache(maxsize=_KEPT)
def fib(result: int, flags: int) -> bytes:
    """Load what the routing table says of an address: one of NFT_FIB_RESULT_*, and NFTA_FIB_F_* flags."""
    return _expression("fib", _u32(1, 1), _u32(2, result), _u32(3, flags))


@lru_cache(maxsize=_KEPT)
def next_hop(family: Family) -> bytes:
    """Load the next hop of the packet's route: its gateway, or the destination itself where that is on a link."""
    return _expression("rt", _u32(1, 1), _u32(2, _NEXT_HOP[family]))


@lru_cache(maxsize=_KEPT)
def extension_header(number: int) -> bytes:
    """Load 1 if the packet has this extension header of IPv6, 0 otherwise."""
    header = attribute(2, bytes((number,)))
    return _expression("exthdr", _u32(1, 1), header, _u32(3, 0), _u32(4, 1), _u32(5, _EXTHDR_PRESENT), _u32(6, 0))


@lru_cache(maxsize=_KEPT)
def bitwise_and(mask: bytes) -> bytes:
    """Keep those bits of a register that are set in the mask."""
    return bitwise(mask, bytes(len(mask)))


@lru_cache(maxsize=_KEPT)
def bitwise(mask: bytes, inverted: bytes) -> bytes:
    """Keep those bits of a register that are set in the mask, then invert others."""
    sizes = _u32(1, 1), _u32(2, 1), _u32(3, len(mask))
    return _expression("bitwise", *sizes, nested(4, attribute(_VALUE, mask)), nested(5, attribute(_VALUE, inverted)))


@lru_cache(maxsize=_KEPT)
def compare(operator: Comparison, value: bytes) -> bytes:
    """Compare a register with a value: the rule ends where the comparison is false."""
    return _expression("cmp", _u32(1, 1), _u32(2, _COMPARISONS[operator]), nested(3, attribute(_VALUE, value)))


def lookup(name: str, *, negated: bool = False) -> bytes:
    """Look the key in register 1 up in a named set; `negated`: the rule goes on if it isn't an element."""
    return _expression(
        "lookup", name_attribute(1, "set", name), _u32(2, 1), _u32(5, _LOOKUP_INVERTED if negated else 0)
    )


def anonymous_lookup(set_id: int) -> bytes:
    """Look the key in register 1 up in the anonymous set with this NFTA_SET_ID in the same batch."""
    return _expression("lookup", name_attribute(1, "set", ANONYMOUS), _u32(2, 1), _u32(4, set_id), _u32(5, 0))


def map_lookup(name: str) -> bytes:
    """Look the key in register 1 up in a verdict map, whose verdict then holds."""
    return _expression("lookup", name_attribute(1, "map", name), _u32(2, 1), _u32(3, VERDICT_REGISTER), _u32(5, 0))


def set_update(name: str) -> bytes:
    """Add the key in register 1 to a dynamic set, or start its timeout again."""
    return _expression("dynset", name_attribute(1, "set", name), _u32(3, _DYNSET_UPDATE), _u32(4, 1))


def counter_reference(name: str) -> bytes:
    """Count the packet in a named counter."""
    return _expression("objref", _u32(1, NFT_OBJECT_COUNTER), name_attribute(2, "counter", name))


def log(prefix: bytes, group: int) -> bytes:
    """Send the packet's head to an NFLOG group."""
    return _expression("log", attribute(1, struct.pack("!H", group)), attribute(2, prefix + b"\0"))


def masquerade(*, random_fully: bool) -> bytes:
    """Translate the source to the outgoing interface's address."""
    return _expression("masq", *((_u32(1, _RANDOM_FULLY),) if random_fully else ()))


def masquerade_to(first: bytes, last: bytes, *, random_fully: bool) -> bytes:
    """Translate the source to the outgoing interface's address and to a port of a range, in network byte order."""
    flags = _PROTO_SPECIFIED | (_RANDOM_FULLY if random_fully else 0)
    if first == last:
        return _value(1, first) + _expression("masq", _u32(1, flags), _u32(2, 1))
    return _value(1, first) + _value(2, last) + _expression("masq", _u32(1, flags), _u32(2, 1), _u32(3, 2))


def source_nat(family: int, address: bytes) -> bytes:
    """Translate the source to an address of a family, one of NFPROTO_*."""
    return _value(1, address) + _expression("nat", _u32(1, _SOURCE_NAT), _u32(2, family), _u32(3, 1))


@lru_cache(maxsize=_KEPT)
def random_number(modulus: int) -> bytes:
    """Load a random number less than the modulus, in network byte order."""
    drawn = _expression("numgen", _u32(1, 1), _u32(2, modulus), _u32(3, _RANDOM), _u32(4, 0))
    return drawn + _expression("byteorder", _u32(1, 1), _u32(2, 1), _u32(3, _HOST_TO_NETWORK), _u32(4, 4), _u32(5, 4))


def _value(register: int, value: bytes) -> bytes:
    """Load a constant."""
    return _expression("immediate", _u32(1, register), nested(2, attribute(_VALUE, value)))


def verdict(code: int, chain: str = "") -> bytes:
    """Return a verdict: NF_DROP, NF_ACCEPT, or NFT_*; `chain` for NFT_JUMP and NFT_GOTO."""
    return _expression("immediate", _u32(1, VERDICT_REGISTER), nested(2, verdict_data(code, chain)))


def verdict_data(code: int, chain: str = "") -> bytes:
    """Encode a verdict as data (NFTA_DATA_VERDICT), as in rules and in elements of maps."""
    target = (name_attribute(2, "chain", chain),) if code in {NFT_JUMP, NFT_GOTO} else ()
    return nested(_VERDICT, attribute(1, struct.pack("!i", code)), *target)


def expression_at(expressions: bytes, offset: int) -> str:
    """Return the kernel's name of the expression at an offset into encoded expressions; '' behind the last."""
    return _parts_at(expressions, offset)[0]


def reference_at(expressions: bytes, offset: int) -> str:
    """Return the name of the object that the expression at an offset refers to; '' if it refers to none by name."""
    name, content = _parts_at(expressions, offset)
    parts = dict(attributes(content))
    match name:
        case "lookup" | "dynset":
            found = parts[1]
        case "objref":
            found = parts[2]
        case "immediate":
            value = dict(attributes(parts[2]))
            found = dict(attributes(value.get(_VERDICT, b""))).get(2, b"")
        case _:
            return ""
    return found.rstrip(b"\0").decode()


def _parts_at(expressions: bytes, offset: int) -> tuple[str, bytes]:
    """Return name and attributes of the expression at an offset; empty ones behind the last."""
    end = 0
    for _, expression in attributes(expressions):
        end += 4 + len(expression)
        if offset < end:
            parts = dict(attributes(expression))
            return parts[_NAME].rstrip(b"\0").decode(), parts[_DATA]
    return "", b""


def _expression(name: str, *members: bytes) -> bytes:
    content = b"".join(members)
    named = _named(name)
    # As codec.nested twice, in half the time: the members are padded, and too short to overflow the length.
    size = _HEADER.size + len(content)
    head = _HEADER.pack(_HEADER.size + len(named) + size, _LIST_ELEM | NLA_F_NESTED)
    return head + named + _HEADER.pack(size, _DATA | NLA_F_NESTED) + content


@lru_cache(maxsize=_KEPT)
def _named(name: str) -> bytes:
    return attribute(_NAME, name.encode() + b"\0")
