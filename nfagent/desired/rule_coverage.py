"""Whether a rule of before is covered by a rule of now: whatever the one matched, the other does.

One set means all peers of a rule, so a peer more is another set in the rule's place.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping

import msgspec

from nfagent.desired.tracker import TrackedSet
from nfagent.nftables.matches import AddressInSet, Match, NamedPort, ServerPort, ServerPortIn
from nfagent.nftables.objects import Element, PortRange, Rule, Ruleset


class RuleCoverage(msgspec.Struct, frozen=True):
    """Compares rules over a change.

    before, after: the part of the ruleset that changed
    sets:          all of them, as they are after the change
    """

    before: Ruleset
    after: Ruleset
    sets: Mapping[str, TrackedSet]

    def covers(self, now: Rule, was: Rule) -> bool:
        """Tell whether what matched one rule matches the other, match by match; what isn't certain is False."""
        return len(now.matches) == len(was.matches) and all(
            found == former or self._wider(found, former)
            for found, former in zip(now.matches, was.matches, strict=True)
        )

    def _wider(self, now: Match, was: Match) -> bool:
        match now, was:
            case AddressInSet(key, name, negated=False), AddressInSet(before, former, negated=False) if key == before:
                return self._held(former) <= self.sets[name].elements.keys()
            case NamedPort(family, name, way), NamedPort(4 | 6 as before, former, went) if (family, way) == (
                before,
                went,
            ):
                return self._held(former) <= self.sets[name].elements.keys()
            case ((ServerPort() | ServerPortIn()), (ServerPort() | ServerPortIn())):
                ranges = self._ports(now, self.sets[now.set].elements if isinstance(now, ServerPortIn) else ())
                former_ranges = self._ports(was, self._held(was.set) if isinstance(was, ServerPortIn) else ())
                return all(
                    any(one.first <= former.first and former.last <= one.last for one in ranges)
                    for former in former_ranges
                )
        return False

    def _held(self, name: str) -> set[Element]:
        """Give what a set held before the change."""
        if name in self.before.sets and name not in self.after.sets:
            return set(self.before.sets[name].elements)
        gone = self.before.sets[name].elements if name in self.before.sets else frozenset()
        come = self.after.sets[name].elements if name in self.after.sets else frozenset()
        return set(self.sets[name].elements) - come | gone

    @staticmethod
    def _ports(match: ServerPort | ServerPortIn, elements: Collection[Element]) -> list[PortRange]:
        if isinstance(match, ServerPort):
            return [PortRange(match.first, match.last)]
        return [element for element in elements if isinstance(element, PortRange)]
