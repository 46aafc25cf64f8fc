"""How a change of verdict maps reaches packets: what it does for each address, and when.

An address leads to the first chain of its group whose set has it; without one nothing judges it, and it is accepted.
It joins sets before the restore of the chains, and leaves sets behind it: at one of these three moments it gets its new
chain. A packet is allowed where both of its ends allow it. So it has the old verdict or the new one at any moment if
what only takes away is first, what only gives is last, and all else is at one moment: the restore, or that of one
address.
"""

from __future__ import annotations

import functools
from collections.abc import Iterable, Iterator
from typing import Literal, TypeAlias

import msgspec

from nfagent.model.netaddr import Family
from nfagent.xtables.dispatch import dispatch_level, group_of, group_readings
from nfagent.xtables.objects import ChainKey, SetMember, XtRuleset
from nfagent.xtables.references import Difference, References
from nfagent.xtables.steps import AddMember, DeleteMember
from nfagent.xtables.target_chains import Way, union, way_between

_Moment: TypeAlias = Literal["before", "restore", "behind"]
_Element: TypeAlias = tuple[str, str]
"""The map of an address, and the address."""
_PHASES: dict[Way, int] = {"none": 0, "takes": 0, "both": 1, "gives": 2}
_PLACES: dict[_Moment, int] = {"before": 0, "restore": 3, "behind": 4}
_LAST = 7
_ALL_LEVELS = (0, 1, 2)
_BEGINS, _ENDS, _MOVES = _KNOWN = ((_ALL_LEVELS, ()), ((), _ALL_LEVELS), ((0,), (0,)))
"""Levels of the sets that an address joins and leaves: it is newly judged, no longer, or by another chain."""
_Leaves: TypeAlias = dict[str, tuple[int, ChainKey]]
"""By set: the place of its rule in the chain of a group, and the chain that the rule leads to."""


class SetChange(msgspec.Struct, frozen=True):
    """A set that is there before and after, with other members."""

    name: str
    origin: str
    added: frozenset[SetMember]
    deleted: frozenset[SetMember]


class _Move(msgspec.Struct, frozen=True):
    """An address of a map gets another chain, for packets of one direction."""

    element: _Element
    way: Way
    moment: _Moment

    @property
    def place(self) -> int:
        """The place in the order of all moves."""
        return _PLACES[self.moment] + (0 if self.moment == "restore" else _PHASES[self.way])


class Judged:
    """What changes in the verdict maps of a family.

    way:       what it does
    addresses: those that it does it to
    """

    def __init__(
        self, before: References, after: References, change: Difference, family: Family, changes: Iterable[SetChange]
    ) -> None:
        """Read the maps. changes: the sets of maps that are there before and after."""
        self._old, self._new, self._family = before.ruleset, after.ruleset, family
        self._changes = tuple(changes)
        self._leaves = functools.cache(self._leaves_of)
        self._level: dict[str, int] = {}
        self._way_between = functools.cache(self._compared)
        self._come, self._go = self._memberships(before, after, change)
        self._ways = {element: self._way(element) for element in self._come.keys() | self._go.keys()}
        self.addresses = frozenset(address for _, address in self._ways)
        self.way: Way = functools.reduce(union, self._ways.values(), "none")

    @functools.cached_property
    def in_order(self) -> bool:
        """Whether `additions`, the restore and `deletions` are right for every packet."""
        return all(map(self._is_known, self._ways)) and _are_in_order(
            [_Move(element, way, moment) for element, way in self._ways.items() for moment in self._moments(element)]
        )

    def additions(self) -> Iterator[AddMember]:
        """Yield what comes before the restore, in the order of what it does."""
        found = ((item, member) for item in self._changes for member in item.added)
        return (AddMember(item.name, member) for item, member in sorted(found, key=self._place))

    def deletions(self) -> Iterator[DeleteMember]:
        """Yield what goes behind the restore, in the order of what it does."""
        found = ((item, member) for item in self._changes for member in item.deleted)
        return (DeleteMember(item.name, member) for item, member in sorted(found, key=self._place))

    def _place(self, changed: tuple[SetChange, SetMember]) -> tuple[int, str, str]:
        item, member = changed
        return _PHASES[self._ways.get((item.origin, str(member)), "none")], item.name, str(member)

    def _memberships(
        self, before: References, after: References, change: Difference
    ) -> tuple[dict[_Element, list[str]], dict[_Element, list[str]]]:
        """Return the sets that each address joins, and those that it leaves."""
        come: dict[_Element, list[str]] = {}
        go: dict[_Element, list[str]] = {}
        for item in self._changes:
            self._put(come, item.name, item.origin, item.added)
            self._put(go, item.name, item.origin, item.deleted)
        for found, ruleset, names in (
            (come, self._new, after.policy_sets & change.created),
            (go, self._old, before.policy_sets & change.gone),
        ):
            for name in names:
                if (own := ruleset.sets[name]).family == self._family:
                    self._put(found, name, own.origin, own.members)
        return come, go

    def _put(self, into: dict[_Element, list[str]], name: str, origin: str, members: Iterable[SetMember]) -> None:
        self._level[name] = dispatch_level(name, origin, self._family)
        for member in members:
            into.setdefault((origin, str(member)), []).append(name)

    def _is_known(self, element: _Element) -> bool:
        """Return whether an address joins and leaves sets as the lowering makes it."""
        return self._levels(element) in _KNOWN

    def _levels(self, element: _Element) -> tuple[tuple[int, ...], tuple[int, ...]]:
        come, go = self._come.get(element, []), self._go.get(element, [])
        return tuple(sorted([self._level[name] for name in come])), tuple(sorted([self._level[name] for name in go]))

    def _way(self, element: _Element) -> Way:
        levels = self._levels(element)
        if levels == _BEGINS:
            return "takes"
        if levels == _ENDS:
            return "gives"
        if levels != _MOVES:
            return "both"
        come, go = self._come[element], self._go[element]
        chains = map(self._leaves, group_readings(element[0], group_of(element[1])))
        return functools.reduce(
            union, (self._way_between(_first(old, go), _first(new, come)) for old, new in chains), "none"
        )

    def _moments(self, element: _Element) -> Iterator[_Moment]:
        """Yield when an address gets its new chain, for packets of each direction."""
        come, go = self._come.get(element, []), self._go.get(element, [])
        for old, new in map(self._leaves, group_readings(element[0], group_of(element[1]))):
            will = _first(new, come)
            if _first(old, come, go) == will:
                yield "before"
            else:
                yield "restore" if _first(new, come, go) == will else "behind"

    def _leaves_of(self, chain: str) -> tuple[_Leaves, _Leaves]:
        """Return what the rules of a group's chain lead to, before and after."""
        key: ChainKey = (self._family, "mangle", chain)
        return _leaves(self._old, key), _leaves(self._new, key)

    def _compared(self, was: ChainKey | None, will: ChainKey | None) -> Way:
        return way_between(self._old, was, self._new, will)


def _leaves(ruleset: XtRuleset, key: ChainKey) -> _Leaves:
    chain = ruleset.chains.get(key)
    rules = () if chain is None else chain.rules
    return {name: (place, (*key[:2], rule.target[1])) for place, rule in enumerate(rules) for name, _ in rule.lookups()}


def _first(leaves: _Leaves, *names: list[str]) -> ChainKey | None:
    """Return the chain that the first rule for one of these sets leads to."""
    found = [leaves[name] for each in names for name in each if name in leaves]
    return min(found)[1] if found else None


def _are_in_order(moves: list[_Move]) -> bool:
    takes = max((move.place for move in moves if move.way == "takes"), default=0)
    gives = min((move.place for move in moves if move.way == "gives"), default=_LAST)
    others = [move for move in moves if move.way == "both"]
    places = [move.place for move in others] or [takes]
    apart = {move.element for move in others} if any(move.moment != "restore" for move in others) else set()
    return (
        takes <= min(places)
        and max(places) <= gives
        and len({address for _, address in apart}) <= 1
        # A packet asks about an address once in each direction of policies, but at several levels.
        and len({origin[:1] for origin, _ in apart}) == len(apart)
    )
