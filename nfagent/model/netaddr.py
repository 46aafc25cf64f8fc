"""Addresses and address ranges, in one canonical form.

An address is its canonical text ('10.0.0.1', '2001:db8::1'): readable in every dump, hashable, internable.
A range is two integers and a family, so that overlapping CIDRs can be made disjoint: nftables refuses overlaps and
masks host bits (docs/semantics.md, edge cases 22, 24, 25).
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Iterable, Iterator
from typing import Literal, TypeAlias

import msgspec

Family: TypeAlias = Literal[4, 6]
FAMILIES: tuple[Family, Family] = (4, 6)
ADDRESS_BITS: dict[Family, int] = {4: 32, 6: 128}
"""Bits of an address."""
_MAPPED = 0xFFFF
"""IPv4-mapped IPv6 addresses without their last 32 bits."""
_CIDR = re.compile(r"[^%/]+/\d+\Z", re.ASCII)
"""Python's ipaddress also accepts netmasks and zones, which the API server refuses."""


# Patterns of canonical text without parsing, which match nearly all addresses: no zero group except those of `::`,
# which has at least two. Other text is parsed; matching text would be unchanged by parsing (a property test checks it).
_PLAIN_IPV4 = re.compile(r"(?:(?:25[0-5]|2[0-4]\d|1\d\d|[1-9]?\d)(?:\.(?!\Z)|\Z)){4}\Z", re.ASCII)
_GROUP = "[1-9a-f][0-9a-f]{0,3}"
_PLAIN_IPV6 = re.compile(rf"{_GROUP}(?::{_GROUP})*::(?:{_GROUP}(?::{_GROUP})*)?\Z")
_GROUPS = 8

_LEADING_ZEROS = re.compile(r"(?<![0-9a-fA-F])0+(?=[0-9a-fA-F])", re.ASCII)
"""Of a decimal byte, or of a group of hex digits; not the number's last digit."""


class AddressError(ValueError):
    """Text that isn't an address or a CIDR; the message says what to write instead."""


_LINK_LOCAL_BITS = 0xFE80 >> 6
"""The first 10 bits of fe80::/10."""


class Range(msgspec.Struct, frozen=True, order=True, gc=False):
    """Addresses first..last of one family, both inclusive, as integers in host order."""

    family: Family
    first: int
    last: int

    def contains(self, address: str) -> bool:
        """Return whether the range contains a canonical address; never one of the other family."""
        return family_of(address) == self.family and self.first <= number(address) <= self.last

    def __str__(self) -> str:
        """Return it in nft syntax: a prefix where it is one, 'first-last' otherwise, one address bare."""
        first = text(self.family, self.first)
        if self.first == self.last:
            return first
        size = self.last - self.first + 1
        if size & (size - 1) == 0 and self.first % size == 0:
            return f"{first}/{ADDRESS_BITS[self.family] - size.bit_length() + 1}"
        return f"{first}-{text(self.family, self.last)}"


def family_of(address: str) -> Family:
    """Return the family of a canonical address."""
    return 6 if ":" in address else 4


def endpoint(address: str, port: int | None) -> str:
    """Return an address with its port: `10.0.0.1:80`, `[2001:db8::1]:80`; without one as it is."""
    if port is None:
        return address
    return f"[{address}]:{port}" if ":" in address else f"{address}:{port}"


def number(address: str) -> int:
    """Return a canonical address as an integer in host order."""
    return int(ipaddress.ip_address(address))


def text(family: Family, value: int) -> str:
    """Return the canonical text of an integer address."""
    return str(ipaddress.IPv4Address(value) if family == 4 else ipaddress.IPv6Address(value))


def canonical(address: str) -> str:
    """Return the canonical text of an address; an IPv4-mapped IPv6 address becomes IPv4.

    Leading zeros are decimal, as the API server reads them (ParseIPSloppy). Raises AddressError.
    See docs/semantics.md, edge case 26.
    """
    if _PLAIN_IPV4.match(address) or (_PLAIN_IPV6.match(address) and address.count(":") < _GROUPS - 1):
        return address
    try:
        parsed = ipaddress.ip_address(_LEADING_ZEROS.sub("", address))
    except ValueError:
        raise AddressError("is not an IP address; write one like 10.0.0.1 or 2001:db8::1") from None
    if parsed.version == 6:
        if parsed.scope_id is not None:
            raise AddressError("has a zone; write the address without '%'")
        if parsed.ipv4_mapped is not None:
            return str(parsed.ipv4_mapped)
    return str(parsed)


def parse_cidr(cidr: str, *, strict: bool = False) -> Range:
    """Read a CIDR as a range; host bits are masked away, or refused when `strict`.

    Leading zeros are decimal, as the API server reads them (ParseCIDRSloppy). Raises AddressError.
    """
    if not _CIDR.match(cidr):
        raise AddressError("is not a CIDR; write address and prefix length, like 10.0.0.0/8")
    plain = _plain_cidr(cidr)
    if plain is not None:
        return plain
    try:
        interface = ipaddress.ip_interface(_LEADING_ZEROS.sub("", cidr))
    except ValueError:
        raise AddressError("is not a CIDR; write one like 10.0.0.0/8 or 2001:db8::/32") from None
    network = interface.network
    if network.version == 6 and network.network_address.ipv4_mapped is not None and network.prefixlen >= 96:
        raise AddressError("is an IPv4-mapped IPv6 CIDR; write it as an IPv4 CIDR")
    if strict and int(network.network_address) != int(interface.ip):
        raise AddressError(f"has host bits set; write {network}")
    return Range(network.version, int(network.network_address), int(network.broadcast_address))


def _plain_cidr(cidr: str) -> Range | None:
    """Return the range of a CIDR in plain form, without host bits; None for any other text, valid or not.

    In a fifth of the time of ip_interface: lists of 1,000 CIDRs are read on the event loop.
    """
    address, _, length = cidr.partition("/")
    family: Family = 6 if ":" in address else 4
    try:
        if _PLAIN_IPV4.match(address):
            # In a third of the time of IPv4Address: a policy may list 20,000 CIDRs.
            one, two, three, four = address.split(".")
            first = int(one) << 24 | int(two) << 16 | int(three) << 8 | int(four)
        else:
            first = int(ipaddress.IPv6Address(address) if family == 6 else ipaddress.IPv4Address(address))
        hosts = ADDRESS_BITS[family] - int(length)
    except ValueError:
        return None
    if hosts < 0 or first & ((1 << hosts) - 1) or (family == 6 and first >> 32 == _MAPPED):
        return None
    return Range(family, first, first | ((1 << hosts) - 1))


def single(address: str) -> Range:
    """Return the range that holds one canonical address."""
    value = number(address)
    return Range(family_of(address), value, value)


def is_link_local(address: str) -> bool:
    """Return whether a canonical address is in fe80::/10, which routers never forward."""
    return ":" in address and number(address) >> 118 == _LINK_LOCAL_BITS


def is_multicast_or_broadcast(address: str) -> bool:
    """Return whether a canonical address is multicast, or the limited broadcast 255.255.255.255."""
    found = ipaddress.ip_address(address)
    return found.is_multicast or address == "255.255.255.255"


def disjoint(ranges: Iterable[Range]) -> tuple[Range, ...]:
    """Merge overlapping and adjacent ranges: the same addresses, in order, no two of them adjacent."""
    merged: list[Range] = []
    for item in sorted(ranges):
        join(merged, item)
    return tuple(merged)


def join(merged: list[Range], item: Range) -> None:
    """Append a range that begins no earlier than the last one, or extend the last one if they touch."""
    last = merged[-1] if merged else None
    if last is not None and last.family == item.family and item.first <= last.last + 1:
        merged[-1] = Range(last.family, last.first, max(last.last, item.last))
    else:
        merged.append(item)


def subtract(whole: Range, holes: Iterable[Range]) -> tuple[Range, ...]:
    """Return the parts of a range outside the holes, in order; holes of the other family are ignored."""
    return tuple(_pieces(whole, disjoint(hole for hole in holes if hole.family == whole.family)))


def _pieces(whole: Range, holes: tuple[Range, ...]) -> Iterator[Range]:
    start = whole.first
    for hole in holes:
        if hole.last < start or hole.first > whole.last:
            continue
        if hole.first > start:
            yield Range(whole.family, start, hole.first - 1)
        start = hole.last + 1
    if start <= whole.last:
        yield Range(whole.family, start, whole.last)


def without(ranges: Iterable[Range], holes: tuple[Range, ...]) -> tuple[Range, ...]:
    """Return the parts of disjoint ranges in order that are outside of disjoint holes in order, of both families."""
    return tuple(_remaining(ranges, holes))


def _remaining(ranges: Iterable[Range], holes: tuple[Range, ...]) -> Iterator[Range]:
    at = 0
    for item in ranges:
        start = item.first
        while at < len(holes) and (holes[at].family, holes[at].last) < (item.family, item.first):
            at += 1
        inside = at
        while inside < len(holes) and holes[inside].family == item.family and holes[inside].first <= item.last:
            hole = holes[inside]
            if start < hole.first:
                yield Range(item.family, start, hole.first - 1)
            start = hole.last + 1
            inside += 1
        if start <= item.last:
            yield Range(item.family, start, item.last)


def aligned_blocks(first: int, last: int, bits: int) -> Iterator[tuple[int, int]]:
    """Yield the fewest aligned blocks that are the integers first..last, each as its first integer and prefix length.

    bits: bits of an integer
    """
    while first <= last:
        # The largest block that begins here, and ends no later than the range.
        size = first & -first or 1 << bits
        while size > last - first + 1:
            size >>= 1
        yield first, bits - size.bit_length() + 1
        first += size
