"""The order of a change: no packet gets a verdict in between that neither the rules before nor those after give it.

What a family's packets meet changes in one step where that is possible: chains by one restore, fresh sets before it,
sets that nothing refers to any more behind it. Where sets change that rules refer to, one member at a time, the order
depends on what a member does (`set_effects`):

- A policy set that newly judges an address only takes away, and one that no longer does only gives.
- If everything takes away, or everything gives, each packet's verdict changes once: any order is right.
- One address that is newly judged, and joins or leaves peers: first it is judged. A packet has it at one end, and its
  own policy set decides about that end, those with the peers about the other: both must allow.
- Peers of rules that allow: what joins before what leaves, where a packet meets one such change.
- Addresses under re-check, and other exceptions from early accepts: they end first, and begin last. What begins is
  put into a set of another name before anything else changes, and exchanged for the set behind it: a member that the
  kernel refuses would leave established connections going on by rules that are no longer there.
- Everything else goes by copies: sets with other names have the new members, one restore of all chains that refer to
  them takes effect, then the sets themselves change, and a second restore leads back to them.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping
from itertools import count
from typing import Literal

from nfagent.model.netaddr import FAMILIES, Family
from nfagent.xtables.copies import with_copies
from nfagent.xtables.judged import Judged, SetChange
from nfagent.xtables.names import temporary
from nfagent.xtables.objects import EMPTY, TABLES, IpSet, SetMember, TableName, XtChain, XtRuleset
from nfagent.xtables.references import Difference, References, difference, references, same_shape
from nfagent.xtables.set_effects import Effect, SetUses, follows_members
from nfagent.xtables.steps import (
    AddAccounts,
    AddMember,
    CreateSet,
    DeleteAccounts,
    DeleteMember,
    DestroySet,
    Restore,
    Step,
    SwapSets,
)
from nfagent.xtables.target_chains import Way, union


class StepOrder:
    """Orders one change after another; who refers to which set is kept from one to the next."""

    def __init__(self) -> None:
        """Begin with nothing known."""
        self._references = references(EMPTY)

    def steps(self, old: XtRuleset, new: XtRuleset) -> tuple[Step, ...]:
        """Return the steps from one ruleset to the other, in an order that is right for every packet."""
        before = self._references if self._references.ruleset is old else references(old)
        change = difference(old, new)
        after = self._references = before.changed(new, change)
        return tuple(_steps(before, after, change))


def steps(old: XtRuleset, new: XtRuleset) -> tuple[Step, ...]:
    """Return the steps from one ruleset to the other, where nothing is known of either."""
    return StepOrder().steps(old, new)


def _steps(before: References, after: References, change: Difference) -> Iterator[Step]:
    old, new = before.ruleset, after.ruleset
    if accounts := new.accounts - old.accounts:
        yield AddAccounts(tuple(sorted(accounts)))
    # Of a change that was broken off; copies that rules lead to stay until they lead elsewhere.
    unused = {name for name in before.copies if not before.of(name)}
    for name in sorted(unused):
        yield DestroySet(name)
    for name in sorted(change.created):
        yield CreateSet(name, new.sets[name])
    changed = tuple(_changed_set(old.sets[name], new.sets[name], name) for name in sorted(change.sets))
    ports = tuple(item for item in changed if new.sets[item.name].type == "bitmap:port")
    # Ports of tunnels, where packets are dropped: what takes away is first, what gives is last.
    yield from (AddMember(item.name, member) for item in ports for member in _sorted(item.added))
    for family in FAMILIES:
        own = tuple(
            item
            for item in changed
            if new.sets[item.name].type != "bitmap:port" and new.sets[item.name].family == family
        )
        yield from FamilyOrder(before, after, change, family, own).steps()
    yield from (DeleteMember(item.name, member) for item in ports for member in _sorted(item.deleted))
    for name in sorted(change.gone - unused):
        yield DestroySet(name)
    if accounts := old.accounts - new.accounts:
        yield DeleteAccounts(tuple(sorted(accounts)))


def _sorted(members: Iterable[SetMember]) -> list[SetMember]:
    return sorted(members, key=str)


def _changed_set(before: IpSet, after: IpSet, name: str) -> SetChange:
    return SetChange(name, after.origin, after.members - before.members, before.members - after.members)


class FamilyOrder:
    """The order of what packets of one family meet."""

    def __init__(
        self,
        before: References,
        after: References,
        change: Difference,
        family: Family,
        changes: tuple[SetChange, ...],
    ) -> None:
        """Read the rules that refer to what changes. changes: the sets of the family that change."""
        self._before, self._after, self._change, self._family = before, after, change, family
        self._old, self._new = old, new = before.ruleset, after.ruleset
        self._chains = frozenset(key for key in change.chains if key[0] == family)
        self._hooks = frozenset(hook for hook in change.hooks if hook[0] == family)
        names = frozenset(item.name for item in changes)
        # Where no chain differs, the rules before say the same as those after.
        sides = (after,) if old.chains is new.chains else (before, after)
        self._uses = uses = tuple(SetUses(each, family, names) for each in (sides if changes else ()))
        self._effects = effects = {name: _common({use.effect(name) for use in uses}) for name in names}
        reshaped = {name for name in names if not same_shape(old.sets[name], new.sets[name])}
        self._settled = [item for item in changes if effects[item.name] == "none" and item.name not in reshaped]
        self._early = [item for item in changes if effects[item.name] == "early" and item.name not in reshaped]
        apart = {item.name for item in (*self._settled, *self._early)}
        self._live = [item for item in changes if item.name not in apart]
        self._dispatch = [item for item in self._live if effects[item.name] == "dispatch"]
        self._peers = [item for item in self._live if effects[item.name] in ("allows", "denies")]
        self._known = len(self._dispatch) + len(self._peers) == len(self._live) and not reshaped

    def steps(self) -> Iterator[Step]:
        """Yield the steps."""
        for change in self._settled:
            yield from _additions(change)
        begins = [change for change in self._early if change.added]
        copies: dict[str, str] = {}
        if self._live or self._chains or self._hooks:
            copies = {change.name: self._free_copy(change.name) for change in begins}
            for name, copy in copies.items():
                yield CreateSet(copy, self._new.sets[name])
        else:
            for change in begins:
                yield from _additions(change)
        for change in self._early:
            # A connection whose one end ends and whose other end begins would be under no re-check in between.
            if change.name not in copies:
                yield from _deletions(change)
        yield from self._live_steps(tuple(SwapSets(copy, name) for name, copy in copies.items()))
        for copy in copies.values():
            yield DestroySet(copy)
        for change in self._settled:
            yield from _deletions(change)

    def _live_steps(self, begin: tuple[Step, ...]) -> Iterator[Step]:
        """Yield the steps that change verdicts. begin: what follows as soon as the new rules are in force."""
        if not self._live:
            yield from self._restores({}, begin=begin)
            return
        if not self._known or self._rules_change():
            yield from self._by_copies(begin)
            return
        judged = Judged(self._before, self._after, self._change, self._family, self._dispatch)
        order = self._in_place(judged)
        if order is None:
            yield from self._by_copies(begin)
        elif order == "judged first":
            yield from judged.additions()
            yield from self._restores({}, begin=(*judged.deletions(), *self._peer_steps(), *begin))
        else:
            yield from self._peer_steps()
            yield from judged.additions()
            yield from self._restores({}, begin=(*judged.deletions(), *begin))

    def _rules_change(self) -> bool:
        """Return whether a chain changes by more than a chain that follows the members of sets.

        One that leads to a copy does: the set that the copy stands for may have other members.
        """
        if self._before.copies or any(hook[1] != "nat" for hook in self._hooks):
            return True
        return any(
            key[1] != "nat"
            and key in self._old.chains
            and (chain := self._new.chains.get(key)) is not None
            and not follows_members(chain.origin)
            for key in self._chains
        )

    def _in_place(self, judged: Judged) -> Literal["judged first", "judged last"] | None:
        """Return an order for changes of members one by one; None where there is none."""
        peers_way = self._peers_way()
        peer_addresses = {_address(member) for item in self._peers for member in _all(item)}
        way = union(judged.way, peers_way)
        if way in ("takes", "gives"):
            return "judged first" if judged.way == "takes" or way == "takes" else "judged last"
        if peers_way == "both" and not self._peers_commute(peer_addresses):
            return None
        if judged.way == "none":
            return "judged first"
        if not judged.in_order:
            return None
        if peers_way == "none":
            return "judged first"
        alone = len(judged.addresses) == 1 and peer_addresses <= judged.addresses
        if not alone or any(self._new.sets[item.name].type != "hash:ip" for item in self._peers):
            return None
        if judged.way == "both":
            return {"takes": "judged last", "gives": "judged first", "none": "judged first"}.get(peers_way)  # type: ignore[return-value]
        return "judged first" if judged.way == "takes" else "judged last"

    def _peers_way(self) -> Way:
        way: Way = "none"
        for item in self._peers:
            gives = self._effects[item.name] == "allows"
            if item.added:
                way = union(way, "gives" if gives else "takes")
            if item.deleted:
                way = union(way, "takes" if gives else "gives")
        return way

    def _peers_commute(self, addresses: set[str]) -> bool:
        """Return whether additions before deletions give no packet a verdict of its own.

        That is so where all sets have one effect, no rule looks up two of them, and no packet has two of the addresses:
        of two, one is no Pod of this node.
        """
        names = {item.name for item in self._peers}
        judged = {
            address
            for each in (self._before, self._after)
            for name in each.policy_sets
            if (item := each.ruleset.sets[name]).family == self._family
            for address in addresses & item.members
        }
        return (
            len({self._effects[item.name] for item in self._peers}) == 1
            and len(judged) <= 1
            and all(self._new.sets[name].type in ("hash:ip", "hash:ip,port") for name in names)
            and not any(use.together(name) & names for use in self._uses for name in names)
        )

    def _peer_steps(self) -> Iterator[Step]:
        for item in self._peers:
            yield from _additions(item)
        for item in self._peers:
            yield from _deletions(item)

    def _by_copies(self, begin: tuple[Step, ...]) -> Iterator[Step]:
        copies = {item.name: self._free_copy(item.name) for item in self._live}
        for name, copy in copies.items():
            yield CreateSet(copy, self._new.sets[name])
        yield from self._restores(copies, begin=begin)
        for item in self._live:
            if same_shape(self._old.sets[item.name], self._new.sets[item.name]):
                yield from _additions(item)
                yield from _deletions(item)
            else:
                yield DestroySet(item.name)
                yield CreateSet(item.name, self._new.sets[item.name])
        yield from self._restores({}, only=copies.keys())
        for copy in copies.values():
            yield DestroySet(copy)

    def _free_copy(self, name: str) -> str:
        """Return the name for a copy; rules lead to copies of a change that was broken off."""
        return next(copy for number in count() if (copy := temporary(name, number)) not in self._old.sets)

    def _restores(
        self, copies: Mapping[str, str], only: Collection[str] | None = None, begin: tuple[Step, ...] = ()
    ) -> Iterator[Step]:
        """Yield the restores that write what changes, with copies in place of sets.

        only:  of chains that stay, those that refer to one of these sets, also where they don't change
        begin: what follows the tables that give verdicts; a refusal of table nat doesn't keep it from that
        """
        referring = self._after.of_any(copies.keys() if only is None else only)
        written = referring | self._chains if only is None else referring
        by_table: dict[TableName, dict[str, XtChain | None]] = {table: {} for table in TABLES}
        for family, table, name in sorted(written):
            if family == self._family:
                chain = self._new.chains.get((family, table, name))
                by_table[table][name] = chain and with_copies(chain, copies)
        hooks = {
            table: {hook[2]: self._new.hooks.get(hook) for hook in sorted(self._hooks) if hook[1] == table}
            for table in TABLES
            if only is None
        }
        restores = [
            Restore(self._family, table, chains, hooks.get(table, {}))
            for table, chains in by_table.items()
            if chains or hooks.get(table)
        ]
        yield from (step for step in restores if step.table != "nat")
        yield from begin
        yield from (step for step in restores if step.table == "nat")


def _common(effects: set[Effect]) -> Effect:
    known = effects - {"none"}
    if not known:
        return "none"
    return next(iter(known)) if len(known) == 1 else "unknown"


def _all(item: SetChange) -> frozenset[SetMember]:
    return item.added | item.deleted


def _address(member: SetMember) -> str:
    return str(member[0] if isinstance(member, tuple) else member)


def _additions(item: SetChange) -> Iterator[AddMember]:
    return (AddMember(item.name, member) for member in _sorted(item.added))


def _deletions(item: SetChange) -> Iterator[DeleteMember]:
    return (DeleteMember(item.name, member) for member in _sorted(item.deleted))
