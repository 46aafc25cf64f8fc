"""What the kernel lists of a match on a packet's own header to a value: protocols, ports and fragments."""

from __future__ import annotations

from typing import Any

import msgspec

from nfagent.cluster.address import FAMILIES, Family
from nfagent.ruleset.objects import Fragment, Match, PacketPort, PacketPortIn

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

_PROTOCOLS: dict[Any, Any] = {1: "icmp", 6: "tcp", 17: "udp", 58: "icmpv6", 132: "sctp", "ipv6-icmp": "icmpv6"}
"""By what nft lists for a protocol: the name in /etc/protocols, in any case; the number where there is no name."""


def parse_header_match(operator: str, left: Any, right: Any) -> Match | None:
    """Read a match on a destination port or on fragments; None for every other match."""
    match left:
        case {"payload": {"protocol": "tcp" | "udp" | "sctp" as protocol, "field": "dport"}} if operator == "==":
            return PacketPort(protocol, *numbers(right))
        case {"&": [{"payload": {"protocol": "ip", "field": "frag-off"}}, 0x1FFF]} if (operator, right) == ("!=", 0):
            return Fragment(4)
        case {"exthdr": {"name": "frag"}} if operator == "==" and right is True and left["exthdr"].keys() == {"name"}:
            return Fragment(6)
    return None


def packet_port_in(payload: Any, name: str) -> Match | None:
    """Read a match of a header's field to a set; None for every field but a destination port."""
    known = payload["field"] == "dport" and payload["protocol"] in {"tcp", "udp", "sctp"}
    return PacketPortIn(payload["protocol"], name) if known else None


def numbers(right: Any) -> tuple[int, int]:
    """Read a number or a range of numbers: first and last."""
    first, last = right["range"] if isinstance(right, dict) else (right, right)
    return int(first), int(last)


def protocol_name(listed: Any) -> Any:
    """Return the name that our rules have for a protocol, by what nft lists for it."""
    word = listed.lower() if isinstance(listed, str) else listed
    return _PROTOCOLS.get(word, str(word))
