"""Chains that policy sets share: of a tier's policies, of a large NetworkPolicy, and those of audit mode."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from nfagent.desired.chain_store import ChainStore
from nfagent.model.netaddr import FAMILIES, Family
from nfagent.model.objects import ObjectRef
from nfagent.model.ref_counts import RefCounts
from nfagent.nftables import names
from nfagent.nftables.policy_chains import needs_untracked_chain, render_chain
from nfagent.policy.chain_plan import ChainKey, ChainPlan
from nfagent.policy.chain_plans import ChainPlans
from nfagent.policy.compiler import CompiledPolicies


class TierChains:
    """The tier chains, with the number of policy sets of each family that jump to them."""

    def __init__(self, compiled: CompiledPolicies, plans: ChainPlans, chains: ChainStore) -> None:
        """Start without chains."""
        self._compiled = compiled
        self._plans = plans
        self._chains = chains
        self._users: dict[ChainKey, RefCounts[Family]] = {}
        self._written_families: dict[ChainKey, tuple[Family, ...]] = {}
        self._keys_of_policy: dict[ObjectRef, set[ChainKey]] = {}
        self._dirty: set[ChainKey] = set()
        self._untracked: set[ChainKey] = set()

    def acquire(self, key: ChainKey, families: tuple[Family, ...]) -> None:
        """Add a policy set that jumps to a tier chain, for the families that it is written for."""
        if key not in self._users:
            self._users[key] = RefCounts()
            for ref in key.policies:
                self._keys_of_policy.setdefault(ref, set()).add(key)
        for family in families:
            self._users[key].acquire(family)
        self._dirty.add(key)

    def release(self, key: ChainKey, families: tuple[Family, ...]) -> None:
        """Remove a policy set that jumped to a tier chain."""
        for family in families:
            self._users[key].release(family)
        self._dirty.add(key)

    def mark_policies(self, policies: Iterable[ObjectRef]) -> None:
        """Mark the tier chains of changed policies to be written again."""
        for ref in policies:
            for key in self._keys_of_policy.get(ref, ()):
                self._dirty.add(key)
                self._written_families.pop(key, None)

    def write_steps(self) -> Iterator[None]:
        """Write new and changed chains, one a step: all of them before the chains that jump there are written.

        A caller that stops early leaves the rest for the next call.
        """
        for key in sorted(self._dirty, key=names.chain_name):
            families = self._families(key)
            if families and families != self._written_families.get(key):
                yield from self._write(key, families)

    def drop(self) -> None:
        """Remove tier chains without users: call it after the chains that jumped there are written."""
        for key in self._dirty:
            if not self._families(key):
                self._drop(key)
            elif key not in self._untracked:
                self._chains.drop(names.untracked_chain(names.chain_name(key)))
        self._dirty.clear()

    @property
    def is_current(self) -> bool:
        """Return whether `write` and `drop` have nothing to do."""
        return not self._dirty

    def untracked(self, plan: ChainPlan) -> frozenset[ChainKey]:
        """Return those of the chains that a chain refers to that have a variant for untracked packets."""
        return frozenset(filter(self._needs_untracked_chain, plan.chains))

    def _needs_untracked_chain(self, key: ChainKey) -> bool:
        # Decided by the rules, not the families: which variant a policy set jumps to changes only with its policies.
        return needs_untracked_chain(self._compiled.all_rules(key.policies, key.direction))

    def _write(self, key: ChainKey, families: tuple[Family, ...]) -> Iterator[None]:
        plan, name = self._plans.of(key), names.chain_name(key)
        # Where the caller stops before the end, the chain is neither as it was nor whole.
        self._written_families.pop(key, None)
        self._chains.put(name, render_chain(key.direction, plan, families))
        yield
        if self._needs_untracked_chain(key):
            variant = render_chain(key.direction, plan, families, "packet", untracked=self.untracked(plan))
            self._chains.put(names.untracked_chain(name), variant)
            self._untracked.add(key)
            yield
        else:
            self._untracked.discard(key)
        self._written_families[key] = families

    def _families(self, key: ChainKey) -> tuple[Family, ...]:
        return tuple(family for family in FAMILIES if family in self._users[key])

    def _drop(self, key: ChainKey) -> None:
        del self._users[key]
        self._plans.forget(key)
        self._written_families.pop(key, None)
        for ref in key.policies:
            self._keys_of_policy[ref].discard(key)
            if not self._keys_of_policy[ref]:
                del self._keys_of_policy[ref]
        self._untracked.discard(key)
        self._chains.drop(names.chain_name(key))
        self._chains.drop(names.untracked_chain(names.chain_name(key)))
