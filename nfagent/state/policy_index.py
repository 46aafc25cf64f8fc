"""The policies that select this node's Pods, and the identities that are peers of those policies.

A NetworkPolicy selects Pods of its own Namespace; an admin tier policy has a subject in any Namespace. A policy is
*active* while it selects an identity with a Pod on this node; only peers of active policies have members here. Each
event updates the index and returns an IndexDelta: the identities that other policies select, and the peers whose
members changed. `rebuilt` computes the same index from the objects, for tests to compare.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator

import msgspec

from nfagent.model.admin_policy import Policy, TierRule
from nfagent.model.networkpolicy import NetworkPolicy, NetworkPolicyRule, PodPeer
from nfagent.model.objects import ObjectRef, Pod
from nfagent.state.cluster import ClusterDelta, ClusterState, Identity, PodKey, identity_of, labels_of
from nfagent.state.peer_index import PeerIndex, peer_selects


class IndexDelta(msgspec.Struct, kw_only=True):
    """What a change affects beyond its own object.

    reselected: local identities that other policies, or changed ones, select now
    rewritten:  policies whose rules are new or different
    moved:      (peer, identity, joined) for present identities that became members (True) or are members no longer
    forgotten:  peers that no active policy names any more
    """

    reselected: set[Identity] = msgspec.field(default_factory=set)
    rewritten: set[ObjectRef] = msgspec.field(default_factory=set)
    moved: list[tuple[PodPeer, Identity, bool]] = msgspec.field(default_factory=list)
    forgotten: set[PodPeer] = msgspec.field(default_factory=set)


class PolicyIndex:
    """The policies of the cluster, indexed for this node.

    policies:     every policy of the cluster
    local:        identities with Pods on this node -> those Pods' keys
    selecting:    local identity -> the policies that select it, by podSelector or subject
    active:       policy -> the local identities that it selects; never empty
    peers:        members of the Pod peers of active policies
    """

    def __init__(self, cluster: ClusterState) -> None:
        """Start without policies; pass every change of the cluster to `follow`."""
        self._cluster = cluster
        self.policies: dict[ObjectRef, Policy] = {}
        # By the policy's own Namespace: '' for admin tier policies.
        self._by_namespace: dict[str, set[ObjectRef]] = {}
        self.local: dict[Identity, set[PodKey]] = {}
        self._local_in: dict[str, set[Identity]] = {}
        self.selecting: dict[Identity, set[ObjectRef]] = {}
        self.active: dict[ObjectRef, set[Identity]] = {}
        self.peers = PeerIndex(cluster)
        for pod in cluster.local.values():
            self._add_pod(pod)

    def put(self, policy: Policy) -> IndexDelta | None:
        """Add or replace a policy. Return None for an equal one."""
        before = self.policies.get(policy.ref)
        if before == policy:
            return None
        delta = IndexDelta(rewritten={policy.ref})
        namespace = policy.ref.namespace
        near = self._local_in.get(namespace, ()) if namespace else self.local
        wanted = {identity for identity in near if self.selects(policy, identity)}
        had = set(self.active.get(policy.ref, ()))
        if wanted:
            for peer in pod_peers(policy):
                self.peers.acquire(peer)
        if before is not None and had:
            self._release(before, delta)
        self.policies[policy.ref] = policy
        self._by_namespace.setdefault(namespace, set()).add(policy.ref)
        for identity in had - wanted:
            self._unlink(policy.ref, identity)
        for identity in wanted:
            self._link(policy.ref, identity)
        delta.reselected |= had | wanted
        return delta

    def remove(self, ref: ObjectRef) -> IndexDelta | None:
        """Remove a policy. Return None if it does not exist."""
        policy = self.policies.get(ref)
        if policy is None:
            return None
        selected = set(self.active.get(ref, ()))
        delta = IndexDelta(reselected=selected)
        for identity in selected:
            self._unlink(ref, identity)
        if selected:
            self._release(policy, delta)
        del self.policies[ref]
        self._by_namespace[ref.namespace].discard(ref)
        if not self._by_namespace[ref.namespace]:
            del self._by_namespace[ref.namespace]
        return delta

    def follow(self, change: ClusterDelta) -> IndexDelta:
        """Apply a change of the cluster."""
        delta = IndexDelta()
        if change.vanished is not None:
            self.peers.vanish(change.vanished)
        if change.appeared is not None:
            self.peers.appear(change.appeared)
        if change.namespace is not None:
            delta.moved += self.peers.relabel(change.namespace)
            self._reselect(change.namespace, delta)
            if change.audit_changed:
                delta.reselected |= self._local_in.get(change.namespace, set())
                delta.rewritten |= self._by_namespace.get(change.namespace, set()) & self.active.keys()
        if change.pod is not None:
            before, after = change.pod
            # The new Pod first: a policy whose only local Pod changes stays active, and its peers keep their members.
            if after is not None and self._is_local(after):
                self._add_pod(after)
            if before is not None and self._is_local(before):
                self._remove_pod(before, after, delta)
        return delta

    def in_namespace(self, namespace: str) -> tuple[Policy, ...]:
        """Return all policies of a Namespace, by name; the admin tier policies for ''."""
        return tuple(self.policies[ref] for ref in sorted(self._by_namespace.get(namespace, ())))

    def keys(self, kind: str) -> Collection[PodKey]:
        """Return namespace ('' for cluster-scoped kinds) and name of every policy of a kind.

        For NetworkPolicies a live view: there may be many.
        """
        if kind == "NetworkPolicy":
            return NetworkPolicyKeys(self)
        return {(ref.namespace, ref.name) for ref in self._by_namespace.get("", ()) if ref.kind == kind}

    def policies_for(self, *pods: Pod | None) -> list[Policy]:
        """Return every policy that could select one of these Pods, on any node."""
        namespaces = sorted({"", *(pod.namespace for pod in pods if pod is not None)})
        return [policy for namespace in namespaces for policy in self.in_namespace(namespace)]

    def policies_of(self, pod: Pod) -> tuple[Policy, ...]:
        """Return the policies that select a Pod of this node, sorted by kind, namespace and name."""
        refs = self.selecting.get(identity_of(pod), ())
        return tuple(self.policies[ref] for ref in sorted(refs))

    def is_audited(self, policy: Policy) -> bool:
        """Return whether a policy is in audit mode, by its own annotation or its Namespace's."""
        return policy.audit or (isinstance(policy, NetworkPolicy) and self._cluster.audits_policies(policy.namespace))

    def rebuilt(self) -> PolicyIndex:
        """Compute the same index from cluster and policies alone."""
        fresh = PolicyIndex(self._cluster)
        for policy in self.policies.values():
            fresh.put(policy)
        return fresh

    def _is_local(self, pod: Pod) -> bool:
        return pod.node == self._cluster.node and not pod.host_network

    def _add_pod(self, pod: Pod) -> None:
        identity = identity_of(pod)
        self.local.setdefault(identity, set()).add((pod.namespace, pod.name))
        if len(self.local[identity]) > 1 or identity in self._local_in.get(identity.namespace, ()):
            return
        self._local_in.setdefault(identity.namespace, set()).add(identity)
        for ref in (*self._by_namespace.get(identity.namespace, ()), *self._by_namespace.get("", ())):
            if self.selects(self.policies[ref], identity):
                self._select(ref, identity)

    def _remove_pod(self, pod: Pod, staying: Pod | None, delta: IndexDelta) -> None:
        identity = identity_of(pod)
        if staying is not None and self._is_local(staying) and identity_of(staying) == identity:
            return
        self.local[identity].discard((pod.namespace, pod.name))
        if self.local[identity]:
            return
        del self.local[identity]
        self._local_in[identity.namespace].discard(identity)
        if not self._local_in[identity.namespace]:
            del self._local_in[identity.namespace]
        for ref in list(self.selecting.get(identity, ())):
            self._unselect(ref, identity, delta)

    def _reselect(self, namespace: str, delta: IndexDelta) -> None:
        """Compare a relabelled Namespace's identities with the subjects of the admin tier policies."""
        for identity in self._local_in.get(namespace, ()):
            for ref in self._by_namespace.get("", ()):
                wanted = self.selects(self.policies[ref], identity)
                if wanted != (identity in self.active.get(ref, ())):
                    if wanted:
                        self._select(ref, identity)
                    else:
                        self._unselect(ref, identity, delta)
                    delta.reselected.add(identity)

    def selects(self, policy: Policy, identity: Identity) -> bool:
        """Return whether a policy selects the Pods of an identity."""
        if isinstance(policy, NetworkPolicy):
            return policy.namespace == identity.namespace and policy.pods.matches(labels_of(identity))
        return policy.subject is not None and peer_selects(self._cluster, policy.subject, identity)

    def _select(self, ref: ObjectRef, identity: Identity) -> None:
        if ref not in self.active:
            for peer in pod_peers(self.policies[ref]):
                self.peers.acquire(peer)
        self._link(ref, identity)

    def _unselect(self, ref: ObjectRef, identity: Identity, delta: IndexDelta) -> None:
        self._unlink(ref, identity)
        if ref not in self.active:
            self._release(self.policies[ref], delta)

    def _release(self, policy: Policy, delta: IndexDelta) -> None:
        for peer in pod_peers(policy):
            self.peers.release(peer)
            if peer not in self.peers.members:
                delta.forgotten.add(peer)

    def _link(self, ref: ObjectRef, identity: Identity) -> None:
        self.selecting.setdefault(identity, set()).add(ref)
        self.active.setdefault(ref, set()).add(identity)

    def _unlink(self, ref: ObjectRef, identity: Identity) -> None:
        self.selecting[identity].discard(ref)
        if not self.selecting[identity]:
            del self.selecting[identity]
        self.active[ref].discard(identity)
        if not self.active[ref]:
            del self.active[ref]


def pod_peers(policy: Policy) -> set[PodPeer]:
    """Return the Pod peers that a policy's rules name, each once."""
    rules: tuple[NetworkPolicyRule | TierRule, ...] = (*policy.rules("ingress"), *policy.rules("egress"))
    return {peer for rule in rules for peer in rule.peers if isinstance(peer, PodPeer)}


class NetworkPolicyKeys(Collection[PodKey]):
    """A live view of namespace and name of every NetworkPolicy; length and membership don't iterate."""

    def __init__(self, index: PolicyIndex) -> None:
        """View an index."""
        self._index = index

    def __len__(self) -> int:
        """Return the number of NetworkPolicies."""
        return len(self._index.policies) - len(self._index.in_namespace(""))

    def __iter__(self) -> Iterator[PodKey]:
        """Iterate over namespace and name."""
        return ((ref.namespace, ref.name) for ref in self._index.policies if ref.kind == "NetworkPolicy")

    def __contains__(self, key: object) -> bool:
        """Return whether a NetworkPolicy of that namespace and name exists."""
        match key:
            case (str(namespace), str(name)):
                return ObjectRef("NetworkPolicy", namespace, name) in self._index.policies
        return False
