"""The addresses to re-check: a change that may revoke established connections adds their addresses to `recheck4/6`.

Packets of established connections bypass the policy chains, unless one of their ends is in `recheck4/6`: then packets
of both directions are evaluated like first packets. The addresses are added in the transaction of the change itself,
so a revoked connection ends with its commit. Later, `controllers.conntrack_revoker` evaluates the conntrack entries of
these addresses, deletes the denied ones, and clears the addresses. An address that is added without need costs
lookups, never a packet.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping

from nfagent.desired.rule_coverage import RuleCoverage
from nfagent.desired.set_members import SetMembership
from nfagent.desired.tracker import RulesetTracker
from nfagent.model.netaddr import Family, family_of
from nfagent.model.objects import DIRECTIONS
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
    """The addresses to re-check.

    addresses: address -> number of the last change that may have revoked a connection of it
    """

    def __init__(self, live: RulesetTracker, members: SetMembership, reply_tuples: int = FLOW_SET_SIZE) -> None:
        """Add the empty sets; `reply_tuples`: the number of reply tuples that fit into the sets of each family."""
        self._live = live
        self._members = members
        self.addresses: dict[str, int] = {}
        self._pending: set[str] = set()  # by `add`, since the last transaction
        self._families: RefCounts[Family] = RefCounts()
        self._change = 0
        for name, shape in recheck_sets(reply_tuples):
            live.add_set(name, shape)

    def note_changes(self, before: Ruleset, after: Ruleset) -> bool:
        """Add the addresses whose connections the uncommitted changes may revoke; part of the same transaction.

        Return whether any address is new: only then do the changes have more.
        before, after: the uncommitted changes
        """
        found = revocable(before, after, self._live, self._members.deny_sets) | self._pending
        self._pending = set()
        new = list(self._add(found))
        for name, element in new:
            self._live.add(name, element)
        return bool(new)

    def add_all(self, others: Iterable[str] = ()) -> Transaction:
        """Add every address that policies apply to. Return the commands for it: `drain_changes` omits them.

        For when the previous contents of the table are unknown. Those of `add` are among them, and in the next
        transaction again: what they were added for may have come while the table was compared.
        others: addresses that other rules may drop connections of
        """
        maps = (item for name, item in self._live.maps.items() if _is_policy_map(name))
        selected = {address for item in maps for address in item.elements}.union(others, self._pending)
        found: dict[str, list[Element]] = {}
        for name, element in self._add(selected):
            found.setdefault(name, []).append(element)
            self._live.add_committed(name, element)
        return tuple(ChangeElements("add", name, tuple(elements)) for name, elements in sorted(found.items()))

    def add(self, addresses: Iterable[str]) -> None:
        """Add addresses for a reason that the changes of the ruleset don't show; part of the next transaction.

        Not sooner: a round after a commit that lacks their reason would clear them, and end too little.
        """
        self._pending.update(addresses)

    def clear(self, checked: Mapping[str, int]) -> None:
        """Clear addresses whose connections were re-checked, unless a later change concerns them again."""
        for address, change in checked.items():
            if self.addresses.get(address) != change:
                continue
            family = family_of(address)
            del self.addresses[address]
            self._live.remove(names.set_name(RECHECK, family), address)
            if self._families.release(family):
                self._live.remove(RECHECKING, family)

    def _add(self, addresses: Iterable[str]) -> Iterator[tuple[str, Element]]:
        """Yield the new elements for these addresses, as pairs of set name and element."""
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
    deny_sets: Mapping[str, int],
) -> set[str]:
    """Return the addresses whose connections a change may revoke.

    before, after: the part of the ruleset that changed
    live:          all of it, as it is after the change
    deny_sets:     sets in which a new element can end a connection
    """
    found = set(_remapped(before, after)) | set(_changed_members(before, after, deny_sets))
    changed = {name for name in before.chains.keys() & after.chains if _is_policy_chain(name)}
    coverage = RuleCoverage(before, after, live.sets)
    changed = {name for name in changed if _tightened(before.chains[name].rules, after.chains[name].rules, coverage)}
    if changed:
        reaching = _Reachability(live.chains, changed)
        for name, item in live.maps.items():
            if not _is_policy_map(name):
                continue
            found |= {address for address, chain in item.elements.items() if reaching.leads_to_changed(chain)}
    return found


def _remapped(before: Ruleset, after: Ruleset) -> Iterator[str]:
    """Yield the addresses whose policy set is new or different."""
    for name, item in after.maps.items():
        if not _is_policy_map(name):
            continue
        was = before.maps[name].elements if name in before.maps else {}
        yield from (address for address, chain in item.elements.items() if was.get(address) != chain)


def _changed_members(before: Ruleset, after: Ruleset, deny_sets: Mapping[str, int]) -> Iterator[str]:
    """Yield the addresses that rules select no longer, or that rules which deny or pass select now."""
    for name in before.sets.keys() & after.sets:
        if not _is_peer_set(name):
            continue
        was, now = before.sets[name].elements, after.sets[name].elements
        yield from filter(None, map(address_of, was - now))
        if deny_sets.get(name):
            yield from filter(None, map(address_of, now - was))


def _is_policy_map(name: str) -> bool:
    # Not those of egress NAT: a live connection keeps its translation.
    return name.startswith(DIRECTIONS)


def _is_peer_set(name: str) -> bool:
    # Not the fixed sets: an address that leaves recheck4 was re-checked already.
    return "/" in name


def _is_policy_chain(chain: str) -> bool:
    # Verdict chains change only in what they log.
    return chain.partition("/")[0] in {"egress", "ingress", "admin", "policy", "baseline", "audit"}


def _tightened(before: tuple[Rule, ...], after: tuple[Rule, ...], coverage: RuleCoverage) -> bool:
    """Return whether the new rules may deny what the old ones allowed: added or wider allow rules can't.

    Rules about untracked packets concern no connection.
    """
    remaining = iter(filter(_about_connections, before))
    expected = next(remaining, None)
    for rule in filter(_about_connections, after):
        if expected is not None and (rule.matches, rule.verdict) == (expected.matches, expected.verdict):
            expected = next(remaining, None)
            continue
        if not (isinstance(rule.verdict, Goto) and rule.verdict.chain.startswith("allow/")):
            return True
        # Several rules may have become one: with one more port, all are in a set.
        while expected is not None and rule.verdict == expected.verdict and coverage.covers(rule, expected):
            expected = next(remaining, None)
    return expected is not None


def _about_connections(rule: Rule) -> bool:
    return not (isinstance(rule.verdict, Goto) and rule.verdict.chain.startswith("stray/"))


class _Reachability:
    """Which policy chains lead to a changed one, directly or by chains of audit mode; each is read once."""

    def __init__(self, chains: Mapping[str, Chain], changed: set[str]) -> None:
        """Start with the changed chains alone."""
        self._chains = chains
        self._known = dict.fromkeys(changed, True)

    def leads_to_changed(self, chain: str) -> bool:
        """Return whether a chain is changed, or leads to a changed one."""
        found = self._known.get(chain)
        if found is None:
            verdicts = {rule.verdict for rule in self._chains[chain].rules}
            targets = {verdict.chain for verdict in verdicts if isinstance(verdict, Jump | Goto)}
            # Chains of audit mode lead on to others; no other shared chain does, but in changes that concern it, too.
            found = self._known[chain] = any(
                (name in self._known and self._known[name])
                or (name.startswith(names.AUDIT) and self.leads_to_changed(name))
                for name in targets
            )
        return found
