"""The policy sets of this node's Pods, with their chains and verdict map elements.

A policy set is the combination of policies that select a Pod in one direction; Pods with the same one share a chain.
A Pod that is added, removed or selected by other policies moves between policy sets. A chain is written when its
policy set gets the first Pod, and again when its policies change; it is removed after the last Pod. Events only mark
Pods and policies; `steps` processes all marks at once. If each policy of a file were processed by itself, each would
make a policy set of its own, with a chain that repeats the rules of all policies before it.
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
from nfagent.model.objects import DIRECTIONS, ObjectRef, Pod
from nfagent.model.ref_counts import RefCounts
from nfagent.nftables import names
from nfagent.nftables.link_scope import ISOLATED, isolated_set
from nfagent.nftables.policy_chains import needs_untracked_set, render_policy_set
from nfagent.policy.chain_plan import ChainKey
from nfagent.policy.chain_plans import ChainPlans
from nfagent.policy.compiler import CompiledPolicies, PolicySetKey, policy_set_keys
from nfagent.policy.options import PolicyOptions
from nfagent.state.cluster import ClusterState, HolderKey, Identity, PodKey, holder_key, identity_of
from nfagent.state.policy_index import PolicyIndex


class PolicySet(msgspec.Struct):
    """The state of one policy set.

    chain:       the name of its chain
    addresses:   the number of addresses of each family that the verdict maps send to it
    families:    the families that its chain is written for
    tier_chains: the shared chains that it leads to
    """

    chain: str
    addresses: RefCounts[Family]
    families: tuple[Family, ...] = ()
    tier_chains: tuple[ChainKey, ...] = ()


class PolicySets:
    """The policy sets of this node, and their part of the desired ruleset."""

    def __init__(
        self,
        cluster: ClusterState,
        index: PolicyIndex,
        live: RulesetTracker,
        members: SetMembership,
        *,
        log_group: int,
        policy_options: PolicyOptions,
    ) -> None:
        """Start without Pods."""
        self._levels = AddressLevels(live, policy_options)
        live.add_set(ISOLATED, isolated_set())
        self._cluster = cluster
        self._index = index
        self._live = live
        self.verdict_chains = VerdictChains(live, log_group)
        self._chains = ChainStore(live, members, self.verdict_chains)
        self._compiled = CompiledPolicies(index)
        self._plans = ChainPlans(self._compiled)
        self._tier_chains = TierChains(self._compiled, self._plans, self._chains)
        self.known: dict[PolicySetKey, PolicySet] = {}
        # Chain -> its policy sets: two while audit mode of a policy changes.
        self._sets_of_chain: RefCounts[str] = RefCounts()
        self._keys_of_policy: dict[ObjectRef, set[PolicySetKey]] = {}
        # Address -> local Pods with that address, each with its policy sets: all of them apply.
        self._holders_of: dict[str, dict[HolderKey, tuple[PolicySetKey, ...]]] = {}
        self._addresses_of: dict[PodKey, tuple[HolderKey, tuple[str, ...]]] = {}
        self._keys_of_address: dict[str, tuple[PolicySetKey, ...]] = {}
        # The policy sets of Pods' identities, until the policy index changes: Pods of one identity have the same.
        self._keys_of_identity: dict[Identity, tuple[PolicySetKey, ...]] = {}
        # Marks for `steps`: identities, Pods, policy sets with other families or policies, policy sets to write.
        self._dirty_identities: set[Identity] = set()
        self._dirty_pods: dict[PodKey, None] = {}
        self._dirty: set[PolicySetKey] = set()
        self._unwritten: dict[PolicySetKey, None] = {}

    def mark_pod(self, key: PodKey) -> None:
        """Mark a Pod that was added, changed or removed; Pods of other nodes have no policy set."""
        if key in self._cluster.local or key in self._addresses_of:
            self._dirty_pods[key] = None

    def mark_identities(self, identities: Iterable[Identity]) -> None:
        """Mark identities that other policies select now; to be called after every change of the policy index."""
        self._keys_of_identity.clear()
        self._dirty_identities.update(identities)

    @property
    def is_current(self) -> bool:
        """Return whether no mark is left to process."""
        marks = self._dirty_identities or self._dirty_pods or self._dirty or self._unwritten
        return not marks and self._tier_chains.is_current

    @property
    def _is_selection_dirty(self) -> bool:
        """Return whether Pods are to be assigned; until then, policy sets may name policies that are gone."""
        return bool(self._dirty_pods or self._dirty_identities)

    def steps(self) -> Iterator[None]:
        """Process the marks, one Pod or chain a step. A caller that stops early leaves the rest for the next call.

        Until the end, maps may name chains that aren't written yet: changes must not be committed before.
        """
        while not self.is_current:
            while self._dirty_pods or self._dirty_identities:
                for identity in self._dirty_identities:
                    self._dirty_pods.update(dict.fromkeys(self._index.local.get(identity, ())))
                self._dirty_identities.clear()
                if self._dirty_pods:
                    self._assign(self._dirty_pods.popitem()[0])
                    yield
            for _ in self._tier_chain_steps():
                yield
                if self._is_selection_dirty:
                    break
            while self._unwritten and not self._is_selection_dirty:
                self._write(self._unwritten.popitem()[0])
                yield
            if not (self._unwritten or self._is_selection_dirty):
                self._tier_chains.drop()

    def _assign(self, key: PodKey) -> None:
        """Move a Pod to the policy sets of its policies; to none if it is gone or has no address."""
        pod = self._cluster.local.get(key)
        touched: dict[str, None] = {}
        if key in self._addresses_of:
            holder, addresses = self._addresses_of.pop(key)
            touched.update(dict.fromkeys(addresses))
            for address in addresses:
                del self._holders_of[address][holder]
                if not self._holders_of[address]:
                    del self._holders_of[address]
        if pod is not None and pod.holds_addresses:
            holder, addresses = self._addresses_of[key] = holder_key(pod), pod.addresses
            touched.update(dict.fromkeys(addresses))
            wanted = self._keys_of_pod(pod)
            for address in addresses:
                self._holders_of.setdefault(address, {})[holder] = wanted
        for address in touched:
            holders = self._holders_of.get(address, {})
            keys = (key for holder in sorted(holders) for key in holders[holder])
            self._map_address(address, tuple(dict.fromkeys(keys)))

    def _keys_of_pod(self, pod: Pod) -> tuple[PolicySetKey, ...]:
        identity = identity_of(pod)
        known = self._keys_of_identity.get(identity)
        if known is None:
            policies = self._index.policies_of(pod)
            audited = frozenset(policy.ref for policy in policies if self._index.is_audited(policy))
            known = self._keys_of_identity[identity] = tuple(policy_set_keys(policies, audited))
        return known

    def keys_of(self, address: str) -> tuple[PolicySetKey, ...]:
        """Return the policy sets that apply to an address."""
        return self._keys_of_address.get(address, ())

    def mark_policies(self, policies: Iterable[ObjectRef]) -> None:
        """Mark the policy sets and tier chains of changed policies."""
        changed = tuple(policies)
        self._tier_chains.mark_policies(changed)
        for ref in changed:
            self._dirty |= self._keys_of_policy.get(ref, set())

    def _tier_chain_steps(self) -> Iterator[None]:
        """Write the shared chains that policy sets need now, before the chains that lead there, one a step.

        Policy sets without Pods come first here, so their chains are removed last: what other chains also name is kept.
        """
        for _, key in sorted((bool(self.known[key].addresses), key) for key in self._dirty & self.known.keys()):
            live = self.known[key]
            families = tuple(family for family in FAMILIES if family in live.addresses)
            # The policies of a policy set without Pods may be gone.
            wanted = self._plans.shared_chains(key) if families else ()
            for tier_chain in wanted:
                self._tier_chains.acquire(tier_chain, families)
            for tier_chain in live.tier_chains:
                self._tier_chains.release(tier_chain, live.families)
            live.families, live.tier_chains = families, wanted
            self._unwritten[key] = None
            self._dirty.discard(key)
            yield
        yield from self._tier_chains.write_steps()

    def _write(self, key: PolicySetKey) -> None:
        """Write the chain of a policy set, and the variant for untracked packets if its rules differ for them.

        Remove both if the policy set has no Pods.
        """
        live = self.known.get(key)
        if live is None:
            return
        if not live.addresses:
            self._drop(key)
            return
        plan, name, families = self._plans.of_set(key), live.chain, live.families
        untracked = self._tier_chains.untracked(plan)
        variant = names.untracked_chain(name)
        if needs_untracked_set(plan, untracked):
            self._chains.put(variant, render_policy_set(key, plan, families, "packet", untracked=untracked))
        else:
            self._chains.drop(variant)
        self._chains.put(name, render_policy_set(key, plan, families, untracked=untracked))

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
            was = [self.known[key].chain for key in before if key.direction == direction]
            now = [self.known[key].chain for key in wanted if key.direction == direction]
            if was == now:
                continue
            self._levels.acquire(len(now))
            for level, chain in enumerate(now):
                self._live.map_to(names.policy_set_map(direction, family, level), address, chain)
            for level in range(len(now), len(was)):
                self._live.map_to(names.policy_set_map(direction, family, level), address, None)
            self._levels.release(len(was))
        if _isolates(before) != _isolates(wanted):
            (self._live.add if _isolates(wanted) else self._live.remove)(ISOLATED, family)

    def _acquire(self, key: PolicySetKey, family: Family) -> None:
        live = self.known.get(key)
        if live is None:
            live = self.known[key] = PolicySet(names.policy_set_chain(key), RefCounts())
            self._sets_of_chain.acquire(live.chain)
            for ref in key.refs:
                self._keys_of_policy.setdefault(ref, set()).add(key)
        if live.addresses.acquire(family):
            self._mark(key, live)

    def _release(self, key: PolicySetKey, family: Family) -> None:
        live = self.known[key]
        if live.addresses.release(family):
            self._mark(key, live)

    def _mark(self, key: PolicySetKey, live: PolicySet) -> None:
        """Mark a policy set for an update where its chain is written for other families than its addresses have."""
        if tuple(family for family in FAMILIES if family in live.addresses) != live.families:
            self._dirty.add(key)

    def _drop(self, key: PolicySetKey) -> None:
        live = self.known.pop(key)
        # A policy of it may have changed since its last Pod went: there is nothing left to update.
        self._dirty.discard(key)
        chain = live.chain
        for ref in key.refs:
            self._keys_of_policy[ref].discard(key)
            if not self._keys_of_policy[ref]:
                del self._keys_of_policy[ref]
                self._compiled.forget(ref)
        if self._sets_of_chain.release(chain):
            self._chains.drop(chain)
            self._chains.drop(names.untracked_chain(chain))


def _isolates(keys: tuple[PolicySetKey, ...]) -> bool:
    """Return whether policies restrict what an address receives: broadcast and multicast packets are dropped then."""
    return any(key.direction == "ingress" and key.can_deny for key in keys)
