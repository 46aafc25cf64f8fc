"""The wanted ruleset, kept up to date by small changes, and what of it the kernel has not been told yet.

Everything in here is counted by its users: an element by the Pods that bring it, a set, an outcome chain or a
counter by the chains that name it. What nobody uses any more is gone. The first touch of a thing after the
last `take` notes how it was, so `take` looks at what was touched, however much else there is.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping

import msgspec

from nfagent.model.netaddr import Family
from nfagent.nftables.diff import diff
from nfagent.nftables.objects import Chain, Element, NamedSet, Ruleset, VerdictMap
from nfagent.nftables.transaction import Transaction


class TrackedSet:
    """A set's shape, and its elements with the number of Pods that bring each.

    whole: the set as a value, None after a change; made when somebody asks for it
    """

    __slots__ = ("elements", "shape", "whole")

    def __init__(self, shape: NamedSet) -> None:
        """Start without elements."""
        self.shape = shape
        self.elements: dict[Element, int] = {}
        self.whole: NamedSet | None = None


class RulesetTracker:
    """Sets, maps, chains and counters as they must be."""

    def __init__(self) -> None:
        """Start with an empty table."""
        self.sets: dict[str, TrackedSet] = {}
        self.maps: dict[str, VerdictMap] = {}
        self.chains: dict[str, Chain] = {}
        self.counters: set[str] = set()
        # What was touched since the last `take`, as it was before: None for what was not there.
        self._set_before: dict[str, NamedSet | None] = {}
        self._elements_before: dict[str, dict[Element, bool]] = {}
        self._map_before: dict[str, dict[str, str | None]] = {}
        # Whether a map was made since, or dropped; and the families of those that were dropped.
        self._map_made: dict[str, bool] = {}
        self._families: dict[str, Family] = {}
        self._chain_before: dict[str, Chain | None] = {}
        self._counter_before: dict[str, bool] = {}

    def add_set(self, name: str, shape: NamedSet) -> None:
        """Make a set; its elements follow by `add`."""
        self._set_before.setdefault(name, None)
        self.sets[name] = TrackedSet(msgspec.structs.replace(shape, elements=frozenset()))
        for element in shape.elements:
            self.add(name, element)

    def drop_set(self, name: str) -> None:
        """Drop a set with its elements."""
        live = self.sets.pop(name)
        if name not in self._set_before:
            touched = self._elements_before.get(name, {})
            before = {element for element in live.elements if touched.get(element, True)}
            before |= {element for element, was in touched.items() if was}
            self._set_before[name] = msgspec.structs.replace(live.shape, elements=frozenset(before))
        self._elements_before.pop(name, None)

    def recount(self, name: str, elements: Iterable[Element]) -> None:
        """Give a set new elements, each as often as it comes."""
        live, wanted = self.sets[name], Counter(elements)
        for element in live.elements.keys() - wanted.keys():
            self._touch(name, element, was=True)
        for element in wanted.keys() - live.elements.keys():
            self._touch(name, element, was=False)
        live.elements = dict(wanted)

    def add(self, name: str, element: Element) -> None:
        """Count one more Pod that brings an element."""
        elements = self.sets[name].elements
        count = elements.get(element, 0)
        if not count:
            self._touch(name, element, was=False)
        elements[element] = count + 1

    def add_told(self, name: str, element: Element) -> None:
        """Add an element that somebody tells the kernel by other means than `take`."""
        live = self.sets[name]
        live.whole = None
        live.elements[element] = live.elements.get(element, 0) + 1

    def remove(self, name: str, element: Element) -> None:
        """Count one Pod less; the last takes the element away."""
        elements = self.sets[name].elements
        elements[element] -= 1
        if not elements[element]:
            del elements[element]
            self._touch(name, element, was=True)

    def add_map(self, name: str, family: Family) -> None:
        """Make a verdict map; its elements follow by `map_to`."""
        self._map_made.setdefault(name, True)
        self._map_before.setdefault(name, {})
        self.maps[name] = VerdictMap(family, {})

    def drop_map(self, name: str) -> None:
        """Drop a verdict map that has no elements any more."""
        self._map_made.setdefault(name, False)
        self._map_before.setdefault(name, {})
        self._families[name] = self.maps.pop(name).family

    def map_to(self, name: str, address: str, chain: str | None) -> None:
        """Point an address to a chain; None takes it out of the map."""
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
        """Make a chain, or give it other rules."""
        before = self.chains.get(name)
        if before != chain:
            self._chain_before.setdefault(name, before)
            self.chains[name] = chain

    def drop_chain(self, name: str) -> None:
        """Drop a chain."""
        before = self.chains.pop(name)
        self._chain_before.setdefault(name, before)

    def put_counter(self, name: str) -> None:
        """Make a named counter."""
        if name not in self.counters:
            self._counter_before.setdefault(name, False)
            self.counters.add(name)

    def drop_counter(self, name: str) -> None:
        """Drop a named counter."""
        self.counters.discard(name)
        self._counter_before.setdefault(name, True)

    def take(self) -> Transaction:
        """Give what changed since the last `take` or `settle`, and consider it told."""
        before, after = self.changes()
        self.settle()
        return diff(before, after)

    def settle(self) -> None:
        """Consider everything told: the kernel is compared with `ruleset` as a whole."""
        self._set_before.clear()
        self._elements_before.clear()
        self._map_before.clear()
        self._map_made.clear()
        self._families.clear()
        self._chain_before.clear()
        self._counter_before.clear()

    @property
    def touched(self) -> bool:
        """Tell whether anything was touched since."""
        return bool(
            self._set_before or self._elements_before or self._map_before or self._chain_before or self._counter_before
        )

    def changes(self) -> tuple[Ruleset, Ruleset]:
        """Give the touched part of the ruleset, as it was and as it is: `diff` of the two is the whole change."""
        sets_before = {name: item for name, item in self._set_before.items() if item is not None}
        sets_after = {name: _whole(self.sets[name]) for name in self._set_before if name in self.sets}
        for name, touched in self._elements_before.items():
            live = self.sets[name]
            was = frozenset(element for element, there in touched.items() if there)
            now = frozenset(element for element in touched if element in live.elements)
            sets_before[name] = msgspec.structs.replace(live.shape, elements=was)
            sets_after[name] = msgspec.structs.replace(live.shape, elements=now)
        maps = self._map_before.items()
        maps_before = {name: self._part(name, touched) for name, touched in maps if not self._map_made.get(name)}
        maps_after = {name: self._part(name, self._now(name, touched)) for name, touched in maps if name in self.maps}
        chains_before = {name: chain for name, chain in self._chain_before.items() if chain is not None}
        chains_after = {name: self.chains[name] for name in self._chain_before if name in self.chains}
        counters_before = frozenset(name for name, was in self._counter_before.items() if was)
        counters_after = frozenset(name for name in self._counter_before if name in self.counters)
        return (
            Ruleset(sets_before, maps_before, chains_before, counters_before),
            Ruleset(sets_after, maps_after, chains_after, counters_after),
        )

    def ruleset(self) -> Ruleset:
        """Give everything, as a value of its own."""
        return Ruleset(
            {name: _whole(live) for name, live in self.sets.items()},
            {name: VerdictMap(item.family, dict(item.elements)) for name, item in self.maps.items()},
            dict(self.chains),
            frozenset(self.counters),
        )

    def _touch(self, name: str, element: Element, *, was: bool) -> None:
        self.sets[name].whole = None
        if name in self._set_before:
            return  # made since: all its elements are new
        touched = self._elements_before.setdefault(name, {})
        if element in touched:
            if touched[element] != was:  # back to how it was
                del touched[element]
                if not touched:
                    del self._elements_before[name]
        else:
            touched[element] = was

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
