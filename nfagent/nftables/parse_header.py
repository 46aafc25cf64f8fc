"""Parses matches on packet headers, on the incoming interface and on routes."""

from __future__ import annotations

from typing import Any

import msgspec

from nfagent.model.netaddr import FAMILIES, Family
from nfagent.nftables.matches import (
    EtherType,
    FamilyIs,
    FibLocalSource,
    FibUnrouted,
    Fragment,
    FromBridge,
    FromVeth,
    HopLimit,
    Icmpv6Code,
    Icmpv6Type,
    Match,
    MaxPayload,
    MulticastAddress,
    MulticastFrame,
    NotLoopback,
    PacketPort,
    PacketPortIn,
    TcpReset,
    UnicastDestination,
)
from nfagent.nftables.render_match import ETHER_TYPES


def _flow_key(protocol: str, layer4: str, *, replies: bool) -> bytes:
    source, destination = ("d", "s") if replies else ("s", "d")
    key = [
        {"payload": {"protocol": protocol, "field": f"{source}addr"}},
        {"meta": {"key": "l4proto"}},
        {"payload": {"protocol": layer4, "field": f"{source}port"}},
        {"payload": {"protocol": protocol, "field": f"{destination}addr"}},
        {"payload": {"protocol": layer4, "field": f"{destination}port"}},
    ]
    return msgspec.json.encode({"concat": key})


FLOW_KEYS: dict[bytes, tuple[Family, bool]] = {
    _flow_key(protocol, layer4, replies=replies): (family, replies)
    for protocol, family in (("ip", FAMILIES[0]), ("ip6", FAMILIES[1]))
    for layer4 in ("th", "tcp")
    for replies in (False, True)
}
"""The family, and whether it is the flow of replies, by the JSON of a dynamic set's key.

After a match of TCP's header, nft lists ports as TCP's.
"""

_FAMILIES: dict[Any, Family] = {"ipv4": 4, "ipv6": 6}
_GROUP = {"set": ["broadcast", "multicast"]}
_ONE = {"set": ["unicast", "local"]}
_LINK_KINDS: dict[Any, Match] = {"bridge": FromBridge(), "veth": FromVeth()}
_ETHER_TYPES: dict[Any, int] = {name: number for number, name in ETHER_TYPES.items()}
_CODES: dict[Any, int] = {"no-route": 0}
"""nft has names for the codes of one ICMPv6 type, and lists them for every type."""

_PROTOCOLS: dict[Any, Any] = {1: "icmp", 6: "tcp", 17: "udp", 58: "icmpv6", 132: "sctp", "ipv6-icmp": "icmpv6"}
_PROTOCOLS |= {"ipencap": "4", "ipv4": "4", "ipip": "4", "ipv6": "41", "gre": "47"}
"""Names in rules, by the protocol that nft lists: the name in /etc/protocols, in any case, or else the number."""


def parse_header_match(operator: str, left: Any, right: Any) -> Match | None:
    """Read a match on a header field other than an address; None for any other match."""
    match left:
        case {"payload": {"protocol": "tcp" | "udp" | "sctp" as protocol, "field": "dport"}} if operator == "==":
            return PacketPort(protocol, *numbers(right))
        case {"&": [{"payload": {"protocol": "ip", "field": "frag-off"}}, 0x1FFF]} if (operator, right) == ("!=", 0):
            return Fragment(4)
        case {"exthdr": {"name": "frag"}} if operator == "==" and right is True and left["exthdr"].keys() == {"name"}:
            return Fragment(6)
        case {"payload": {"protocol": "ether", "field": "type"}} if operator == "==":
            return EtherType(tuple(sorted(int(_ETHER_TYPES.get(value, value)) for value in alternatives(right))))
        case {"payload": {"protocol": "tcp" | "icmpv6" | "ip6", "field": field}}:
            return _field_match(field, operator, right)
    return None


def packet_port_in(payload: Any, name: str) -> Match | None:
    """Read a look-up of a header field in a set; None for any field but a destination port."""
    known = payload["field"] == "dport" and payload["protocol"] in {"tcp", "udp", "sctp"}
    return PacketPortIn(payload["protocol"], name) if known else None


def _field_match(field: str, operator: str, right: Any) -> Match | None:
    match field, operator:
        case "flags", "in" if right == "rst":
            return TcpReset()
        case "type", "==":
            return Icmpv6Type(alternatives(right))
        case "code", "==":
            return Icmpv6Code(int(_CODES.get(right, right)))
        case "hoplimit", "==":
            return HopLimit(int(right))
        case "length", "<=":
            return MaxPayload(int(right))
    return None


def parse_arrival_match(operator: str, left: Any, right: Any) -> Match | None:
    """Read a match on family, incoming interface, packet type or routes; None for any other match."""
    match left, operator:
        case {"meta": {"key": "nfproto"}}, "==" if right in _FAMILIES:
            return FamilyIs(_FAMILIES[right])
        case {"fib": {"result": result, "flags": flags}}, "==":
            return _fib_match(result, (flags,) if isinstance(flags, str) else tuple(flags), right)
        case {"meta": {"key": "pkttype"}}, "==" if right == _GROUP:
            return MulticastFrame()
        case {"meta": {"key": "iifkind"}}, "==" if right in _LINK_KINDS:
            return _LINK_KINDS[right]
        case {"meta": {"key": "iifname"}}, "!=" if right == "lo":
            return NotLoopback()
    return None


def _fib_match(result: Any, flags: tuple[Any, ...], right: Any) -> Match | None:
    if (result, flags, right) == ("type", ("saddr",), "local"):
        return FibLocalSource()
    if (result, flags, right) == ("type", ("daddr",), _GROUP):
        return MulticastAddress()
    if (result, flags, right) == ("type", ("daddr",), _ONE):
        return UnicastDestination()
    if (result, flags) == ("oif", ("saddr", "iif")) and right is False:
        return FibUnrouted()
    return None


def alternatives(right: Any) -> tuple[Any, ...]:
    """Return one value, or the values of an anonymous set."""
    return tuple(right["set"]) if isinstance(right, dict) and "set" in right else (right,)


def numbers(right: Any) -> tuple[int, int]:
    """Return first and last of a number or a range."""
    first, last = right["range"] if isinstance(right, dict) else (right, right)
    return int(first), int(last)


def protocol_name(listed: Any) -> Any:
    """Return the name that nfagent writes for a listed protocol."""
    word = listed.lower() if isinstance(listed, str) else listed
    return _PROTOCOLS.get(word, str(word))
