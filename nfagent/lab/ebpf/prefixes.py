"""Ranges of addresses and ports as prefixes, which a trie of longest prefixes has for keys. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import msgspec

from nfagent.model.netaddr import Family, Range, text

BITS: dict[Family, int] = {4: 32, 6: 128}
"""Bits of an address."""


class Prefix(msgspec.Struct, frozen=True, order=True, gc=False):
    """A CIDR: family, first address as an integer, and prefix length."""

    family: Family
    first: int
    length: int

    @property
    def last(self) -> int:
        """The last address, as an integer."""
        return self.first | ((1 << (BITS[self.family] - self.length)) - 1)

    def __str__(self) -> str:
        """Return it as text, also a single address: `10.0.0.0/8`."""
        return f"{text(self.family, self.first)}/{self.length}"


def prefixes(ranges: Iterable[Range]) -> Iterator[Prefix]:
    """Yield the fewest CIDRs that are the same addresses, of each range in turn."""
    for item in ranges:
        for first, length in split(item.first, item.last, BITS[item.family]):
            yield Prefix(item.family, first, length)


def split(first: int, last: int, bits: int) -> Iterator[tuple[int, int]]:
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
