"""Ranges of addresses and ports as prefixes, which a trie of longest prefixes has for keys. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import msgspec

from nfagent.model.netaddr import ADDRESS_BITS, Family, Range, aligned_blocks, text


class Prefix(msgspec.Struct, frozen=True, order=True, gc=False):
    """A CIDR: family, first address as an integer, and prefix length."""

    family: Family
    first: int
    length: int

    @property
    def last(self) -> int:
        """The last address, as an integer."""
        return self.first | ((1 << (ADDRESS_BITS[self.family] - self.length)) - 1)

    def __str__(self) -> str:
        """Return it as text, also a single address: `10.0.0.0/8`."""
        return f"{text(self.family, self.first)}/{self.length}"


def prefixes(ranges: Iterable[Range]) -> Iterator[Prefix]:
    """Yield the fewest CIDRs that are the same addresses, of each range in turn."""
    for item in ranges:
        for first, length in aligned_blocks(item.first, item.last, ADDRESS_BITS[item.family]):
            yield Prefix(item.family, first, length)
