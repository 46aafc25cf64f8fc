"""Parts that classes share: one chain for all whose Pods the same policies of a tier judge, or one large policy."""

from __future__ import annotations

from collections.abc import Iterable

from nfagent.desired.chain_store import ChainStore
from nfagent.model.netaddr import FAMILIES, Family
from nfagent.model.objects import ObjectRef
from nfagent.model.ref_counts import RefCounts
from nfagent.nftables import names
from nfagent.nftables.policy_chains import names_ends, section_chain
from nfagent.policy.compiler import CompiledPolicies, TierChainKey


class TierChains:
    """Section chains, counted by the classes that jump there, family by family."""

    def __init__(self, compiled: CompiledPolicies, chains: ChainStore) -> None:
        """Start without classes."""
        self._compiled = compiled
        self._chains = chains
        self._users: dict[TierChainKey, RefCounts[Family]] = {}
        self._written_families: dict[TierChainKey, tuple[Family, ...]] = {}
        self._keys_of_policy: dict[ObjectRef, set[TierChainKey]] = {}
        self._dirty: set[TierChainKey] = set()
        self._untracked: set[TierChainKey] = set()

    def acquire(self, key: TierChainKey, families: tuple[Family, ...]) -> None:
        """Count one more class, for the families that it is written for."""
        if key not in self._users:
            self._users[key] = RefCounts()
            for ref in key.policies:
                self._keys_of_policy.setdefault(ref, set()).add(key)
        for family in families:
            self._users[key].acquire(family)
        self._dirty.add(key)

    def release(self, key: TierChainKey, families: tuple[Family, ...]) -> None:
        """Count one class less."""
        for family in families:
            self._users[key].release(family)
        self._dirty.add(key)

    def mark_policies(self, policies: Iterable[ObjectRef]) -> None:
        """Have the sections of changed policies written anew."""
        for ref in policies:
            for key in self._keys_of_policy.get(ref, ()):
                self._dirty.add(key)
                self._written_families.pop(key, None)

    def write(self) -> None:
        """Write what is new or changed: before the chains that lead there."""
        for key in sorted(self._dirty):
            families = self._families(key)
            if families and families != self._written_families.get(key):
                self._write(key, families)

    def drop(self) -> None:
        """Drop what no class leads to any more: after the chains that led there."""
        for key in self._dirty:
            if not self._families(key):
                self._drop(key)
            elif key not in self._untracked:
                self._chains.drop(names.stray_chain(names.section_chain(key)))
        self._dirty.clear()

    def has_untracked_chain(self, key: TierChainKey) -> bool:
        """Tell whether packets without a conntrack entry have a chain of their own in a section's place."""
        return key in self._untracked

    def _write(self, key: TierChainKey, families: tuple[Family, ...]) -> None:
        rules, name = self._compiled.rules(key), names.section_chain(key)
        self._chains.put(name, section_chain(key, rules, families))
        # By the rules alone, whatever the families: whether a class jumps there changes with its policies only.
        if names_ends(rules):
            self._chains.put(names.stray_chain(name), section_chain(key, rules, families, "packet"))
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
        self._chains.drop(names.section_chain(key))
        self._chains.drop(names.stray_chain(names.section_chain(key)))
