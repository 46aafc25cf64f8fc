"""What the kernel lists of a match on a packet's own header, or on its source and interface, to a value."""

from __future__ import annotations

from typing import Any

import msgspec

from nfagent.cluster.address import FAMILIES, Family
from nfagent.ruleset.objects import (
    Fragment,
    HopLimitIs,
    LinkLocalSource,
    LocalSource,
    Match,
    NotLoopback,
    PacketPort,
    Unrouted,
)

FLOW_KEYS: dict[bytes, Family] = {
    msgspec.json.encode(
        {
            "concat": [
                {"payload": {"protocol": protocol, "field": "saddr"}},
                {"meta": {"key": "l4proto"}},
                {"payload": {"protocol": "th", "field": "sport"}},
                {"payload": {"protocol": protocol, "field": "daddr"}},
                {"payload": {"protocol": "th", "field": "dport"}},
            ]
        }
    ): family
    for protocol, family in (("ip", FAMILIES[0]), ("ip6", FAMILIES[1]))
}
"""How libnftables writes a packet's flow."""

_LINK_LOCAL = {"prefix": {"addr": "fe80::", "len": 10}}
_PROTOCOLS: dict[Any, Any] = {1: "icmp", 6: "tcp", 17: "udp", 58: "icmpv6", 132: "sctp", "ipv6-icmp": "icmpv6"}
_PROTOCOLS |= {"ipencap": "4", "ipv4": "4", "ipip": "4", "ipv6": "41", "gre": "47"}
"""By what nft lists for a protocol: the name in /etc/protocols, in any case; the number where there is no name."""


def parse_header_match(operator: str, left: Any, right: Any) -> Match | None:
    """Read a match on ports, fragments, hop limits, and on where packets come from; None for every other match."""
    match left:
        case {"payload": {"protocol": "tcp" | "udp" | "sctp" as protocol, "field": "dport"}} if operator == "==":
            return PacketPort(protocol, *numbers(right))
        case {"&": [{"payload": {"protocol": "ip", "field": "frag-off"}}, 0x1FFF]} if (operator, right) == ("!=", 0):
            return Fragment(4)
        case {"exthdr": {"name": "frag"}} if operator == "==" and right is True and left["exthdr"].keys() == {"name"}:
            return Fragment(6)
        case {"payload": {"protocol": "ip6", "field": "hoplimit"}} if operator == "==" and type(right) is int:
            return HopLimitIs(right)
    return _parse_origin(operator, left, right)


def _parse_origin(operator: str, left: Any, right: Any) -> Match | None:
    match left:
        case {"payload": {"protocol": "ip6", "field": "saddr"}} if (operator, right) == ("==", _LINK_LOCAL):
            return LinkLocalSource()
        case {"fib": {"result": "type", "flags": "saddr" | ["saddr"]}} if (operator, right) == ("==", "local"):
            return LocalSource()
        case {"fib": {"result": "oif", "flags": ["saddr", "iif"]}} if operator == "==" and right is False:
            return Unrouted()
        case {"meta": {"key": "iifname"}} if (operator, right) == ("!=", "lo"):
            return NotLoopback()
    return None


def numbers(right: Any) -> tuple[int, int]:
    """Read a number or a range of numbers: first and last."""
    first, last = right["range"] if isinstance(right, dict) else (right, right)
    return int(first), int(last)


def protocol_name(listed: Any) -> Any:
    """Return the name that our rules have for a protocol, by what nft lists for it."""
    word = listed.lower() if isinstance(listed, str) else listed
    return _PROTOCOLS.get(word, str(word))
