"""The desired ruleset, and the changes to it that are not committed yet.

Elements are counted by the Pods that they belong to; the callers count what chains name. The first change of an object
after a `drain_changes` records its previous state, so `drain_changes` reads only what changed.
"""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Iterable, Mapping

import msgspec

from nfagent.model.netaddr import Family
from nfagent.model.ref_counts import RefCounts
from nfagent.nftables.objects import Chain, Element, NamedSet, Ruleset, VerdictMap


class TrackedSet:
    """A set's shape, and its elements with the number of Pods that each belongs to.

    whole: the set as a value; None after a change, until it is needed
    """

    __slots__ = ("elements", "shape", "whole")

    def __init__(self, shape: NamedSet) -> None:
        """Start without elements."""
        self.shape = shape
        self.elements: RefCounts[Element] = RefCounts()
        self.whole: NamedSet | None = None


class RulesetTracker:
    """The desired sets, maps, chains and counters, with the previous state of those that changed."""

    def __init__(self) -> None:
        """Start with an empty table."""
        self.sets: dict[str, TrackedSet] = {}
        self.maps: dict[str, VerdictMap] = {}
        self.chains: dict[str, Chain] = {}
        self.counters: set[str] = set()
        # The previous state of what changed since the last `drain_changes`: None for what did not exist.
        self._set_before: dict[str, NamedSet | None] = {}
        self._elements_before: dict[str, dict[Element, bool]] = {}
        self._map_before: dict[str, dict[str, str | None]] = {}
        # Whether a map was added since (else removed); and the families of removed maps.
        self._map_made: dict[str, bool] = {}
        self._families: dict[str, Family] = {}
        self._chain_before: dict[str, Chain | None] = {}
        self._counter_before: dict[str, bool] = {}

    def add_set(self, name: str, shape: NamedSet, elements: Iterable[Element] = ()) -> None:
        """Add a set, with the elements of its shape and further ones; one that occurs twice has two users."""
        self._set_before.setdefault(name, None)
        live = self.sets[name] = TrackedSet(msgspec.structs.replace(shape, elements=frozenset()))
        for element in itertools.chain(shape.elements, elements):
            live.elements.acquire(element)

    def drop_set(self, name: str) -> None:
        """Remove a set with its elements."""
        live = self.sets.pop(name)
        if name not in self._set_before:
            changed = self._elements_before.get(name, {})
            before = {element for element in live.elements if changed.get(element, True)}
            before |= {element for element, was in changed.items() if was}
            self._set_before[name] = msgspec.structs.replace(live.shape, elements=frozenset(before))
        self._elements_before.pop(name, None)

    def recount(self, name: str, elements: Iterable[Element]) -> None:
        """Replace the elements of a set; an element that occurs twice has two users."""
        live = self.sets[name]
        wanted: RefCounts[Element] = RefCounts(Counter(elements))
        for element in live.elements.keys() - wanted.keys():
            self._note_element(name, element, was=True)
        for element in wanted.keys() - live.elements.keys():
            self._note_element(name, element, was=False)
        live.elements = wanted

    def add(self, name: str, element: Element) -> None:
        """Add one user of an element; the first one adds it."""
        if self.sets[name].elements.acquire(element):
            self._note_element(name, element, was=False)

    def add_committed(self, name: str, element: Element) -> None:
        """Add an element that the caller commits, so that `drain_changes` omits it."""
        live = self.sets[name]
        live.whole = None
        live.elements.acquire(element)

    def remove(self, name: str, element: Element) -> None:
        """Remove one user of an element; the last one removes it."""
        if self.sets[name].elements.release(element):
            self._note_element(name, element, was=True)

    def add_map(self, name: str, family: Family) -> None:
        """Add an empty verdict map."""
        self._map_made.setdefault(name, True)
        self._map_before.setdefault(name, {})
        self.maps[name] = VerdictMap(family, {})

    def drop_map(self, name: str) -> None:
        """Remove an empty verdict map."""
        self._map_made.setdefault(name, False)
        self._map_before.setdefault(name, {})
        self._families[name] = self.maps.pop(name).family

    def map_to(self, name: str, address: str, chain: str | None) -> None:
        """Map an address to a chain; None removes it from the map."""
        elements = self.maps[name].elements
        before = elements.get(address)
        if before == chain:
            return
        self._map_before.setdefault(name, {}).setdefault(address, before)
        if chain is None:
            del elements[address]
        else:
            elements[address] = chain

    def put_chain(self, name: str, chain: Chain) -> None:
        """Add or replace a chain."""
        before = self.chains.get(name)
        if before != chain:
            self._chain_before.setdefault(name, before)
            self.chains[name] = chain

    def drop_chain(self, name: str) -> None:
        """Remove a chain."""
        before = self.chains.pop(name)
        self._chain_before.setdefault(name, before)

    def put_counter(self, name: str) -> None:
        """Add a named counter."""
        if name not in self.counters:
            self._counter_before.setdefault(name, False)
            self.counters.add(name)

    def drop_counter(self, name: str) -> None:
        """Remove a named counter, if it exists."""
        if name in self.counters:
            self._counter_before.setdefault(name, True)
            self.counters.discard(name)

    def mark_synced(self) -> None:
        """Discard pending changes: the caller compares the kernel's whole table with `ruleset`."""
        self._set_before.clear()
        self._elements_before.clear()
        self._map_before.clear()
        self._map_made.clear()
        self._families.clear()
        self._chain_before.clear()
        self._counter_before.clear()

    @property
    def dirty(self) -> bool:
        """Return whether there are changes."""
        return bool(
            self._set_before or self._elements_before or self._map_before or self._chain_before or self._counter_before
        )

    def changes(self) -> tuple[Ruleset, Ruleset]:
        """Return the changed part of the ruleset, before and after: `diff` of the two is the whole change."""
        sets_before = {name: item for name, item in self._set_before.items() if item is not None}
        sets_after = {name: _whole(self.sets[name]) for name in self._set_before if name in self.sets}
        for name, changed in self._elements_before.items():
            live = self.sets[name]
            was = frozenset(element for element, there in changed.items() if there)
            now = frozenset(element for element in changed if element in live.elements)
            sets_before[name] = msgspec.structs.replace(live.shape, elements=was)
            sets_after[name] = msgspec.structs.replace(live.shape, elements=now)
        maps = self._map_before.items()
        maps_before = {name: self._part(name, changed) for name, changed in maps if not self._map_made.get(name)}
        maps_after = {name: self._part(name, self._now(name, changed)) for name, changed in maps if name in self.maps}
        chains_before = {name: chain for name, chain in self._chain_before.items() if chain is not None}
        chains_after = {name: self.chains[name] for name in self._chain_before if name in self.chains}
        counters_before = frozenset(name for name, was in self._counter_before.items() if was)
        counters_after = frozenset(name for name in self._counter_before if name in self.counters)
        return (
            Ruleset(sets_before, maps_before, chains_before, counters_before),
            Ruleset(sets_after, maps_after, chains_after, counters_after),
        )

    def sizes(self) -> dict[str, int]:
        """Return the number of objects of each type; elements are those of sets and maps."""
        elements = sum(len(live.elements) for live in self.sets.values())
        return {
            "chain": len(self.chains),
            "rule": sum(len(chain.rules) for chain in self.chains.values()),
            "set": len(self.sets),
            "element": elements + sum(len(item.elements) for item in self.maps.values()),
            "map": len(self.maps),
            "counter": len(self.counters),
        }

    def part(self, chains: Iterable[str], sets: Iterable[str]) -> Ruleset:
        """Return those of these chains and sets that exist."""
        return Ruleset(
            {name: _whole(self.sets[name]) for name in sets if name in self.sets},
            chains={name: self.chains[name] for name in chains if name in self.chains},
        )

    def ruleset(self) -> Ruleset:
        """Return the whole ruleset, as a copy."""
        return Ruleset(
            {name: _whole(live) for name, live in self.sets.items()},
            {name: VerdictMap(item.family, dict(item.elements)) for name, item in self.maps.items()},
            dict(self.chains),
            frozenset(self.counters),
        )

    def _note_element(self, name: str, element: Element, *, was: bool) -> None:
        self.sets[name].whole = None
        if name in self._set_before:
            return  # the set was added since: all its elements are new
        changed = self._elements_before.setdefault(name, {})
        if element in changed:
            if changed[element] != was:  # back to its previous state
                del changed[element]
                if not changed:
                    del self._elements_before[name]
        else:
            changed[element] = was

    def _now(self, name: str, addresses: Iterable[str]) -> dict[str, str | None]:
        elements = self.maps[name].elements
        return {address: elements.get(address) for address in addresses}

    def _part(self, name: str, elements: Mapping[str, str | None]) -> VerdictMap:
        there = {address: chain for address, chain in elements.items() if chain is not None}
        family = self.maps[name].family if name in self.maps else self._families[name]
        return VerdictMap(family, there)


def _whole(live: TrackedSet) -> NamedSet:
    if live.whole is None:
        live.whole = msgspec.structs.replace(live.shape, elements=frozenset(live.elements))
    return live.whole
