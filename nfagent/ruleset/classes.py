"""Which class this node's Pods are in, and the chains and sets that the classes need.

Driven by the event: a Pod that comes, goes or is judged by others moves between classes; a class that got
its first Pod, lost its last, or whose policies changed is written anew; a set exists while a chain names it.
"""

from __future__ import annotations

from collections.abc import Iterable

import msgspec

from nfagent.cluster.address import FAMILIES, Family, family_of
from nfagent.cluster.model import DIRECTIONS, Ref
from nfagent.cluster.state import ClusterState, HolderKey, PodKey, holder_key
from nfagent.policy.choices import Choices
from nfagent.policy.compile import ClassKey, class_keys, compile_rules
from nfagent.policy.index import PolicyIndex
from nfagent.ruleset import names
from nfagent.ruleset.levels import Levels
from nfagent.ruleset.live import LiveRuleset
from nfagent.ruleset.lower import LogPlan, class_chain, names_ends
from nfagent.ruleset.members import Members
from nfagent.ruleset.outcomes import Outcomes
from nfagent.ruleset.sections import Sections
from nfagent.ruleset.written import WrittenChains


class LiveClass(msgspec.Struct):
    """A class with Pods.

    addresses: how many addresses of each family dispatch to it
    families:  those that its chain was written for
    """

    addresses: dict[Family, int]
    families: tuple[Family, ...] = ()


class Classes:
    """The classes of this node, and their part of the live ruleset."""

    def __init__(
        self,
        cluster: ClusterState,
        index: PolicyIndex,
        live: LiveRuleset,
        members: Members,
        *,
        log: LogPlan,
        choices: Choices,
    ) -> None:
        """Start without Pods."""
        self._levels = Levels(live, choices)
        self._cluster = cluster
        self._index = index
        self._live = live
        self.outcomes = Outcomes(live, log)
        self._chains = WrittenChains(live, members, self.outcomes)
        self._sections = Sections(index, self._chains)
        self.known: dict[ClassKey, LiveClass] = {}
        self._of_policy: dict[Ref, set[ClassKey]] = {}
        # Address -> local Pods that hold it, in the order of `holding`, each with its classes: all of them judge it.
        self._claims: dict[str, dict[HolderKey, tuple[ClassKey, ...]]] = {}
        self._order: dict[PodKey, HolderKey] = {}
        self._claimed: dict[PodKey, tuple[str, ...]] = {}
        self._shown: dict[str, tuple[ClassKey, ...]] = {}
        self._stale: set[ClassKey] = set()

    def assign(self, key: PodKey) -> None:
        """Put a Pod into the classes that its policies make; take one that is gone, or holds no address, out of all."""
        pod = self._cluster.local.get(key)
        addresses = pod.addresses if pod is not None and pod.holds_addresses else ()
        wanted = tuple(class_keys(self._index.policies_of(pod))) if pod is not None else ()
        touched = dict.fromkeys((*self._claimed.get(key, ()), *addresses))
        before = self._order.pop(key, None)
        for address in self._claimed.pop(key, ()):
            if before is not None:
                del self._claims[address][before]
            if not self._claims[address]:
                del self._claims[address]
        if addresses and pod is not None:
            self._claimed[key] = addresses
            self._order[key] = holder_key(pod)
        for address in addresses:
            self._claims.setdefault(address, {})[self._order[key]] = wanted
        for address in touched:
            holders = self._claims.get(address, {})
            classes = [found for holder in sorted(holders) for found in holders[holder]]
            self._show(address, tuple(dict.fromkeys(classes)))

    def of(self, address: str) -> tuple[ClassKey, ...]:
        """Name the classes that an address dispatches to."""
        return self._shown.get(address, ())

    def rewrite(self, policies: Iterable[Ref]) -> None:
        """Have the classes and sections of changed policies written anew."""
        changed = tuple(policies)
        self._sections.rewrite(changed)
        for ref in changed:
            self._stale |= self._of_policy.get(ref, set())

    def settle(self) -> None:
        """Write what is to be written, drop what nobody uses any more: once at the end of each event."""
        written = []
        for key in sorted(self._stale):
            live = self.known.get(key)
            if live is None:
                continue
            families = tuple(family for family in FAMILIES if family in live.addresses)
            for section in key.sections:
                self._sections.use(section, families)
                self._sections.release(section, live.families)
            live.families = families
            written.append((key, live))
        self._sections.write()
        for key, live in written:
            if live.addresses:
                self._write(key, live.families)
            else:
                self._drop(key)
        self._sections.drop()
        self._stale.clear()

    def _write(self, key: ClassKey, families: tuple[Family, ...]) -> None:
        """Write a class's chain, and one for packets without a conntrack entry where they read it otherwise."""
        rules, name = compile_rules(key, self._index), names.class_chain(key)
        strays = frozenset(filter(self._sections.has_stray, key.sections))
        stray = names.stray_chain(name)
        if strays or names_ends(rules):
            self._chains.put(stray, class_chain(key, rules, families, "packet", strays))
            self._chains.put(name, class_chain(key, rules, families, "connection", strays))
        else:
            self._chains.put(name, class_chain(key, rules, families))
            self._chains.drop(stray)

    def _show(self, address: str, wanted: tuple[ClassKey, ...]) -> None:
        before = self._shown.get(address, ())
        if before == wanted:
            return
        family = family_of(address)
        if wanted:
            self._shown[address] = wanted
        else:
            self._shown.pop(address, None)
        for key in before:
            self._count(key, family, -1)
        for key in wanted:
            self._count(key, family, 1)
        for direction in DIRECTIONS:
            was, now = ([key for key in keys if key.direction == direction] for keys in (before, wanted))
            self._levels.use(len(now))
            for level in range(max(len(was), len(now))):
                chain = names.class_chain(now[level]) if level < len(now) else None
                self._live.map_to(names.class_map(direction, family, level), address, chain)
            self._levels.release(len(was))

    def _count(self, key: ClassKey, family: Family, by: int) -> None:
        live = self.known.get(key)
        if live is None:
            live = self.known[key] = LiveClass({})
            for ref in key.refs:
                self._of_policy.setdefault(ref, set()).add(key)
        count = live.addresses.get(family, 0) + by
        if count:
            live.addresses[family] = count
        else:
            del live.addresses[family]
        if tuple(family for family in FAMILIES if family in live.addresses) != live.families:
            self._stale.add(key)

    def _drop(self, key: ClassKey) -> None:
        del self.known[key]
        for ref in key.refs:
            self._of_policy[ref].discard(key)
            if not self._of_policy[ref]:
                del self._of_policy[ref]
        self._chains.drop(names.class_chain(key))
        self._chains.drop(names.stray_chain(names.class_chain(key)))
