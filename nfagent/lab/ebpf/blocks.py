"""The map of ipBlocks: CIDR to the identity of all ipBlocks that cover it. Pure.

A trie finds the longest CIDR that has an address. So every CIDR has the identity of all ipBlocks that cover it: those
of its own, and those of the wider CIDRs around it, as Cilium gives a CIDR the labels of every CIDR around it. CIDRs
with the same ipBlocks share one identity: a list of 10,000 CIDRs of one rule has one.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections import Counter
from itertools import count
from typing import TypeAlias

import msgspec

from nfagent.lab.ebpf.prefixes import Prefix
from nfagent.model.netaddr import ADDRESS_BITS, FAMILIES, Family, Range, aligned_blocks
from nfagent.model.objects import Direction, ObjectRef
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
_MOST_UNIONS = 10_000
_SWEEP = 8
"""Where more than one of so many CIDRs changed, the rules of all are found in one pass."""


class BlockTable:
    """The CIDRs of the ipBlocks in use, and their identities.

    numbers: ipBlocks that cover the same CIDRs -> their identity
    """

    def __init__(self, identities: count[int]) -> None:
        """Start without ipBlocks; `identities` gives new numbers."""
        self._identities = identities
        self.numbers: dict[Cover, int] = {}
        self._users: Counter[Cover] = Counter()
        self._known: dict[BlockKey, tuple[Range, ...]] = {}
        self._families = {family: _FamilyTable(family) for family in FAMILIES}

    def put(self, key: BlockKey, ranges: tuple[Range, ...]) -> None:
        """Set the CIDRs of a rule's ipBlocks: disjoint ranges."""
        known = self._known.get(key)
        if known is ranges or known == ranges:
            return
        self._known[key] = ranges
        for table in self._families.values():
            before = table.codes(known or ())
            after = table.codes(ranges)
            table.change(key, before - after, joined=False)
            table.change(key, after - before, joined=True)

    def remove(self, key: BlockKey) -> None:
        """Remove the CIDRs of a rule's ipBlocks."""
        ranges = self._known.pop(key)
        for table in self._families.values():
            table.change(key, table.codes(ranges), joined=False)

    def drain(self) -> tuple[dict[Prefix, int], set[Prefix]]:
        """Return the CIDRs whose identity changed since the last call: those with a new one, those without any.

        `numbers` has the identities of both, new and old, until `forget`.
        """
        puts: dict[Prefix, int] = {}
        deletes: set[Prefix] = set()
        for family, table in self._families.items():
            joined, left, gone = table.drain()
            self._users.update(joined.values())
            self._users.subtract(left)
            for cover in set(joined.values()) - self.numbers.keys():
                self.numbers[cover] = next(self._identities)
            puts |= {Prefix(family, code >> 8, code & 0xFF): self.numbers[cover] for code, cover in joined.items()}
            deletes.update(Prefix(family, code >> 8, code & 0xFF) for code in gone)
        return puts, deletes

    def forget(self) -> list[int]:
        """Forget the identities that no CIDR has any more, and return them."""
        gone = [cover for cover in self.numbers if not self._users[cover]]
        for cover in gone:
            del self._users[cover]
        return [self.numbers.pop(cover) for cover in gone]


class _FamilyTable:
    """The CIDRs of one family, as numbers that sort like them: first address, then prefix length."""

    def __init__(self, family: Family) -> None:
        self._family = family
        self._bits = ADDRESS_BITS[family]
        # The last address of a CIDR is its first one with these bits set, by prefix length.
        self._hosts = [(1 << (self._bits - length)) - 1 for length in range(self._bits + 1)]
        self._own: dict[int, Cover] = {}
        self._sorted: list[int] = []
        self._lengths: Counter[int] = Counter()
        self._dirty: set[int] = set()
        self._written: dict[int, Cover] = {}
        # Thousands of CIDRs have the same rules: each combination is made once.
        self._unions: dict[tuple[Cover, Cover], Cover] = {}

    def codes(self, ranges: tuple[Range, ...]) -> set[int]:
        """Return the CIDRs of ranges of this family."""
        own = (item for item in ranges if item.family == self._family)
        return {
            first << 8 | length for item in own for first, length in aligned_blocks(item.first, item.last, self._bits)
        }

    def change(self, key: BlockKey, changed: set[int], *, joined: bool) -> None:
        """Add a rule to CIDRs or remove it, and mark these with all CIDRs inside of them."""
        if not changed:
            return
        only = frozenset((key,))
        appeared: list[int] = []
        vanished: set[int] = set()
        for code in changed:
            before = self._own.get(code, _NONE)
            after = (self._union(before, only) if before else only) if joined else before - only
            if not before:
                appeared.append(code)
            if after:
                self._own[code] = after
            else:
                del self._own[code]
                vanished.add(code)
        self._lengths.update(code & 0xFF for code in appeared)
        self._lengths.subtract(code & 0xFF for code in vanished)
        self._mark(changed)
        if appeared:
            self._sorted += appeared
            self._sorted.sort()
        if vanished:
            self._sorted = [code for code in self._sorted if code not in vanished]

    def drain(self) -> tuple[dict[int, Cover], list[Cover], list[int]]:
        """Return the CIDRs with other rules than before, the rules that CIDRs had, and the CIDRs that are gone."""
        joined: dict[int, Cover] = {}
        left: list[Cover] = []
        gone: list[int] = []
        whole = self._all_covers() if self._is_much(self._dirty) else None
        for code in self._dirty:
            before = self._written.get(code)
            after = self._cover(code) if whole is None else whole.get(code)
            if after is before or after == before:
                continue
            if before is not None:
                left.append(before)
            if after is not None:
                self._written[code] = joined[code] = after
            else:
                del self._written[code]
                gone.append(code)
        self._dirty.clear()
        if len(self._unions) > _MOST_UNIONS:
            self._unions.clear()
        return joined, left, gone

    def _mark(self, changed: set[int]) -> None:
        self._dirty |= changed
        if self._is_much(changed):
            self._dirty.update(self._sorted)
            return
        for code in changed:
            start = bisect_right(self._sorted, code)
            end = bisect_left(self._sorted, ((code >> 8 | self._hosts[code & 0xFF]) + 1) << 8, start)
            self._dirty.update(self._sorted[start:end])

    def _is_much(self, part: set[int]) -> bool:
        return len(part) * _SWEEP > len(self._sorted)

    def _union(self, one: Cover, other: Cover) -> Cover:
        found = self._unions.get((one, other))
        if found is None:
            found = self._unions[one, other] = one | other
        return found

    def _all_covers(self) -> dict[int, Cover]:
        """Return the rules that cover every CIDR. In order, those around one begin before it, and aren't over yet."""
        found: dict[int, Cover] = {}
        around: list[tuple[int, Cover]] = []  # last address, rules
        for code in self._sorted:
            first, cover = code >> 8, self._own[code]
            while around and around[-1][0] < first:
                around.pop()
            if around:
                cover = self._union(cover, around[-1][1])
            found[code] = cover
            around.append((first | self._hosts[code & 0xFF], cover))
        return found

    def _cover(self, code: int) -> Cover | None:
        cover = self._own.get(code)
        first, length = code >> 8, code & 0xFF
        for wider, used in self._lengths.items() if cover is not None else ():
            if used and wider < length:
                around = self._own.get((first & ~self._hosts[wider]) << 8 | wider)
                if around is not None and cover is not None:
                    cover = self._union(cover, around)
        return cover
