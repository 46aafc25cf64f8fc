"""The identities of addresses: Pods with the same namespace, labels and named ports share one. Pure."""

from __future__ import annotations

from collections.abc import Iterable
from itertools import count

import msgspec

from nfagent.lab.ebpf.codec import HOST, SERVICE
from nfagent.lab.ebpf.grants import PeerKey
from nfagent.lab.ebpf.prefixes import prefixes
from nfagent.model.objects import Pod
from nfagent.model.ref_counts import RefCounts
from nfagent.state.cluster import ClusterState, Identity, identity_of


class IdentityChange(msgspec.Struct):
    """Addresses and CIDRs with another identity than before, and the peer keys that appeared and vanished.

    replaced: whether an address had another identity before
    """

    puts: dict[str, int] = msgspec.field(default_factory=dict)
    deletes: set[str] = msgspec.field(default_factory=set)
    new: set[PeerKey] = msgspec.field(default_factory=set)
    gone: set[PeerKey] = msgspec.field(default_factory=set)
    replaced: bool = False


class EbpfIdentities:
    """The identity of every address of a Pod, or of this node.

    numbers: peer key -> its identity
    keys_of: identity of the cluster state -> the peer keys that it is part of
    """

    def __init__(self, cluster: ClusterState, identities: count[int]) -> None:
        """Start without addresses; `identities` gives new numbers."""
        self._cluster = cluster
        self._identities = identities
        self.numbers: dict[PeerKey, int] = {}
        self.keys_of: dict[Identity, set[PeerKey]] = {}
        self._users: RefCounts[PeerKey] = RefCounts()
        self._key_of_address: dict[str, PeerKey | None] = {}
        self._dirty: dict[str, None] = {}
        self._services: frozenset[str] = frozenset()
        self._services_changed = False

    def mark_services(self) -> None:
        """Mark that a Service or a ServiceCIDR changed."""
        self._services_changed = True

    def mark(self, addresses: Iterable[str]) -> None:
        """Mark addresses of Pods or of this node that changed."""
        self._dirty.update(dict.fromkeys(addresses))

    def assign(self) -> IdentityChange:
        """Give the marked addresses their identities; `forget` is called when the entries of `gone` are deleted."""
        change = IdentityChange()
        own = self._cluster.nodes.get(self._cluster.node)
        hosts = own.addresses if own is not None else ()
        for address in self._dirty:
            self._assign(address, change, is_host=address in hosts)
        self._dirty.clear()
        if self._services_changed:
            self._services_changed = False
            self._assign_services(change)
        return change

    def _assign_services(self, change: IdentityChange) -> None:
        """Give the addresses of Services theirs: policies are about the Pods behind them, which aren't known there."""
        cluster, before = self._cluster, self._services
        ranges = [item for known in cluster.service_ranges.values() for item in known.cidrs]
        single = (address for service in cluster.services.values() for address in service.cluster_addresses)
        self._services = frozenset((*map(str, prefixes(ranges)), *single)) - self._key_of_address.keys()
        change.puts |= dict.fromkeys(self._services - before, SERVICE)
        change.deletes |= before - self._services - self._key_of_address.keys()

    def _assign(self, address: str, change: IdentityChange, *, is_host: bool) -> None:
        known = address in self._key_of_address
        before = self._key_of_address.get(address)
        pods = self._cluster.by_address.get(address, ())
        if not pods and not is_host:
            if known:
                del self._key_of_address[address]
                change.deletes.add(address)
                self._release(before, change)
            return
        after = None if is_host else self._key_of(pods)
        if known and before == after:
            return
        self._key_of_address[address] = after
        if after is not None:
            self._acquire(after, change)
        if known:
            self._release(before, change)
            change.replaced = True
        change.puts[address] = HOST if after is None else self.numbers[after]

    def forget(self, keys: Iterable[PeerKey]) -> None:
        """Forget peer keys that no address has any more."""
        for key in keys:
            del self.numbers[key]
            for identity, _ports in key:
                keys_of = self.keys_of.get(identity)
                if keys_of is not None:
                    keys_of.discard(key)
                    if not keys_of:
                        del self.keys_of[identity]

    def _key_of(self, pods: tuple[Pod, ...]) -> PeerKey:
        # The Identity objects that the indexes share: comparing those is comparing by `is`.
        return tuple((self._cluster.members[identity_of(pod)].identity, pod.ports) for pod in pods)

    def _acquire(self, key: PeerKey, change: IdentityChange) -> None:
        if not self._users.acquire(key):
            return
        change.gone.discard(key)
        if key not in self.numbers:
            self.numbers[key] = next(self._identities)
            change.new.add(key)
            for identity, _ports in key:
                self.keys_of.setdefault(identity, set()).add(key)

    def _release(self, key: PeerKey | None, change: IdentityChange) -> None:
        if key is not None and self._users.release(key):
            change.gone.add(key)
