"""Numbers of what nft's grammar names: protocols and types of ICMPv6. Both may also be written as a number."""

from __future__ import annotations

_PROTOCOLS = {
    "icmp": 1,
    "tcp": 6,
    "udp": 17,
    "dccp": 33,
    "esp": 50,
    "ah": 51,
    "icmpv6": 58,
    "comp": 108,
    "sctp": 132,
    "udplite": 136,
}
_ICMPV6_TYPES = {
    "destination-unreachable": 1,
    "packet-too-big": 2,
    "time-exceeded": 3,
    "parameter-problem": 4,
    "echo-request": 128,
    "echo-reply": 129,
    "mld-listener-query": 130,
    "mld-listener-report": 131,
    "mld-listener-done": 132,
    "mld-listener-reduction": 132,
    "nd-router-solicit": 133,
    "nd-router-advert": 134,
    "nd-neighbor-solicit": 135,
    "nd-neighbor-advert": 136,
    "nd-redirect": 137,
    "router-renumbering": 138,
    "ind-neighbor-solicit": 141,
    "ind-neighbor-advert": 142,
    "mld2-listener-report": 143,
}


def protocol_number(name: str) -> int:
    """Return the IANA number of a protocol. Raises KeyError for an unknown name."""
    return int(name) if name.isdecimal() else _PROTOCOLS[name]


def icmpv6_type_number(name: str) -> int:
    """Return the number of a type of ICMPv6. Raises KeyError for an unknown name."""
    return int(name) if name.isdecimal() else _ICMPV6_TYPES[name]
