"""Which EgressNATPolicies with sources select a Pod: matched once for all Pods with the same labels."""

from __future__ import annotations

from typing import TypeAlias

from nfagent.model.egress_nat import EgressNATPolicy
from nfagent.model.objects import Pod
from nfagent.state.cluster import ClusterDelta, ClusterState, Identity, identity_of, labels_of
from nfagent.state.egress import EgressState

Selection: TypeAlias = tuple[str, ...]
"""Names of the policies with sources that select a Pod, sorted; empty if none does."""


class EgressNATSelections:
    """The policies with sources, and their selections of Pods.

    any:     whether there are such policies
    matched: grows with the sources that were matched with Pods: what it cost
    """

    def __init__(self, cluster: ClusterState, egress: EgressState) -> None:
        """Start without policies."""
        self._cluster = cluster
        self._egress = egress
        self.matched = 0
        self._policies: tuple[EgressNATPolicy, ...] = ()
        self._of_identity: dict[Identity, Selection] = {}
        # While policies' sources change: the selections before, which still hold for all but these policies.
        self._previous: dict[Identity, Selection] = {}
        self._rematched: set[str] = set()

    @property
    def any(self) -> bool:
        """Return whether any policy has sources."""
        return bool(self._policies)

    def follow(self, change: ClusterDelta) -> None:
        """Forget the selections that a change of the cluster may change."""
        if change.vanished is not None:
            self._of_identity.pop(change.vanished, None)
            self._previous.pop(change.vanished, None)
        if change.namespace is None or not self._policies:
            return
        for known in (self._of_identity, self._previous):
            for identity in [identity for identity in known if identity.namespace == change.namespace]:
                del known[identity]

    def invalidate(self) -> bool:
        """Read the policies again; return whether sources changed: then Pods may have other selections."""
        before = {policy.name: policy.sources for policy in self._policies}
        self._policies = tuple(policy for policy in self._egress.enforced if policy.sources)
        after = {policy.name: policy.sources for policy in self._policies}
        changed = {name for name in before.keys() | after.keys() if before.get(name) != after.get(name)}
        if changed:
            self._rematched |= changed
            self._previous.update(self._of_identity)
            self._of_identity.clear()
        return bool(changed)

    def of(self, pod: Pod) -> Selection:
        """Return the policies with sources that select a Pod."""
        identity = identity_of(pod)
        known = self._of_identity.get(identity)
        if known is None:
            known = self._of_identity[identity] = self._match(identity)
        return known

    def settle(self) -> None:
        """Forget the selections before the last change: every Pod was asked for since."""
        self._previous.clear()
        self._rematched.clear()

    def _match(self, identity: Identity) -> Selection:
        before = self._previous.pop(identity, None)
        unmatched = [policy for policy in self._policies if before is None or policy.name in self._rematched]
        labels, namespace = labels_of(identity), dict(self._cluster.namespace_labels(identity.namespace))
        found = [policy.name for policy in unmatched if policy.selects(labels, namespace)]
        found += [name for name in before or () if name not in self._rematched]
        self.matched += sum(len(policy.sources) for policy in unmatched)
        return tuple(sorted(found))
