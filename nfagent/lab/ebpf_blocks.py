"""The map of ipBlocks: CIDR to the identity of all ipBlocks that cover it. Pure.

A trie finds the longest CIDR that has an address. So every CIDR has the identity of all ipBlocks that cover it: those
of its own, and those of the wider CIDRs around it, as Cilium gives a CIDR the labels of every CIDR around it. CIDRs
with the same ipBlocks share one identity: a list of 10,000 CIDRs of one rule has one.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Iterable, Iterator
from itertools import count
from typing import TypeAlias

import msgspec

from nfagent.lab.ebpf_prefixes import BITS, Prefix, prefixes
from nfagent.model.netaddr import FAMILIES, Family, Range
from nfagent.model.objects import Direction, ObjectRef
from nfagent.model.ref_counts import RefCounts
from nfagent.policy.compiler import CIDRSet


class BlockRef(msgspec.Struct, frozen=True, order=True, cache_hash=True):
    """The ipBlocks of one rule: a change of a long list is a change of as many entries."""

    policy: ObjectRef
    direction: Direction
    index: int


BlockKey: TypeAlias = CIDRSet | BlockRef
"""How ipBlocks are known: few ranges by themselves, which many policies may have; a long list by its rule."""

Cover: TypeAlias = frozenset[BlockKey]
"""The ipBlocks that cover a CIDR."""

SHORT = 16
"""Up to so many ranges are known by themselves."""

_NONE: Cover = frozenset()
_SWEEP = 8
"""From one of so many CIDRs on, it is faster to find the rules of all in one pass."""


class BlockTable:
    """The CIDRs of the ipBlocks in use, and their identities.

    numbers: ipBlocks that cover the same CIDRs -> their identity
    """

    def __init__(self, identities: count[int]) -> None:
        """Start without ipBlocks; `identities` gives new numbers."""
        self._identities = identities
        self.numbers: dict[Cover, int] = {}
        self._users: RefCounts[Cover] = RefCounts()
        self._prefixes: dict[BlockKey, tuple[tuple[Range, ...], frozenset[Prefix]]] = {}
        self._families = {family: _FamilyTable(family) for family in FAMILIES}
        self._dirty: set[Prefix] = set()
        self._covers: dict[Prefix, Cover] = {}

    def put(self, ref: BlockKey, ranges: tuple[Range, ...]) -> None:
        """Set the CIDRs of a rule's ipBlocks: disjoint ranges."""
        known, before = self._prefixes.get(ref, ((), frozenset()))
        if before and (known is ranges or known == ranges):
            return
        after = frozenset(prefixes(ranges))
        self._prefixes[ref] = (ranges, after)
        self._change(ref, before - after, joined=False)
        self._change(ref, after - before, joined=True)

    def remove(self, ref: BlockKey) -> None:
        """Remove the CIDRs of a rule's ipBlocks."""
        _, before = self._prefixes.pop(ref)
        self._change(ref, before, joined=False)

    def drain(self) -> tuple[dict[Prefix, int], set[Prefix]]:
        """Return the CIDRs whose identity changed since the last call: those with a new one, those without any.

        `numbers` has the identities of both, new and old, until `forget`.
        """
        puts: dict[Prefix, int] = {}
        deletes: set[Prefix] = set()
        found = (item for table in self._families.values() for item in table.covers(self._dirty))
        for prefix, after in found:
            before = self._covers.get(prefix)
            if after is before or after == before:
                continue
            if after is None:
                del self._covers[prefix]
                deletes.add(prefix)
            else:
                if after not in self.numbers:
                    self.numbers[after] = next(self._identities)
                self._users.acquire(after)
                self._covers[prefix] = after
                puts[prefix] = self.numbers[after]
            if before is not None:
                self._users.release(before)
        self._dirty.clear()
        return puts, deletes

    def forget(self) -> list[int]:
        """Forget the identities that no CIDR has any more, and return them."""
        gone = [cover for cover in self.numbers if cover not in self._users]
        return [self.numbers.pop(cover) for cover in gone]

    def _change(self, ref: BlockKey, changed: frozenset[Prefix], *, joined: bool) -> None:
        """Add a rule to CIDRs or remove it, and mark these with all CIDRs inside of them."""
        self._dirty |= changed
        for family, table in self._families.items():
            found = [prefix for prefix in changed if prefix.family == family] if changed else []
            if found:
                table.change(ref, found, joined=joined)
                self._dirty.update(Prefix(family, *inside) for prefix in found for inside in table.inside(prefix))


class _FamilyTable:
    """The CIDRs of one family with the rules whose own they are."""

    def __init__(self, family: Family) -> None:
        self._family: Family = family
        self._bits = BITS[family]
        # Prefix length -> first address -> the rules; and all of them as numbers, sorted: first address, then length.
        self._own: dict[int, dict[int, Cover]] = {}
        self._sorted: list[int] = []
        self._shared: dict[Cover, Cover] = {}

    def change(self, ref: BlockKey, changed: Iterable[Prefix], *, joined: bool) -> None:
        """Add a rule to CIDRs, or remove it."""
        only = frozenset((ref,))
        appeared: list[int] = []
        vanished: set[int] = set()
        for prefix in changed:
            table = self._own.setdefault(prefix.length, {})
            before = table.get(prefix.first, _NONE)
            after = (before | only if before else only) if joined else before - only
            if after:
                table[prefix.first] = self._shared.setdefault(after, after)
            else:
                del table[prefix.first]
                vanished.add(_code(prefix))
                if not table:
                    del self._own[prefix.length]
            if not before:
                appeared.append(_code(prefix))
        if appeared:
            self._sorted += appeared
            self._sorted.sort()
        if vanished:
            self._sorted = [code for code in self._sorted if code not in vanished]
        if not self._sorted:
            self._shared.clear()

    def inside(self, prefix: Prefix) -> Iterator[tuple[int, int]]:
        """Yield first address and length of the CIDRs within one, itself excepted."""
        start = bisect_right(self._sorted, _code(prefix))
        end = bisect_left(self._sorted, (prefix.last + 1) << 8, start)
        for code in self._sorted[start:end]:
            yield code >> 8, code & 0xFF

    def covers(self, dirty: set[Prefix]) -> Iterator[tuple[Prefix, Cover | None]]:
        """Yield the rules that cover each of these CIDRs of this family; None for a CIDR that is no rule's own."""
        wanted = [prefix for prefix in dirty if prefix.family == self._family]
        if len(wanted) * _SWEEP < len(self._sorted):
            yield from ((prefix, self._cover(prefix)) for prefix in wanted)
            return
        found = self._all_covers()
        yield from ((prefix, found.get(_code(prefix))) for prefix in wanted)

    def _all_covers(self) -> dict[int, Cover]:
        """Return the rules that cover every CIDR. In order, those around one begin before it, and aren't over yet."""
        found: dict[int, Cover] = {}
        around: list[tuple[int, Cover]] = []  # last address, rules
        unions: dict[tuple[int, int], Cover] = {}  # by the identity of both parts: thousands of CIDRs have the same
        for code in self._sorted:
            first, length = code >> 8, code & 0xFF
            while around and around[-1][0] < first:
                around.pop()
            own = self._own[length][first]
            if around:
                wider = around[-1][1]
                both = unions.get((id(own), id(wider)))
                own = unions[id(own), id(wider)] = both if both is not None else own | wider
            found[code] = own
            around.append((first | ((1 << (self._bits - length)) - 1), own))
        return found

    def _cover(self, prefix: Prefix) -> Cover | None:
        own = self._own.get(prefix.length, {}).get(prefix.first)
        for length, table in self._own.items() if own is not None else ():
            if length < prefix.length:
                host = self._bits - length
                wider = table.get(prefix.first >> host << host)
                if wider is not None and own is not None and not wider <= own:
                    own |= wider
        return own


def _code(prefix: Prefix) -> int:
    return prefix.first << 8 | prefix.length
