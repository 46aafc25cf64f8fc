"""Which class this node's Pods are in, and the chains and sets that the classes need.

A Pod that comes, goes or is judged by others moves between classes; a class that got its first Pod, lost its last,
or whose policies changed is written anew; a set exists while a chain names it. Events only note what they concern:
it is worked off by `steps`, once for all that came together. A class stands for a set of policies, so one chain for
each policy of a file would be as many chains, each with the rules of all before it.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import msgspec

from nfagent.desired.chain_store import ChainStore
from nfagent.desired.set_members import SetMembership
from nfagent.desired.shared_addresses import AddressLevels
from nfagent.desired.tier_chains import TierChains
from nfagent.desired.tracker import RulesetTracker
from nfagent.desired.verdict_chains import VerdictChains
from nfagent.model.netaddr import FAMILIES, Family, family_of
from nfagent.model.objects import DIRECTIONS, ObjectRef
from nfagent.model.ref_counts import RefCounts
from nfagent.nftables import names
from nfagent.nftables.link_scope import ISOLATED, isolated_set
from nfagent.nftables.policy_chains import LogConfig, class_chain, names_ends
from nfagent.policy.compiler import CompiledPolicies, PolicySetKey, TierChainKey, policy_set_keys
from nfagent.policy.options import PolicyOptions
from nfagent.state.cluster import ClusterState, HolderKey, Identity, PodKey, holder_key
from nfagent.state.policy_index import PolicyIndex


class PolicySet(msgspec.Struct):
    """A class with Pods.

    addresses: how many addresses of each family dispatch to it
    families:  those that its chain was written for
    sections:  those that it jumps to
    """

    addresses: RefCounts[Family]
    families: tuple[Family, ...] = ()
    tier_chains: tuple[TierChainKey, ...] = ()


class PolicySets:
    """The classes of this node, and their part of the live ruleset."""

    def __init__(
        self,
        cluster: ClusterState,
        index: PolicyIndex,
        live: RulesetTracker,
        members: SetMembership,
        *,
        log: LogConfig,
        choices: PolicyOptions,
    ) -> None:
        """Start without Pods."""
        self._levels = AddressLevels(live, choices)
        live.add_set(ISOLATED, isolated_set())
        self._cluster = cluster
        self._index = index
        self._live = live
        self.verdict_chains = VerdictChains(live, log)
        self._chains = ChainStore(live, members, self.verdict_chains)
        self._compiled = CompiledPolicies(index)
        self._tier_chains = TierChains(self._compiled, self._chains)
        self.known: dict[PolicySetKey, PolicySet] = {}
        self._keys_of_policy: dict[ObjectRef, set[PolicySetKey]] = {}
        # Address -> local Pods that hold it, in the order of `holding`, each with its classes: all of them judge it.
        self._holders_of: dict[str, dict[HolderKey, tuple[PolicySetKey, ...]]] = {}
        self._order: dict[PodKey, HolderKey] = {}
        self._addresses_of: dict[PodKey, tuple[str, ...]] = {}
        self._keys_of_address: dict[str, tuple[PolicySetKey, ...]] = {}
        # What is to be worked off: identities, Pods, classes to be counted, classes to be written.
        self._dirty_identities: set[Identity] = set()
        self._dirty_pods: dict[PodKey, None] = {}
        self._dirty: set[PolicySetKey] = set()
        self._unwritten: dict[PolicySetKey, None] = {}

    def mark_pod(self, key: PodKey) -> None:
        """Note that a Pod came, went or changed; other nodes' Pods are in no class."""
        if key in self._cluster.local or key in self._addresses_of:
            self._dirty_pods[key] = None

    def mark_identities(self, identities: Iterable[Identity]) -> None:
        """Note that other policies judge these identities' Pods."""
        self._dirty_identities.update(identities)

    @property
    def is_current(self) -> bool:
        """Tell whether everything that was noted is worked off."""
        return not (self._dirty_identities or self._dirty_pods or self._dirty or self._unwritten)

    def steps(self) -> Iterator[None]:
        """Work off what was noted, a Pod or a chain at a time; who stops in between leaves the rest for later.

        Before the end, maps lead to chains that aren't written yet: nothing may be taken then.
        """
        while not self.is_current:
            while self._dirty_pods or self._dirty_identities:
                for identity in self._dirty_identities:
                    self._dirty_pods.update(dict.fromkeys(self._index.local.get(identity, ())))
                self._dirty_identities.clear()
                if self._dirty_pods:
                    self._assign(self._dirty_pods.popitem()[0])
                    yield
            self._update_tier_chains()
            while self._unwritten and not (self._dirty_pods or self._dirty_identities):
                self._write(self._unwritten.popitem()[0])
                yield
            if not self._unwritten:
                self._tier_chains.drop()

    def _assign(self, key: PodKey) -> None:
        """Put a Pod into the classes that its policies make; take one that is gone, or holds no address, out of all."""
        pod = self._cluster.local.get(key)
        addresses = pod.addresses if pod is not None and pod.holds_addresses else ()
        wanted = tuple(policy_set_keys(self._index.policies_of(pod))) if pod is not None else ()
        touched = dict.fromkeys((*self._addresses_of.get(key, ()), *addresses))
        before = self._order.pop(key, None)
        for address in self._addresses_of.pop(key, ()):
            if before is not None:
                del self._holders_of[address][before]
            if not self._holders_of[address]:
                del self._holders_of[address]
        if addresses and pod is not None:
            self._addresses_of[key] = addresses
            self._order[key] = holder_key(pod)
        for address in addresses:
            self._holders_of.setdefault(address, {})[self._order[key]] = wanted
        for address in touched:
            holders = self._holders_of.get(address, {})
            classes = [found for holder in sorted(holders) for found in holders[holder]]
            self._map_address(address, tuple(dict.fromkeys(classes)))

    def keys_of(self, address: str) -> tuple[PolicySetKey, ...]:
        """Name the classes that an address dispatches to."""
        return self._keys_of_address.get(address, ())

    def mark_policies(self, policies: Iterable[ObjectRef]) -> None:
        """Have the classes and sections of changed policies written anew."""
        changed = tuple(policies)
        self._tier_chains.mark_policies(changed)
        for ref in changed:
            self._dirty |= self._keys_of_policy.get(ref, set())

    def _update_tier_chains(self) -> None:
        """Write the sections that classes need now, before the chains that lead there.

        Chains without Pods go last: what others name as well stays as it is.
        """
        for _, key in sorted((bool(self.known[key].addresses), key) for key in self._dirty & self.known.keys()):
            live = self.known[key]
            families = tuple(family for family in FAMILIES if family in live.addresses)
            # Of a class without Pods, the policies may be gone.
            wanted = self._compiled.sections(key) if families else ()
            for section in wanted:
                self._tier_chains.acquire(section, families)
            for section in live.tier_chains:
                self._tier_chains.release(section, live.families)
            live.families, live.tier_chains = families, wanted
            self._unwritten[key] = None
        self._dirty.clear()
        self._tier_chains.write()

    def _write(self, key: PolicySetKey) -> None:
        """Write a class's chain, and one for packets without a conntrack entry where they read it otherwise.

        Where no Pod is in the class, drop both.
        """
        live = self.known.get(key)
        if live is None:
            return
        if not live.addresses:
            self._drop(key)
            return
        rules, name, families = self._compiled.rules(key), names.class_chain(key), live.families
        sections = live.tier_chains
        strays = frozenset(filter(self._tier_chains.has_untracked_chain, sections))
        stray = names.stray_chain(name)
        if strays or names_ends(rules):
            self._chains.put(stray, class_chain(key, rules, families, "packet", sections=sections, strays=strays))
            self._chains.put(name, class_chain(key, rules, families, "connection", sections=sections, strays=strays))
        else:
            self._chains.put(name, class_chain(key, rules, families, sections=sections))
            self._chains.drop(stray)

    def _map_address(self, address: str, wanted: tuple[PolicySetKey, ...]) -> None:
        before = self._keys_of_address.get(address, ())
        if before == wanted:
            return
        family = family_of(address)
        if wanted:
            self._keys_of_address[address] = wanted
        else:
            self._keys_of_address.pop(address, None)
        for key in before:
            self._release(key, family)
        for key in wanted:
            self._acquire(key, family)
        for direction in DIRECTIONS:
            was, now = ([key for key in keys if key.direction == direction] for keys in (before, wanted))
            self._levels.acquire(len(now))
            for level in range(max(len(was), len(now))):
                chain = names.class_chain(now[level]) if level < len(now) else None
                self._live.map_to(names.class_map(direction, family, level), address, chain)
            self._levels.release(len(was))
            if direction == "ingress" and bool(was) != bool(now):
                (self._live.add if now else self._live.remove)(ISOLATED, family)

    def _acquire(self, key: PolicySetKey, family: Family) -> None:
        live = self.known.get(key)
        if live is None:
            live = self.known[key] = PolicySet(RefCounts())
            for ref in key.refs:
                self._keys_of_policy.setdefault(ref, set()).add(key)
        live.addresses.acquire(family)
        self._mark(key, live)

    def _release(self, key: PolicySetKey, family: Family) -> None:
        live = self.known[key]
        live.addresses.release(family)
        self._mark(key, live)

    def _mark(self, key: PolicySetKey, live: PolicySet) -> None:
        """Mark a policy set for an update where its chain is written for other families than its addresses have."""
        if tuple(family for family in FAMILIES if family in live.addresses) != live.families:
            self._dirty.add(key)

    def _drop(self, key: PolicySetKey) -> None:
        del self.known[key]
        for ref in key.refs:
            self._keys_of_policy[ref].discard(key)
            if not self._keys_of_policy[ref]:
                del self._keys_of_policy[ref]
                self._compiled.forget(ref)
        self._chains.drop(names.class_chain(key))
        self._chains.drop(names.stray_chain(names.class_chain(key)))
