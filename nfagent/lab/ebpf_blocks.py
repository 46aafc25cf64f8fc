"""The map of ipBlocks: CIDR to the identity of all ipBlocks that cover it. Pure.

A trie finds the longest CIDR that has an address. So every CIDR has the identity of all ipBlocks that cover it: those
of its own, and those of the wider CIDRs around it, as Cilium gives a CIDR the labels of every CIDR around it. CIDRs
with the same ipBlocks share one identity: a list of 10,000 CIDRs of one rule has one.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Iterable
from itertools import count
from typing import TypeAlias

from nfagent.lab.ebpf_prefixes import Prefix, prefixes
from nfagent.model.netaddr import FAMILIES, Family
from nfagent.model.ref_counts import RefCounts
from nfagent.policy.compiler import CIDRSet

Cover: TypeAlias = frozenset[CIDRSet]
"""The ipBlocks that cover a CIDR."""


class BlockTable:
    """The CIDRs of the ipBlocks in use, and their identities.

    numbers: ipBlocks that cover the same CIDRs -> their identity
    """

    def __init__(self, identities: count[int]) -> None:
        """Start without ipBlocks; `identities` gives new numbers."""
        self._identities = identities
        self.numbers: dict[Cover, int] = {}
        self._users: RefCounts[Cover] = RefCounts()
        self._own: dict[Prefix, set[CIDRSet]] = {}
        self._covers: dict[Prefix, Cover] = {}
        self._sorted: dict[Family, list[Prefix]] = {family: [] for family in FAMILIES}
        self._lengths: dict[Family, RefCounts[int]] = {family: RefCounts() for family in FAMILIES}
        self._before: dict[Prefix, int | None] = {}
        self._dirty: set[Prefix] = set()

    def add(self, block: CIDRSet) -> None:
        """Add the CIDRs of a rule's ipBlocks."""
        found = list(prefixes(block.ranges))
        new = [prefix for prefix in found if prefix not in self._own]
        for prefix in new:
            self._own[prefix] = set()
            self._lengths[prefix.family].acquire(prefix.length)
        for family in FAMILIES:
            added = [prefix for prefix in new if prefix.family == family]
            if added:
                self._sorted[family] += added
                self._sorted[family].sort()
        for prefix in found:
            self._own[prefix].add(block)
        self._mark(found)

    def remove(self, block: CIDRSet) -> None:
        """Remove the CIDRs of a rule's ipBlocks."""
        found = list(prefixes(block.ranges))
        self._mark(found)
        gone = set()
        for prefix in found:
            self._own[prefix].discard(block)
            if not self._own[prefix]:
                del self._own[prefix]
                self._lengths[prefix.family].release(prefix.length)
                gone.add(prefix)
        for family in FAMILIES:
            if any(prefix.family == family for prefix in gone):
                self._sorted[family] = [prefix for prefix in self._sorted[family] if prefix not in gone]

    def drain(self) -> tuple[dict[Prefix, int], set[Prefix]]:
        """Return the CIDRs whose identity changed since the last call: those with a new one, those without any.

        `numbers` has the identities of both, new and old, until `forget`.
        """
        for prefix in self._dirty:
            self._before.setdefault(prefix, self._number(prefix))
            self._cover(prefix)
        self._dirty.clear()
        changed = {prefix: self._number(prefix) for prefix in self._before}
        before, self._before = self._before, {}
        puts = {prefix: now for prefix, now in changed.items() if now is not None and now != before[prefix]}
        return puts, {prefix for prefix, now in changed.items() if now is None and before[prefix] is not None}

    def forget(self) -> list[int]:
        """Forget the identities that no CIDR has any more, and return them."""
        gone = [cover for cover in self.numbers if cover not in self._users]
        return [self.numbers.pop(cover) for cover in gone]

    def _number(self, prefix: Prefix) -> int | None:
        cover = self._covers.get(prefix)
        return None if cover is None else self.numbers[cover]

    def _mark(self, changed: Iterable[Prefix]) -> None:
        """Mark CIDRs with all the CIDRs inside of them."""
        for prefix in changed:
            self._dirty.add(prefix)
            known = self._sorted[prefix.family]
            start = bisect_left(known, Prefix(prefix.family, prefix.first, prefix.length))
            end = bisect_right(known, prefix.last, start, key=_first)
            self._dirty.update(known[start:end])

    def _cover(self, prefix: Prefix) -> None:
        """Compute the ipBlocks that cover a CIDR, and give them an identity."""
        before = self._covers.pop(prefix, None)
        if prefix in self._own:
            around = (prefix.shortened(length) for length in self._lengths[prefix.family] if length <= prefix.length)
            now = frozenset(block for wider in around for block in self._own.get(wider, ()))
            self._covers[prefix] = now
            if now not in self.numbers:
                self.numbers[now] = next(self._identities)
            self._users.acquire(now)
        if before is not None:
            self._users.release(before)


def _first(prefix: Prefix) -> int:
    return prefix.first
