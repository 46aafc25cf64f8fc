"""The route to one address as rtnetlink tells of it: RTM_GETROUTE and RTM_NEWROUTE (linux/rtnetlink.h).

Asking for one address costs the kernel a look-up, however many routes a node has; a node that speaks BGP may have a
million, and nobody lists those.
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
_FIB_MATCH = 0x2000  # RTM_F_FIB_MATCH: the route itself, with all its ways, and not what a packet would make of it
_AF = {4: (2, 4), 6: (10, 16)}  # AF_INET, AF_INET6, and an address' bytes
_INDEX = struct.Struct("=i")


class Route(msgspec.Struct, frozen=True, gc=False):
    """The way that packets to an address take from this machine.

    links: indexes of the interfaces that they leave by: several, where it takes several ways
    near:  whether the address is there on the one link itself, by a route that is about it: no router on the way,
           and no default route, by which goes whatever nobody knows
    """

    links: tuple[int, ...]
    near: bool = True


def encode_route_request(sequence: int, address: str) -> bytes:
    """Ask which way a packet to an address would take."""
    family = family_of(address)
    domain, size = _AF[family]
    head = _HEAD.pack(domain, size * 8, 0, 0, 0, 0, 0, 0, _FIB_MATCH)
    return message(
        _RTM_GETROUTE, NLM_F_REQUEST, sequence, head + attribute(_DST, number(address).to_bytes(size, "big"))
    )


def decode_route(found: Message) -> Route | None:
    """Read one RTM_NEWROUTE message; None where the packet goes to no other machine. Raises WireError."""
    if found.type != RTM_NEWROUTE or len(found.payload) < _HEAD.size:
        raise WireError(f"netlink message of type {found.type} and {len(found.payload)} bytes tells of no route")
    _, prefix, _, _, _, _, _, kind, _ = _HEAD.unpack_from(found.payload)
    said = dict(attributes(found.payload, _HEAD.size))
    links = tuple(_next_hops(said[_MULTIPATH])) if _MULTIPATH in said else ()
    if _OIF in said and not links:
        links = (_index(said[_OIF]),)
    if kind != _UNICAST or not links:
        return None
    return Route(links, near=bool(prefix) and len(links) == 1 and _GATEWAY not in said and _VIA not in said)


def _index(value: bytes) -> int:
    if len(value) != _INDEX.size:
        raise WireError(f"a route's interface has 4 bytes, not {len(value)}")
    return int(_INDEX.unpack(value)[0])


def _next_hops(value: bytes) -> Iterator[int]:
    offset = 0
    while offset < len(value):
        if len(value) - offset < _NEXT_HOP.size:
            raise WireError(f"{len(value) - offset} bytes are no way of a route, which has 8")
        length, _, _, link = _NEXT_HOP.unpack_from(value, offset)
        if length < _NEXT_HOP.size:
            raise WireError(f"a way of a route has 8 bytes, not {length}")
        yield int(link)
        offset += (length + 3) & ~3
