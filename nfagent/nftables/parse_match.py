"""Parses one match: on a set, on conntrack, on an address; matches on headers are in parse_header."""

from __future__ import annotations

from typing import Any

import msgspec

from nfagent.model.netaddr import Family, Range, canonical, parse_cidr, single
from nfagent.nftables.matches import (
    AddressInSet,
    ConntrackState,
    CtAddress,
    CtDirection,
    CtDirectionIs,
    CtFlowInSet,
    CtSeenReply,
    CtTranslated,
    CtUnconfirmed,
    FamilyInSet,
    FromInterface,
    IpAddress,
    L4Proto,
    MarkIs,
    Match,
    NamedPort,
    NextHopInSet,
    PacketNamedPort,
    PairInSet,
    RandomBelow,
    ServerPort,
    ServerPortIn,
    SetUpdate,
    ToInterface,
    ToPort,
    UnknownExpr,
    Within,
)
from nfagent.nftables.objects import MARK_BITS
from nfagent.nftables.parse_header import (
    FLOW_KEYS,
    alternatives,
    numbers,
    packet_port_in,
    parse_arrival_match,
    parse_header_match,
    protocol_name,
)

_L4_PROTOCOL = {"meta": {"key": "l4proto"}}
_PORT_DIRECTIONS: dict[str, CtDirection] = {"dport": "original", "sport": "reply"}
_STATUS: dict[tuple[str, str], Match] = {
    ("!", "confirmed"): CtUnconfirmed(),
    ("in", "seen-reply"): CtSeenReply(),
    ("in", "snat"): CtTranslated(),
}
_FAMILY: dict[str, Family] = {"ip": 4, "ip6": 6}


def parse_match(value: dict[str, Any]) -> Match:
    """Read a match; one that nfagent never writes is an UnknownExpr.

    Raises KeyError, TypeError, ValueError, AttributeError or OverflowError for malformed JSON.
    """
    operator, left, right = value["op"], value["left"], value["right"]
    known = _by_set(operator, left, right) or _by_value(operator, left, right)
    return known if known is not None else foreign({"match": value})


def parse_update(value: dict[str, Any]) -> Match:
    """Read a statement that updates a dynamic set with the flow of the packet."""
    flow = FLOW_KEYS.get(msgspec.json.encode(value["elem"]))
    if value["op"] != "update" or flow is None:
        return foreign({"set": value})
    family, replies = flow
    return SetUpdate(family, set_reference(value["set"]), replies)


def foreign(expression: Any) -> UnknownExpr:
    """Return an expression that nfagent never writes as a value."""
    return UnknownExpr(msgspec.json.encode(expression).decode())


def set_reference(value: Any) -> str:
    """Return the name of a set or map in a reference, `@name`. Raises ValueError."""
    if not isinstance(value, str) or not value.startswith("@"):
        raise ValueError(value)
    return value[1:]


def parse_range(entry: Any) -> Range:
    """Read an address, a prefix or a range."""
    if isinstance(entry, str):
        return single(canonical(entry))
    if "prefix" in entry:
        return parse_cidr(f"{entry['prefix']['addr']}/{entry['prefix']['len']}")
    first, last = map(single, map(canonical, entry["range"]))
    return Range(first.family, first.first, last.last)


def parse_key(left: Any) -> CtAddress | IpAddress | None:
    """Read the address that a match is on; None for any other key."""
    match left:
        case {"ct": {"key": "ip saddr" | "ip6 saddr" as key, "dir": "original" | "reply" as direction}}:
            return CtAddress("client" if direction == "original" else "server", _FAMILY[key.split()[0]])
        case {"payload": {"protocol": "ip" | "ip6" as protocol, "field": "saddr" | "daddr" as side}}:
            return IpAddress(side, _FAMILY[protocol])
    return None


def _by_set(operator: str, left: Any, right: Any) -> Match | None:
    if operator not in {"==", "!="} or not isinstance(right, str) or not right.startswith("@"):
        return None
    name, negated = right[1:], operator == "!="
    key = parse_key(left)
    if key is not None:
        return AddressInSet(key, name, negated)
    if left == {"meta": {"key": "nfproto"}}:
        return FamilyInSet(name, negated)
    if left == {"meta": {"key": "iifname"}}:
        return FromInterface(name, negated)
    if "concat" in left and len(left["concat"]) == 2 and left["concat"][0] != _L4_PROTOCOL:
        source, other = map(parse_key, left["concat"])
        paired = other is not None and source == IpAddress("saddr", other.family)
        return PairInSet(other, name, negated) if other is not None and paired else None
    return None if negated else _in_set(left, name)


def _in_set(left: Any, name: str) -> Match | None:
    """Read a look-up in a set that nfagent never negates."""
    match left:
        case {"ct": {"key": "proto-src", "dir": "reply"}}:
            return ServerPortIn(name)
        case {"rt": {"key": "nexthop", "family": "ip" | "ip6" as family}}:
            return NextHopInSet(_FAMILY[family], name)
        case {"payload": payload}:
            return packet_port_in(payload, name)
        case {"concat": [protocol, {"payload": {"protocol": "th", "field": "dport"}}]} if protocol == _L4_PROTOCOL:
            return ToPort(name)
        case {"concat": [address, protocol, {"payload": {"protocol": "th", "field": "dport" | "sport" as port}}]}:
            return _named_port(parse_key(address), _PORT_DIRECTIONS[port], name) if protocol == _L4_PROTOCOL else None
    family, replies = FLOW_KEYS.get(msgspec.json.encode(left), (None, False))
    return CtFlowInSet(family, name) if family is not None and not replies else None


def _named_port(server: CtAddress | IpAddress | None, direction: CtDirection, name: str) -> Match | None:
    if isinstance(server, CtAddress) and server.end == "server":
        return NamedPort(server.family, name, direction)
    if isinstance(server, IpAddress) and server.side == "daddr" and direction == "original":
        return PacketNamedPort(server.family, name)
    return None


def _by_value(operator: str, left: Any, right: Any) -> Match | None:
    match left:
        case {"meta": {"key": "l4proto"}} if operator == "==":
            return L4Proto(tuple(map(protocol_name, alternatives(right))))
        case {"numgen": {"mode": "random", "mod": int(modulus), **others}} if operator == "<":
            return RandomBelow(modulus, int(right)) if others in ({}, {"offset": 0}) else None
        case {"&": [{"meta": {"key": "mark"}}, int(mask)]} if operator in {"==", "!="}:
            return _mark_is(mask, int(right), negated=operator == "!=")
        case {"meta": {"key": "oifname"}} if operator == "==" and isinstance(right, str) and "*" not in right:
            return ToInterface(right)
        case {"ct": {"key": "direction"}} if operator == "==" and right in _PORT_DIRECTIONS.values():
            return CtDirectionIs(right)
        case {"ct": {"key": "proto-src", "dir": "reply"}} if operator == "==":
            return ServerPort(*numbers(right))
        case {"ct": {"key": "state"}} if operator == "in":
            return ConntrackState((right,) if isinstance(right, str) else tuple(right))
        case {"ct": {"key": "status"}} if isinstance(right, str):
            return _STATUS.get((operator, right))
        case {"payload": {"protocol": "ip" | "ip6", "field": "saddr" | "daddr"}} if operator == "==":
            key = parse_key(left)
            return Within(key, tuple(map(parse_range, alternatives(right)))) if isinstance(key, IpAddress) else None
    return parse_header_match(operator, left, right) or parse_arrival_match(operator, left, right)


def _mark_is(mask: int, value: int, *, negated: bool) -> MarkIs | None:
    return MarkIs(mask, value, negated) if 0 < mask <= MARK_BITS and not value & ~mask else None
