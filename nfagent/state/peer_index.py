"""Which identities are meant by the peers that are in use, and the other way round.

A peer is in use while an active policy names it. An identity that appears is held only against the peers
whose selectors could take it: peers are filed under one thing that they require (a label's value, a label's
key, a namespace), so an event's cost doesn't grow with the number of peers.
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
"""Where a peer is filed: ('label', key, value), ('key', key, ''), ('namespace', name, '') or ('any', '', '')."""

_ANY: PeerIndexKey = ("any", "", "")


class PeerIndex:
    """Members of the peers in use.

    members: peer -> identities that it means
    of:      identity -> peers that mean it; never empty
    """

    def __init__(self, cluster: ClusterState) -> None:
        """Start without peers."""
        self._cluster = cluster
        self.members: dict[PodPeer, set[Identity]] = {}
        self.of: dict[Identity, set[PodPeer]] = {}
        self._users: RefCounts[PodPeer] = RefCounts()
        self._filed: dict[PeerIndexKey, set[PodPeer]] = {}

    def acquire(self, peer: PodPeer) -> None:
        """Count one more policy that names a peer; the first brings its members."""
        if not self._users.acquire(peer):
            return
        for key in _peer_keys(peer):
            self._filed.setdefault(key, set()).add(peer)
        self.members[peer] = set()
        for identity in self._candidates(peer):
            if peer_selects(self._cluster, peer, identity):
                self._join(peer, identity)

    def release(self, peer: PodPeer) -> None:
        """Count one policy less; the last takes the members away."""
        if not self._users.release(peer):
            return
        for key in _peer_keys(peer):
            self._filed[key].discard(peer)
            if not self._filed[key]:
                del self._filed[key]
        for identity in list(self.members[peer]):
            self._leave(peer, identity)
        del self.members[peer]

    def appear(self, identity: Identity) -> None:
        """Take in an identity that had no Pod before."""
        for peer in self._candidate_peers(identity):
            if peer_selects(self._cluster, peer, identity):
                self._join(peer, identity)

    def vanish(self, identity: Identity) -> None:
        """Forget an identity that has no Pod any more."""
        for peer in list(self.of.get(identity, ())):
            self._leave(peer, identity)

    def relabel(self, namespace: str) -> Iterator[tuple[PodPeer, Identity, bool]]:
        """Judge a relabelled Namespace's identities again (corner-cases.md 18); give who joined (True) or left what."""
        for identity in self._cluster.by_namespace.get(namespace, ()):
            for peer in self._candidate_peers(identity):
                if peer.namespaces is None:
                    continue
                before, now = identity in self.members[peer], peer_selects(self._cluster, peer, identity)
                if before != now:
                    (self._join if now else self._leave)(peer, identity)
                    yield peer, identity, now

    def _join(self, peer: PodPeer, identity: Identity) -> None:
        self.members[peer].add(identity)
        self.of.setdefault(identity, set()).add(peer)

    def _leave(self, peer: PodPeer, identity: Identity) -> None:
        self.members[peer].discard(identity)
        self.of[identity].discard(peer)
        if not self.of[identity]:
            del self.of[identity]

    def _candidate_peers(self, identity: Identity) -> list[PodPeer]:
        """Give the peers in use whose selectors could take an identity."""
        found: list[PodPeer] = []
        for key in _identity_keys(identity.namespace, identity.labels):
            found += self._filed.get(key, ())
        return found

    def _candidates(self, peer: PodPeer) -> Collection[Identity]:
        """Narrow the identities by the cluster's inverted indexes, as far as the selector lets us."""
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
    """Tell whether a peer means the Pods of an identity, by the Namespaces' labels of now."""
    if peer.namespaces is None:
        in_namespace = identity.namespace == peer.namespace
    else:
        in_namespace = peer.namespaces.matches(dict(cluster.namespace_labels(identity.namespace)))
    return in_namespace and peer.pods.matches(labels_of(identity))


def _peer_keys(peer: PodPeer) -> list[PeerIndexKey]:
    """File a peer where every identity that it could mean looks: one key, or one for each value of a label."""
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
