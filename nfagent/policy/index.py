"""Which policies select this node's Pods, and which identities are peers of those policies.

Kept by the event, never rebuilt per change: a policy is *active* while it selects an identity that has a
Pod on this node, and only the peers of active policies have members here. `rebuilt` makes the same index
anew, for the tests to compare.
"""

from __future__ import annotations

from collections.abc import Iterable

from nfagent.cluster.model import Pod, Ref
from nfagent.cluster.state import Change, ClusterState, Identity, PodKey, identity_of
from nfagent.policy.model import NetworkPolicy, PodPeer, Requirement


class PolicyIndex:
    """The policies, and what they mean for this node.

    policies:     every NetworkPolicy of the cluster
    local:        identities with Pods on this node -> those Pods' keys
    selecting:    such an identity -> the policies that select it
    active:       policy -> the local identities that it selects; never empty
    peers:        Pod peer of an active policy -> the identities that it means
    """

    def __init__(self, cluster: ClusterState) -> None:
        """Start without policies, over a cluster whose changes will be told to `follow`."""
        self._cluster = cluster
        self.policies: dict[Ref, NetworkPolicy] = {}
        self._by_namespace: dict[str, set[Ref]] = {}
        self.local: dict[Identity, set[PodKey]] = {}
        self.selecting: dict[Identity, set[Ref]] = {}
        self.active: dict[Ref, set[Identity]] = {}
        self.peers: dict[PodPeer, set[Identity]] = {}
        self._peer_users: dict[PodPeer, int] = {}
        for pod in cluster.local.values():
            self._enrol(pod)

    def put(self, policy: NetworkPolicy) -> bool:
        """Take in a policy, new or changed; tell whether anything changed."""
        if self.policies.get(policy.ref) == policy:
            return False
        self.remove(policy.ref)
        self.policies[policy.ref] = policy
        self._by_namespace.setdefault(policy.namespace, set()).add(policy.ref)
        for identity in self.local:
            if identity.namespace == policy.namespace and policy.pods.matches(dict(identity.labels)):
                self._select(policy, identity)
        return True

    def remove(self, ref: Ref) -> bool:
        """Drop a policy; tell whether it was there."""
        policy = self.policies.get(ref)
        if policy is None:
            return False
        for identity in list(self.active.get(ref, ())):
            self._unselect(policy, identity)
        del self.policies[ref]
        self._by_namespace[ref.namespace].discard(ref)
        if not self._by_namespace[ref.namespace]:
            del self._by_namespace[ref.namespace]
        return True

    def follow(self, change: Change) -> None:
        """Take in what an event changed in the cluster."""
        if change.vanished is not None:
            for members in self.peers.values():
                members.discard(change.vanished)
        if change.appeared is not None:
            self._join(change.appeared, self.peers)
        if change.namespace is not None:
            self._rejoin(change.namespace)
        if change.pod is not None:
            before, after = change.pod
            if before is not None and self._is_local(before):
                self._dismiss(before)
            if after is not None and self._is_local(after):
                self._enrol(after)

    def in_namespace(self, namespace: str) -> tuple[NetworkPolicy, ...]:
        """Give all policies of a Namespace, by name."""
        return tuple(self.policies[ref] for ref in sorted(self._by_namespace.get(namespace, ())))

    def policies_of(self, pod: Pod) -> tuple[NetworkPolicy, ...]:
        """Give the policies that select a Pod of this node, in order of namespace and name."""
        refs = self.selecting.get(identity_of(pod), ())
        return tuple(self.policies[ref] for ref in sorted(refs))

    def rebuilt(self) -> PolicyIndex:
        """Make the same index anew from cluster and policies alone."""
        fresh = PolicyIndex(self._cluster)
        for policy in self.policies.values():
            fresh.put(policy)
        return fresh

    def _is_local(self, pod: Pod) -> bool:
        return pod.node == self._cluster.node and not pod.host_network

    def _enrol(self, pod: Pod) -> None:
        identity = identity_of(pod)
        self.local.setdefault(identity, set()).add((pod.namespace, pod.name))
        if len(self.local[identity]) == 1:
            labels = dict(identity.labels)
            for ref in self._by_namespace.get(identity.namespace, ()):
                if self.policies[ref].pods.matches(labels):
                    self._select(self.policies[ref], identity)

    def _dismiss(self, pod: Pod) -> None:
        identity = identity_of(pod)
        self.local[identity].discard((pod.namespace, pod.name))
        if not self.local[identity]:
            del self.local[identity]
            for ref in list(self.selecting.get(identity, ())):
                self._unselect(self.policies[ref], identity)

    def _select(self, policy: NetworkPolicy, identity: Identity) -> None:
        self.selecting.setdefault(identity, set()).add(policy.ref)
        if policy.ref not in self.active:
            self.active[policy.ref] = set()
            for peer in pod_peers(policy):
                self._peer_users[peer] = self._peer_users.get(peer, 0) + 1
                if peer not in self.peers:
                    self.peers[peer] = self._members(peer)
        self.active[policy.ref].add(identity)

    def _unselect(self, policy: NetworkPolicy, identity: Identity) -> None:
        self.selecting[identity].discard(policy.ref)
        if not self.selecting[identity]:
            del self.selecting[identity]
        self.active[policy.ref].discard(identity)
        if not self.active[policy.ref]:
            del self.active[policy.ref]
            for peer in pod_peers(policy):
                self._peer_users[peer] -= 1
                if not self._peer_users[peer]:
                    del self._peer_users[peer], self.peers[peer]

    def _members(self, peer: PodPeer) -> set[Identity]:
        return {identity for identity in self._candidates(peer) if self._means(peer, identity)}

    def _candidates(self, peer: PodPeer) -> Iterable[Identity]:
        """Narrow the identities by the inverted indexes, as far as the selector lets us."""
        if peer.namespaces is None:
            return self._cluster.by_namespace.get(peer.namespace, ())
        narrowest: Iterable[Identity] = self._cluster.members
        size = len(self._cluster.members)
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

    def _means(self, peer: PodPeer, identity: Identity) -> bool:
        if peer.namespaces is None:
            in_namespace = identity.namespace == peer.namespace
        else:
            in_namespace = peer.namespaces.matches(dict(self._cluster.namespace_labels(identity.namespace)))
        return in_namespace and peer.pods.matches(dict(identity.labels))

    def _join(self, identity: Identity, peers: Iterable[PodPeer]) -> None:
        for peer in peers:
            if self._means(peer, identity):
                self.peers[peer].add(identity)

    def _rejoin(self, namespace: str) -> None:
        """Judge a relabelled Namespace's identities again (corner-cases.md 18)."""
        identities = self._cluster.by_namespace.get(namespace, set())
        concerned = [peer for peer in self.peers if peer.namespaces is not None]
        for peer in concerned:
            self.peers[peer] -= identities
        for identity in identities:
            self._join(identity, concerned)


def pod_peers(policy: NetworkPolicy) -> set[PodPeer]:
    """Collect the Pod peers that a policy's rules name, each once."""
    rules = (*policy.rules("ingress"), *policy.rules("egress"))
    return {peer for rule in rules for peer in rule.peers if isinstance(peer, PodPeer)}
