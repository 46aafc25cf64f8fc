"""Which class this node's Pods are in, and the chains and sets that the classes need.

Driven by the event: a Pod that comes, goes or is selected differently moves between classes; a class that got
its first Pod, lost its last, or whose policies changed is written anew; a set exists while a chain names it.
"""

from __future__ import annotations

from collections.abc import Iterable

import msgspec

from nfagent.cluster.address import FAMILIES, Family, family_of
from nfagent.cluster.model import DIRECTIONS, Direction, Ref
from nfagent.cluster.state import ClusterState, PodKey
from nfagent.policy.compile import ClassKey, class_keys, class_rules
from nfagent.policy.index import PolicyIndex
from nfagent.ruleset import names
from nfagent.ruleset.live import LiveRuleset
from nfagent.ruleset.lower import LogPlan, allow_chain, class_chain
from nfagent.ruleset.members import Members
from nfagent.ruleset.origins import Origins, allowed_by, denied_by


class LiveClass(msgspec.Struct):
    """A class with Pods.

    addresses: how many addresses of each family dispatch to it
    sets:      names of the sets that its chain names
    allowing:  policies whose outcome chains it goes to
    families:  those that its chain was written for
    """

    addresses: dict[Family, int]
    sets: frozenset[str] = frozenset()
    allowing: frozenset[Ref] = frozenset()
    families: tuple[Family, ...] = ()


class Classes:
    """The classes of this node, and their part of the live ruleset."""

    def __init__(self, cluster: ClusterState, index: PolicyIndex, live: LiveRuleset, members: Members) -> None:
        """Start without Pods."""
        self._cluster = cluster
        self._index = index
        self._live = live
        self._members = members
        self.log = LogPlan()
        self.known: dict[ClassKey, LiveClass] = {}
        self._of_policy: dict[Ref, set[ClassKey]] = {}
        # Address -> local Pods that hold it, each with its classes; the first by name is who the address stands for.
        self._claims: dict[str, dict[PodKey, tuple[ClassKey, ...]]] = {}
        self._claimed: dict[PodKey, tuple[str, ...]] = {}
        self._shown: dict[str, tuple[ClassKey, ...]] = {}
        self._allow_users: dict[tuple[Direction, Ref], int] = {}
        self.origins = Origins()
        self._stale: set[ClassKey] = set()

    def assign(self, key: PodKey) -> None:
        """Put a Pod into the classes that its policies make; take one that is gone, or holds no address, out of all."""
        pod = self._cluster.local.get(key)
        addresses = pod.addresses if pod is not None and pod.holds_addresses else ()
        wanted = tuple(class_keys(self._index.policies_of(pod))) if pod is not None else ()
        touched = dict.fromkeys((*self._claimed.get(key, ()), *addresses))
        for address in self._claimed.pop(key, ()):
            del self._claims[address][key]
            if not self._claims[address]:
                del self._claims[address]
        if addresses:
            self._claimed[key] = addresses
        for address in addresses:
            self._claims.setdefault(address, {})[key] = wanted
        for address in touched:
            holders = self._claims.get(address)
            self._show(address, holders[min(holders)] if holders else ())

    def of(self, address: str) -> tuple[ClassKey, ...]:
        """Name the classes that an address dispatches to."""
        return self._shown.get(address, ())

    def rewrite(self, policies: Iterable[Ref]) -> None:
        """Have the classes of changed policies written anew."""
        for ref in policies:
            self._stale |= self._of_policy.get(ref, set())

    def rewrite_all(self) -> None:
        """Have every class written anew: logging was switched."""
        self._stale |= self.known.keys()
        for direction, ref in self._allow_users:
            self._live.put_chain(names.allow_chain(direction, ref), allow_chain(direction, ref, self.log))

    def settle(self) -> None:
        """Write what is to be written, drop what nobody uses any more: once at the end of each event."""
        for key in sorted(self._stale):
            live = self.known.get(key)
            if live is None:
                continue
            if not live.addresses:
                self._drop(key, live)
            else:
                self._write(key, live)
        self._stale.clear()

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
            chain = next((names.class_chain(key) for key in wanted if key.direction == direction), None)
            self._live.map_to(names.set_name(direction, family), address, chain)

    def _count(self, key: ClassKey, family: Family, by: int) -> None:
        live = self.known.get(key)
        if live is None:
            live = self.known[key] = LiveClass({})
            for ref in key.policies:
                self._of_policy.setdefault(ref, set()).add(key)
        count = live.addresses.get(family, 0) + by
        if count:
            live.addresses[family] = count
        else:
            del live.addresses[family]
        if tuple(family for family in FAMILIES if family in live.addresses) != live.families:
            self._stale.add(key)

    def _write(self, key: ClassKey, live: LiveClass) -> None:
        rules = class_rules(key, self._index)
        live.families = tuple(family for family in FAMILIES if family in live.addresses)
        chain, contents = class_chain(key, rules, live.families, self.log)
        allowing = frozenset(rule.policy for rule in rules)
        # What is needed now is taken before what was is given back: what both name stays as it is.
        for name, content in contents.items():
            if name not in live.sets:
                self._members.use(name, content)
        for ref in allowing - live.allowing:
            self._use_allow(key.direction, ref)
        self._live.put_counter(names.deny_counter(key))
        self.origins.add(denied_by(key))
        self._live.put_chain(names.class_chain(key), chain)
        self._release(key, live.sets - contents.keys(), live.allowing - allowing)
        live.sets, live.allowing = frozenset(contents), allowing

    def _drop(self, key: ClassKey, live: LiveClass) -> None:
        del self.known[key]
        for ref in key.policies:
            self._of_policy[ref].discard(key)
            if not self._of_policy[ref]:
                del self._of_policy[ref]
        chain = names.class_chain(key)
        if chain in self._live.chains:
            self._live.drop_chain(chain)
            self._live.drop_counter(names.deny_counter(key))
            self.origins.retire(denied_by(key))
        self._release(key, live.sets, live.allowing)

    def _release(self, key: ClassKey, sets: frozenset[str], allowing: frozenset[Ref]) -> None:
        for name in sets:
            self._members.release(name)
        for ref in allowing:
            self._release_allow(key.direction, ref)

    def _use_allow(self, direction: Direction, ref: Ref) -> None:
        users = self._allow_users.get((direction, ref), 0)
        self._allow_users[direction, ref] = users + 1
        if not users:
            name = names.allow_chain(direction, ref)
            self._live.put_counter(name)
            self._live.put_chain(name, allow_chain(direction, ref, self.log))
            self.origins.add(allowed_by(direction, ref))

    def _release_allow(self, direction: Direction, ref: Ref) -> None:
        self._allow_users[direction, ref] -= 1
        if not self._allow_users[direction, ref]:
            del self._allow_users[direction, ref]
            name = names.allow_chain(direction, ref)
            self._live.drop_chain(name)
            self._live.drop_counter(name)
            self.origins.retire(allowed_by(direction, ref))
