"""Chains that policy sets share: one for each combination of a tier's policies, one for each large NetworkPolicy."""

from __future__ import annotations

from collections.abc import Iterable

from nfagent.desired.chain_store import ChainStore
from nfagent.model.netaddr import FAMILIES, Family
from nfagent.model.objects import ObjectRef
from nfagent.model.ref_counts import RefCounts
from nfagent.nftables import names
from nfagent.nftables.policy_chains import needs_untracked_chain, render_tier_chain
from nfagent.policy.compiler import CompiledPolicies, TierChainKey


class TierChains:
    """The tier chains, with the number of policy sets of each family that jump to them."""

    def __init__(self, compiled: CompiledPolicies, chains: ChainStore) -> None:
        """Start without chains."""
        self._compiled = compiled
        self._chains = chains
        self._users: dict[TierChainKey, RefCounts[Family]] = {}
        self._written_families: dict[TierChainKey, tuple[Family, ...]] = {}
        self._keys_of_policy: dict[ObjectRef, set[TierChainKey]] = {}
        self._dirty: set[TierChainKey] = set()
        self._untracked: set[TierChainKey] = set()

    def acquire(self, key: TierChainKey, families: tuple[Family, ...]) -> None:
        """Add a policy set that jumps to a tier chain, for the families that it is written for."""
        if key not in self._users:
            self._users[key] = RefCounts()
            for ref in key.policies:
                self._keys_of_policy.setdefault(ref, set()).add(key)
        for family in families:
            self._users[key].acquire(family)
        self._dirty.add(key)

    def release(self, key: TierChainKey, families: tuple[Family, ...]) -> None:
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

    def write(self) -> None:
        """Write new and changed tier chains: call it before the chains that jump there are written."""
        for key in sorted(self._dirty):
            families = self._families(key)
            if families and families != self._written_families.get(key):
                self._write(key, families)

    def drop(self) -> None:
        """Remove tier chains without users: call it after the chains that jumped there are written."""
        for key in self._dirty:
            if not self._families(key):
                self._drop(key)
            elif key not in self._untracked:
                self._chains.drop(names.untracked_chain(names.tier_chain_name(key)))
        self._dirty.clear()

    @property
    def is_current(self) -> bool:
        """Return whether `write` and `drop` have nothing to do."""
        return not self._dirty

    def has_untracked_chain(self, key: TierChainKey) -> bool:
        """Return whether a tier chain has a variant for untracked packets."""
        return key in self._untracked

    def _write(self, key: TierChainKey, families: tuple[Family, ...]) -> None:
        rules, name = self._compiled.rules(key), names.tier_chain_name(key)
        self._chains.put(name, render_tier_chain(key, rules, families))
        # Decided by the rules, not the families: which variant a policy set jumps to changes only with its policies.
        if needs_untracked_chain(rules):
            self._chains.put(names.untracked_chain(name), render_tier_chain(key, rules, families, "packet"))
            self._untracked.add(key)
        else:
            self._untracked.discard(key)
        self._written_families[key] = families

    def _families(self, key: TierChainKey) -> tuple[Family, ...]:
        return tuple(family for family in FAMILIES if family in self._users[key])

    def _drop(self, key: TierChainKey) -> None:
        del self._users[key]
        self._written_families.pop(key, None)
        for ref in key.policies:
            self._keys_of_policy[ref].discard(key)
            if not self._keys_of_policy[ref]:
                del self._keys_of_policy[ref]
        self._untracked.discard(key)
        self._chains.drop(names.tier_chain_name(key))
        self._chains.drop(names.untracked_chain(names.tier_chain_name(key)))
