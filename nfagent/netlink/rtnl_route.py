"""The route to one address in rtnetlink: RTM_GETROUTE and RTM_NEWROUTE (linux/rtnetlink.h).

A request for one address costs the kernel one look-up, for any number of routes; a node with BGP may have a million
routes, too many for a dump.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator

import msgspec

from nfagent.errors import WireError
from nfagent.model.netaddr import family_of, number
from nfagent.netlink.codec import NLM_F_REQUEST, Message, attribute, attributes, message

RTM_NEWROUTE = 24
_RTM_GETROUTE = 26
_HEAD = struct.Struct("=8BI")  # struct rtmsg: family, dst_len, src_len, tos, table, protocol, scope, type, flags
_NEXT_HOP = struct.Struct("=HBBi")  # struct rtnexthop: length, flags, hops, interface
_DST, _OIF, _GATEWAY, _MULTIPATH, _VIA = 1, 4, 5, 9, 18  # RTA_*
_UNICAST = 1  # RTN_UNICAST
_FIB_MATCH = 0x2000  # RTM_F_FIB_MATCH: return the route itself, with all its next hops
_AF = {4: (2, 4), 6: (10, 16)}  # AF_INET, AF_INET6, and an address' bytes
_INDEX = struct.Struct("=i")


class Route(msgspec.Struct, frozen=True, gc=False):
    """The route of packets to an address.

    links: indexes of the outgoing interfaces: several for a multipath route
    on_link:  the address is on the link: the route has one next hop without a gateway, and is not a default route
    """

    links: tuple[int, ...]
    on_link: bool = True


def encode_route_request(sequence: int, address: str) -> bytes:
    """Encode the request for the route to an address."""
    family = family_of(address)
    domain, size = _AF[family]
    head = _HEAD.pack(domain, size * 8, 0, 0, 0, 0, 0, 0, _FIB_MATCH)
    return message(
        _RTM_GETROUTE, NLM_F_REQUEST, sequence, head + attribute(_DST, number(address).to_bytes(size, "big"))
    )


def decode_route(found: Message) -> Route | None:
    """Decode one RTM_NEWROUTE message; None for a route that isn't unicast to another machine. Raises WireError."""
    if found.type != RTM_NEWROUTE or len(found.payload) < _HEAD.size:
        raise WireError(f"netlink message of type {found.type} and {len(found.payload)} bytes is not an RTM_NEWROUTE")
    _, prefix, _, _, _, _, _, kind, _ = _HEAD.unpack_from(found.payload)
    found_attributes = dict(attributes(found.payload, _HEAD.size))
    links = tuple(_next_hops(found_attributes[_MULTIPATH])) if _MULTIPATH in found_attributes else ()
    if _OIF in found_attributes and not links:
        links = (_index(found_attributes[_OIF]),)
    if kind != _UNICAST or not links:
        return None
    return Route(
        links,
        on_link=bool(prefix) and len(links) == 1 and _GATEWAY not in found_attributes and _VIA not in found_attributes,
    )


def decode_neighbour_link(found: Message) -> int:
    """Return the index of the interface on which the address of a reply is a neighbour; 0 where it is behind a gateway.

    Unlike `Route.on_link`, a default route without a gateway counts. Raises WireError.
    """
    route = decode_route(found)
    listed = dict(attributes(found.payload, _HEAD.size))
    if route is None or len(route.links) != 1 or _MULTIPATH in listed or _GATEWAY in listed or _VIA in listed:
        return 0
    return route.links[0]


def _index(value: bytes) -> int:
    if len(value) != _INDEX.size:
        raise WireError(f"interface index of a route has {len(value)} bytes, not 4")
    return int(_INDEX.unpack(value)[0])


def _next_hops(value: bytes) -> Iterator[int]:
    offset = 0
    while offset < len(value):
        if len(value) - offset < _NEXT_HOP.size:
            raise WireError(f"{len(value) - offset} bytes left, a next hop has 8")
        length, _, _, link = _NEXT_HOP.unpack_from(value, offset)
        if length < _NEXT_HOP.size:
            raise WireError(f"next hop of a route has {length} bytes, not 8")
        yield int(link)
        offset += (length + 3) & ~3
