"""The members of the peers in use: peer to identities, and identity to peers.

A peer is in use while an active policy names it. A new identity is compared only with peers that could select it:
each peer is indexed by one requirement (a label, a label key, or a namespace), so the cost of an event does not grow
with the number of peers.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator
from typing import TypeAlias

from nfagent.model.networkpolicy import PodPeer
from nfagent.model.objects import Labels
from nfagent.model.ref_counts import RefCounts
from nfagent.model.selectors import Requirement
from nfagent.state.cluster import ClusterState, Identity, labels_of

PeerIndexKey: TypeAlias = tuple[str, str, str]
"""What a peer is indexed by: ('label', key, value), ('key', key, ''), ('namespace', name, '') or ('any', '', '')."""

_ANY: PeerIndexKey = ("any", "", "")


class PeerIndex:
    """Members of the peers in use.

    members: peer -> identities that it selects
    of:      identity -> peers that select it; never empty
    """

    def __init__(self, cluster: ClusterState) -> None:
        """Start without peers."""
        self._cluster = cluster
        self.members: dict[PodPeer, set[Identity]] = {}
        self.of: dict[Identity, set[PodPeer]] = {}
        self._users: RefCounts[PodPeer] = RefCounts()
        self._by_requirement: dict[PeerIndexKey, set[PodPeer]] = {}

    def acquire(self, peer: PodPeer) -> None:
        """Add a policy that names a peer; the first one adds its members."""
        if not self._users.acquire(peer):
            return
        for key in _peer_keys(peer):
            self._by_requirement.setdefault(key, set()).add(peer)
        self.members[peer] = set()
        for identity in self._candidates(peer):
            if peer_selects(self._cluster, peer, identity):
                self._add_member(peer, identity)

    def release(self, peer: PodPeer) -> None:
        """Remove a policy that named a peer; the last one removes its members."""
        if not self._users.release(peer):
            return
        for key in _peer_keys(peer):
            self._by_requirement[key].discard(peer)
            if not self._by_requirement[key]:
                del self._by_requirement[key]
        for identity in list(self.members[peer]):
            self._remove_member(peer, identity)
        del self.members[peer]

    def appear(self, identity: Identity) -> None:
        """Add an identity that got its first Pod."""
        for peer in self._candidate_peers(identity):
            if peer_selects(self._cluster, peer, identity):
                self._add_member(peer, identity)

    def vanish(self, identity: Identity) -> None:
        """Remove an identity that lost its last Pod."""
        for peer in list(self.of.get(identity, ())):
            self._remove_member(peer, identity)

    def relabel(self, namespace: str) -> Iterator[tuple[PodPeer, Identity, bool]]:
        """Compare a relabelled Namespace's identities with the peers again (docs/semantics.md, edge case 18).

        Yield peer, identity, and whether it joined (True) or left.
        """
        for identity in self._cluster.by_namespace.get(namespace, ()):
            for peer in self._candidate_peers(identity):
                if peer.namespaces is None:
                    continue
                before, now = identity in self.members[peer], peer_selects(self._cluster, peer, identity)
                if before != now:
                    (self._add_member if now else self._remove_member)(peer, identity)
                    yield peer, identity, now

    def _add_member(self, peer: PodPeer, identity: Identity) -> None:
        self.members[peer].add(identity)
        self.of.setdefault(identity, set()).add(peer)

    def _remove_member(self, peer: PodPeer, identity: Identity) -> None:
        self.members[peer].discard(identity)
        self.of[identity].discard(peer)
        if not self.of[identity]:
            del self.of[identity]

    def _candidate_peers(self, identity: Identity) -> list[PodPeer]:
        """Return the peers in use that could select an identity."""
        found: list[PodPeer] = []
        for key in _identity_keys(identity.namespace, identity.labels):
            found += self._by_requirement.get(key, ())
        return found

    def _candidates(self, peer: PodPeer) -> Collection[Identity]:
        """Return the identities that a peer could select, narrowed by the cluster's inverted indexes."""
        narrowest: Collection[Identity] = self._cluster.members
        if peer.namespaces is None:
            narrowest = self._cluster.by_namespace.get(peer.namespace, ())
        size = len(narrowest)
        for requirement in peer.pods.requirements:
            found = self._carrying(requirement)
            if found is not None and len(found) < size:
                narrowest, size = found, len(found)
        return narrowest

    def _carrying(self, requirement: Requirement) -> set[Identity] | None:
        if requirement.operator == "In":
            by_label = self._cluster.by_label
            return set().union(*(by_label.get((requirement.key, value), ()) for value in requirement.values))
        if requirement.operator == "Exists":
            return self._cluster.by_key.get(requirement.key, set())
        return None


def peer_selects(cluster: ClusterState, peer: PodPeer, identity: Identity) -> bool:
    """Return whether a peer selects the Pods of an identity, by the present labels of the Namespaces."""
    if peer.namespaces is None:
        in_namespace = identity.namespace == peer.namespace
    else:
        in_namespace = peer.namespaces.matches(dict(cluster.namespace_labels(identity.namespace)))
    return in_namespace and peer.pods.matches(labels_of(identity))


def _peer_keys(peer: PodPeer) -> list[PeerIndexKey]:
    """Return keys such that every identity that the peer could select has one of them: one for each value of `In`."""
    for requirement in peer.pods.requirements:
        if requirement.operator == "In":
            return [("label", requirement.key, value) for value in requirement.values]
    if peer.namespaces is None:
        return [("namespace", peer.namespace, "")]
    for requirement in peer.pods.requirements:
        if requirement.operator == "Exists":
            return [("key", requirement.key, "")]
    return [_ANY]


def _identity_keys(namespace: str, labels: Labels) -> Iterator[PeerIndexKey]:
    yield _ANY
    yield ("namespace", namespace, "")
    for key, value in labels:
        yield ("label", key, value)
        yield ("key", key, "")
