"""What the kernel lists of a match on a packet's own header to a value: ports and fragments."""

from __future__ import annotations

from typing import Any

from nfagent.ruleset.objects import Fragment, Match, PacketPort


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


def numbers(right: Any) -> tuple[int, int]:
    """Read a number or a range of numbers: first and last."""
    first, last = right["range"] if isinstance(right, dict) else (right, right)
    return int(first), int(last)
