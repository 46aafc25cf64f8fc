"""Compares rules before and after a change: a rule covers another if it matches every packet that the other matched.

One set has the members of all peers of a rule, so a rule with one more peer names another set.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping

import msgspec

from nfagent.desired.tracker import TrackedSet
from nfagent.nftables.matches import AddressInSet, Match, NamedPort, ServerPort, ServerPortIn
from nfagent.nftables.objects import Element, PortRange, Rule, Ruleset


class RuleCoverage(msgspec.Struct, frozen=True):
    """Compares rules before and after a change.

    before, after: the part of the ruleset that changed
    sets:          all sets, as they are after the change
    """

    before: Ruleset
    after: Ruleset
    sets: Mapping[str, TrackedSet]

    def covers(self, now: Rule, was: Rule) -> bool:
        """Return whether `now` covers `was`, match by match; False if that is uncertain."""
        return len(now.matches) == len(was.matches) and all(
            found == former or self._wider(found, former)
            for found, former in zip(now.matches, was.matches, strict=True)
        )

    def _wider(self, now: Match, was: Match) -> bool:
        match now, was:
            case AddressInSet(key, name, negated=False), AddressInSet(before, former, negated=False) if key == before:
                return self._elements_before(former) <= self.sets[name].elements.keys()
            case NamedPort(family, name, side), NamedPort(4 | 6 as before, former, former_side) if (family, side) == (
                before,
                former_side,
            ):
                return self._elements_before(former) <= self.sets[name].elements.keys()
            case ((ServerPort() | ServerPortIn()), (ServerPort() | ServerPortIn())):
                ranges = self._ports(now, self.sets[now.set].elements if isinstance(now, ServerPortIn) else ())
                former_ranges = self._ports(
                    was, self._elements_before(was.set) if isinstance(was, ServerPortIn) else ()
                )
                return all(
                    any(one.first <= former.first and former.last <= one.last for one in ranges)
                    for former in former_ranges
                )
        return False

    def _elements_before(self, name: str) -> set[Element]:
        """Return the elements that a set had before the change."""
        if name in self.before.sets and name not in self.after.sets:
            return set(self.before.sets[name].elements)
        removed = self.before.sets[name].elements if name in self.before.sets else frozenset()
        added = self.after.sets[name].elements if name in self.after.sets else frozenset()
        return set(self.sets[name].elements) - added | removed

    @staticmethod
    def _ports(match: ServerPort | ServerPortIn, elements: Collection[Element]) -> list[PortRange]:
        if isinstance(match, ServerPort):
            return [PortRange(match.first, match.last)]
        return [element for element in elements if isinstance(element, PortRange)]
