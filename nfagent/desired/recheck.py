"""Live connections that a change may revoke: their addresses go under re-check in the change's own transaction.

An established connection takes a short way out, past the policies, unless one of its ends is in `recheck4/6`: then
its packets of both directions are judged like a first one. So what a change revokes has ended with its commit.
Later the conntrack entries of these addresses are judged, those that are denied are deleted, and the addresses leave
the sets (`revoke`). Putting an address under re-check that nothing was revoked for costs lookups, never a packet.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping

from nfagent.desired.rule_coverage import RuleCoverage
from nfagent.desired.set_members import SetMembership
from nfagent.desired.tracker import RulesetTracker
from nfagent.model.netaddr import Family, family_of
from nfagent.model.ref_counts import RefCounts
from nfagent.nftables import names
from nfagent.nftables.base_chains import RECHECK, RECHECKING, recheck_sets
from nfagent.nftables.objects import (
    FLOW_SET_SIZE,
    Chain,
    Element,
    Goto,
    Jump,
    Rule,
    Ruleset,
    address_of,
)
from nfagent.nftables.transaction import ChangeElements, Transaction


class RecheckSets:
    """The addresses under re-check.

    addresses: address -> number of the last change that concerns it
    """

    def __init__(self, live: RulesetTracker, members: SetMembership, ways: int = FLOW_SET_SIZE) -> None:
        """Start without addresses; the sets for them are made, and those for so many ways of each family."""
        self._live = live
        self._members = members
        self.addresses: dict[str, int] = {}
        self._families: RefCounts[Family] = RefCounts()
        self._change = 0
        for name, shape in recheck_sets(ways):
            live.add_set(name, shape)

    def note_changes(self) -> bool:
        """Put under re-check what the changes since the last transaction may revoke; part of the next one.

        Tells whether anybody is new there.
        """
        before, after = self._live.changes()
        found = revocable(before, after, self._live, self._members.deny_sets)
        new = list(self._add(found))
        for name, element in new:
            self._live.add(name, element)
        return bool(new)

    def add_all(self, others: Iterable[str] = ()) -> Transaction:
        """Put every Pod that any policy judges under re-check; give the commands for it, as they are told by no other.

        For when it isn't known what the kernel let pass before.
        others: addresses that something else judges
        """
        judged = {address for item in self._live.maps.values() for address in item.elements}.union(others)
        found: dict[str, list[Element]] = {}
        for name, element in self._add(judged):
            found.setdefault(name, []).append(element)
            self._live.add_committed(name, element)
        return tuple(ChangeElements("add", name, tuple(elements)) for name, elements in sorted(found.items()))

    def add(self, addresses: Iterable[str]) -> None:
        """Put addresses under re-check for a reason that the ruleset's changes don't show; part of the next one."""
        for name, element in list(self._add(addresses)):
            self._live.add(name, element)

    def clear(self, judged: Mapping[str, int]) -> None:
        """Take addresses out whose connections were judged, unless a later change concerns them again."""
        for address, change in judged.items():
            if self.addresses.get(address) != change:
                continue
            family = family_of(address)
            del self.addresses[address]
            self._live.remove(names.set_name(RECHECK, family), address)
            if self._families.release(family):
                self._live.remove(RECHECKING, family)

    def _add(self, addresses: Iterable[str]) -> Iterator[tuple[str, Element]]:
        """Give the elements that are new for these addresses, set by set."""
        self._change += 1
        for address in sorted(addresses):
            family = family_of(address)
            if address not in self.addresses:
                yield names.set_name(RECHECK, family), address
                if self._families.acquire(family):
                    yield RECHECKING, family
            self.addresses[address] = self._change


def revocable(
    before: Ruleset,
    after: Ruleset,
    live: RulesetTracker,
    closing: Mapping[str, int],
) -> set[str]:
    """Name the addresses whose connections a change may end.

    before, after: the part of the ruleset that changed
    live:          all of it, as it is after the change
    closing:       sets in which an element more can end a connection
    """
    found = set(_remapped(before, after)) | set(_changed_members(before, after, closing))
    changed = {name for name in before.chains.keys() & after.chains if _is_policy_chain(name)}
    widening = RuleCoverage(before, after, live.sets)
    changed = {name for name in changed if _tightened(before.chains[name].rules, after.chains[name].rules, widening)}
    if changed:
        for item in live.maps.values():
            found |= {address for address, chain in item.elements.items() if _leads_to(chain, live.chains, changed)}
    return found


def _remapped(before: Ruleset, after: Ruleset) -> Iterator[str]:
    """Give the Pods that other policies judge than before, or any at all."""
    for name, item in after.maps.items():
        was = before.maps[name].elements if name in before.maps else {}
        yield from (address for address, chain in item.elements.items() if was.get(address) != chain)


def _changed_members(before: Ruleset, after: Ruleset, closing: Mapping[str, int]) -> Iterator[str]:
    """Give the peers that rules mean no longer, or that rules which deny or pass mean now."""
    for name in before.sets.keys() & after.sets:
        if not _is_peer_set(name):
            continue
        was, now = before.sets[name].elements, after.sets[name].elements
        yield from filter(None, map(address_of, was - now))
        if closing.get(name):
            yield from filter(None, map(address_of, now - was))


def _is_peer_set(name: str) -> bool:
    # Our own fixed sets say nothing about policies: an address that leaves recheck4 was judged.
    return "/" in name


def _is_policy_chain(chain: str) -> bool:
    # Outcome chains change by what they log alone.
    return chain.partition("/")[0] in {"egress", "ingress", "admin", "policy", "baseline"}


def _tightened(before: tuple[Rule, ...], after: tuple[Rule, ...], widening: RuleCoverage) -> bool:
    """Tell whether other rules can deny what those before allowed: more rules that allow can't, nor wider ones.

    What is about packets without a conntrack entry is about no connection.
    """
    remaining = iter(filter(_about_connections, before))
    awaited = next(remaining, None)
    for rule in filter(_about_connections, after):
        if awaited is not None and (rule.matches, rule.verdict) == (awaited.matches, awaited.verdict):
            awaited = next(remaining, None)
            continue
        if not (isinstance(rule.verdict, Goto) and rule.verdict.chain.startswith("allow/")):
            return True
        # Several may have become one: a port more, and all are in a set.
        while awaited is not None and rule.verdict == awaited.verdict and widening.covers(rule, awaited):
            awaited = next(remaining, None)
    return awaited is not None


def _about_connections(rule: Rule) -> bool:
    return not (isinstance(rule.verdict, Goto) and rule.verdict.chain.startswith("stray/"))


def _leads_to(chain: str, chains: Mapping[str, Chain], changed: set[str]) -> bool:
    if chain in changed:
        return True
    ways = (rule.verdict for rule in chains[chain].rules)
    return any(isinstance(way, Jump) and way.chain in changed for way in ways)
