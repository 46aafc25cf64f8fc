"""Which ipsets stand for one set of nftables, by its kind: their names, shapes and members.

address, counted   hash:ip
range              hash:net of prefixes
port               hash:ip,port
ports              bitmap:port; one for both families
family             hash:net: both halves of the address space of the family, or none
flow               two hash:ip,port,ip: the source's port, and the destination's
pair               hash:ip: addresses that are paired with themselves; the pairs are chains (`pairs`)
link               eight hash:net,iface: the kernel keeps at most 64 interfaces of one prefix in a set
service            bitmap:port for each of TCP and UDP
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from hashlib import blake2s

import msgspec

from nfagent.model.netaddr import ADDRESS_BITS, FAMILIES, Family, Range, aligned_blocks, text
from nfagent.model.objects import Protocol
from nfagent.nftables.objects import FLOW_SECONDS, Element, LinkName, NamedSet, PortRange, ProtocolPort, SetKind
from nfagent.xtables.names import set_name
from nfagent.xtables.objects import IpSet, SetMember, SetType

MEMBERS = 1 << 20
"""Capacity of a hash: the kernel allocates as members come."""
FLOW_PARTS = ("sport", "dport")
LINK_PARTS = tuple(f"link{number}" for number in range(8))
LINKS_EACH = 64
"""The kernel's limit of interfaces of one prefix in a hash:net,iface."""
SERVICE_PROTOCOLS: tuple[Protocol, ...] = ("tcp", "udp")
"""Those that bitmap:port looks up."""
_ANY = {family: text(family, 0) for family in FAMILIES}


def family_halves(family: Family) -> tuple[tuple[str, int], tuple[str, int]]:
    """Return both halves of an address space: hash:net has no prefix of length 0."""
    return (_ANY[family], 1), (text(family, 1 << (ADDRESS_BITS[family] - 1)), 1)


def prefixes(item: Range) -> Iterator[tuple[str, int]]:
    """Yield the prefixes that a range consists of, none of length 0."""
    for first, length in aligned_blocks(item.first, item.last, ADDRESS_BITS[item.family]):
        if length:
            yield text(item.family, first), length
        else:
            yield from family_halves(item.family)


def link_part(link: str) -> str:
    """Return the part of a set of interfaces that an interface is in."""
    return LINK_PARTS[blake2s(link.encode(), digest_size=1).digest()[0] % len(LINK_PARTS)]


_TYPES: dict[SetKind, SetType] = {
    "address": "hash:ip",
    "counted": "hash:ip",
    "pair": "hash:ip",
    "range": "hash:net",
    "family": "hash:net",
    "port": "hash:ip,port",
    "ports": "bitmap:port",
    "service": "bitmap:port",
    "link": "hash:net,iface",
    "flow": "hash:ip,port,ip",
}


class SetPart(msgspec.Struct, frozen=True):
    """One ipset of a set of nftables, without members."""

    part: str
    name: str
    shape: IpSet


def parts_of(name: str, shape: NamedSet, families: Iterable[Family] = FAMILIES) -> tuple[SetPart, ...]:
    """Return the ipsets that stand for a set."""
    kept = tuple(families)
    own = tuple(family for family in kept if family == shape.family)
    kind = _TYPES[shape.kind]
    match shape.kind:
        case "ports":
            return (_part(name, kind, 4, size=0),)
        case "service":
            return tuple(_part(name, kind, 4, part, size=0) for part in SERVICE_PROTOCOLS)
        case "family":
            return tuple(_part(name, kind, family) for family in kept)
        case "link":
            return tuple(_part(name, kind, family, part) for family in kept for part in LINK_PARTS)
        case "flow":
            return tuple(
                _part(name, kind, family, part, timeout=FLOW_SECONDS, size=shape.size)
                for family in own
                for part in FLOW_PARTS
            )
        case _:
            return tuple(_part(name, kind, family, counters=shape.kind == "counted") for family in own)


def _part(
    origin: str,
    kind: SetType,
    family: Family,
    part: str = "",
    *,
    counters: bool = False,
    timeout: int = 0,
    size: int = MEMBERS,
) -> SetPart:
    shape = IpSet(kind, family, counters=counters, timeout=timeout, size=size, origin=origin)
    return SetPart(part, set_name(origin, family, part), shape)


def members_of(kind: str, element: Element, family: Family) -> Iterator[tuple[str, SetMember]]:
    """Yield the members that an element of a set has in the ipsets of a family, each with the part it belongs to."""
    match element:
        case Range() | PortRange() | int():
            yield from (("", member) for member in _several(element, family))
        case ProtocolPort(protocol, port) if protocol in SERVICE_PROTOCOLS:
            yield protocol, port
        case LinkName(link):
            yield link_part(link), (_ANY[family], 0, link)
        case str():
            yield "", element
        case (address, other) if address == other and kind == "pair":
            yield "", address
        case (address, protocol, port):
            yield "", (address, protocol, port)
        case _:
            return


def _several(element: Range | PortRange | Family, family: Family) -> Iterator[SetMember]:
    """Yield the members of an element that stands for several."""
    if isinstance(element, Range):
        yield from prefixes(element)
    elif isinstance(element, PortRange):
        yield from range(element.first, element.last + 1)
    elif element == family:
        yield from family_halves(family)


def part_members(kind: str, part: SetPart, elements: Iterable[Element]) -> frozenset[SetMember]:
    """Return the members that elements of a set have in one of its ipsets."""
    return frozenset(
        member
        for element in elements
        for found, member in members_of(kind, element, part.shape.family)
        if found == part.part
    )
