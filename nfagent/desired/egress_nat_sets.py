"""The Pods of this node that EgressNATPolicies with sources select, and the destinations that see their addresses.

Pods that the same policies select share a chain and a set of ranges for each family; a verdict map sends a Pod's
address there. Addresses are assigned one by one as Pods, labels and Namespaces change, and all of them after a change
of an object that configures masquerade: in steps.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TypeAlias

from nfagent.desired.tracker import RulesetTracker
from nfagent.egress.masquerade import MasqueradeSettings, exempt_ranges
from nfagent.model.egress_nat import EgressNATPolicy
from nfagent.model.netaddr import family_of
from nfagent.model.objects import Pod
from nfagent.model.ref_counts import RefCounts
from nfagent.nftables import names
from nfagent.nftables.masquerade_chains import policies_chain, policies_set
from nfagent.state.cluster import ClusterDelta, ClusterState, Identity, identity_of, labels_of
from nfagent.state.egress import EgressState

Selection: TypeAlias = tuple[str, ...]
"""Names of the policies with sources that select a Pod, sorted; empty if none does."""

_MATCHES = 1_000
"""Sources that one step matches with Pods."""
_ASSIGNED = 5
"""What an address costs beside them, in sources."""


class EgressNATSets:
    """The chains, sets and maps of policies with sources; none of them where they select no Pod of this node."""

    def __init__(
        self, live: RulesetTracker, cluster: ClusterState, egress: EgressState, settings: MasqueradeSettings
    ) -> None:
        """Start without policies."""
        self._live = live
        self._cluster = cluster
        self._egress = egress
        self._settings = settings
        self._policies: tuple[EgressNATPolicy, ...] = ()
        self._of_identity: dict[Identity, Selection] = {}
        # While policies' sources change: the selections before, which still hold for all but these policies.
        self._previous: dict[Identity, Selection] = {}
        self._rematched: set[str] = set()
        self._matches = 0
        self._of_address: dict[str, Selection] = {}
        self._users: RefCounts[Selection] = RefCounts()
        # Marks for `steps`: addresses to assign, selections whose chain and sets are to be written or removed.
        self._addresses: dict[str, None] = {}
        self._unwritten: dict[Selection, None] = {}

    @property
    def selects(self) -> bool:
        """Return whether policies with sources select any Pod of this node."""
        return bool(self._of_address)

    def follow(self, change: ClusterDelta) -> None:
        """Mark the Pods of this node that a change of the cluster may move to other policies."""
        for pod in change.pod or ():
            if pod is not None and pod.node == self._cluster.node:
                self._mark(pod)
        if change.vanished is not None:
            self._of_identity.pop(change.vanished, None)
            self._previous.pop(change.vanished, None)
        if change.namespace is None or not self._policies:
            return
        for known in (self._of_identity, self._previous):
            for identity in [identity for identity in known if identity.namespace == change.namespace]:
                del known[identity]
        for pod in self._cluster.local.values():
            if pod.namespace == change.namespace:
                self._mark(pod)

    def invalidate(self) -> None:
        """Mark all sets, and Pods if the sources of policies changed: an object that configures masquerade changed."""
        self._unwritten.update(dict.fromkeys(self._users))
        before = {policy.name: policy.sources for policy in self._policies}
        self._policies = tuple(policy for policy in self._egress.enforced if policy.sources)
        after = {policy.name: policy.sources for policy in self._policies}
        changed = {name for name in before.keys() | after.keys() if before.get(name) != after.get(name)}
        if not changed:
            return
        self._rematched |= changed
        self._previous.update(self._of_identity)
        self._of_identity.clear()
        for pod in self._cluster.local.values():
            self._mark(pod)

    def _mark(self, pod: Pod) -> None:
        if pod.holds_addresses and (self._policies or self._of_address):
            families = self._settings.families
            self._addresses.update((address, None) for address in pod.addresses if family_of(address) in families)

    def steps(self) -> Iterator[None]:
        """Process the marks in steps. Until the end, maps may name chains that aren't written yet."""
        while self._addresses or self._unwritten:
            self._matches = 0
            while self._addresses and self._matches < _MATCHES:
                self._assign(self._addresses.popitem()[0])
            if not self._addresses and self._unwritten:
                self._write(self._unwritten.popitem()[0])
            yield
        self._previous.clear()
        self._rematched.clear()
        if not self._of_address:
            for family in self._settings.families:
                if names.egress_nat_map(family) in self._live.maps:
                    self._live.drop_map(names.egress_nat_map(family))

    def _assign(self, address: str) -> None:
        """Map an address to the chain of the policies that select its Pod."""
        self._matches += _ASSIGNED
        pod = self._cluster.holder(address)
        wanted = self._selection(pod) if pod is not None and pod.node == self._cluster.node else ()
        before = self._of_address.pop(address, ())
        if wanted:
            self._of_address[address] = wanted
        if wanted == before:
            return
        if before and self._users.release(before):
            self._unwritten[before] = None
        if wanted and self._users.acquire(wanted):
            self._unwritten[wanted] = None
        for family in self._settings.families:
            if names.egress_nat_map(family) not in self._live.maps:
                self._live.add_map(names.egress_nat_map(family), family)
        chain = names.egress_nat_chain(wanted) if wanted else None
        self._live.map_to(names.egress_nat_map(family_of(address)), address, chain)

    def _selection(self, pod: Pod) -> Selection:
        identity = identity_of(pod)
        known = self._of_identity.get(identity)
        if known is None:
            known = self._of_identity[identity] = self._match(identity)
        return known

    def _match(self, identity: Identity) -> Selection:
        before = self._previous.pop(identity, None)
        unmatched = [policy for policy in self._policies if before is None or policy.name in self._rematched]
        labels, namespace = labels_of(identity), dict(self._cluster.namespace_labels(identity.namespace))
        found = [policy.name for policy in unmatched if policy.selects(labels, namespace)]
        found += [name for name in before or () if name not in self._rematched]
        self._matches += sum(len(policy.sources) for policy in unmatched)
        return tuple(sorted(found))

    def _write(self, selection: Selection) -> None:
        """Write the chain and the sets of a selection; remove them if it has no Pods."""
        chain, families = names.egress_nat_chain(selection), self._settings.families
        if selection not in self._users:
            if chain in self._live.chains:
                self._live.drop_chain(chain)
                for family in families:
                    self._live.drop_set(names.egress_nat_set(selection, family))
            return
        ranges = exempt_ranges(self._egress, self._settings, selection)
        for family in families:
            name, shape = names.egress_nat_set(selection, family), policies_set(selection, family, ranges)
            if name in self._live.sets:
                self._live.recount(name, shape.elements)
            else:
                self._live.add_set(name, shape)
        self._live.put_chain(chain, policies_chain(selection, families))
