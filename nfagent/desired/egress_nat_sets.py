"""The Pods of this node that EgressNATPolicies with sources select, and the destinations that see their addresses.

Pods that the same policies select share a chain and a set of ranges for each family; a verdict map sends a Pod's
address there. Addresses are assigned one by one as Pods, labels and Namespaces change, and all of them after a change
of an object that configures masquerade: in steps.
"""

from __future__ import annotations

from collections.abc import Iterator

from nfagent.desired.egress_nat_selections import EgressNATSelections, Selection
from nfagent.desired.tracker import RulesetTracker
from nfagent.egress.masquerade import MasqueradeSettings, exempt_ranges
from nfagent.model.netaddr import family_of
from nfagent.model.objects import Pod
from nfagent.model.ref_counts import RefCounts
from nfagent.nftables import names
from nfagent.nftables.masquerade_chains import policies_chain, policies_set
from nfagent.state.cluster import ClusterDelta, ClusterState
from nfagent.state.egress import EgressState

_MATCHES = 1_000
"""Sources that one step matches with Pods."""
_ASSIGNED = 5
"""What an address costs beside them, in sources."""


class EgressNATSets:
    """The chains, sets and maps of policies with sources; none of them where they select no Pod of this node."""

    def __init__(
        self,
        live: RulesetTracker,
        cluster: ClusterState,
        egress: EgressState,
        settings: MasqueradeSettings,
        selections: EgressNATSelections,
    ) -> None:
        """Start without policies."""
        self._live = live
        self._cluster = cluster
        self._egress = egress
        self._settings = settings
        self._selections = selections
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
        """Mark the Pods of this node that a change of the cluster may move; the selections follow it first."""
        for pod in change.pod or ():
            if pod is not None and pod.node == self._cluster.node:
                self._mark(pod)
        if change.namespace is None or not self._selections.any:
            return
        for pod in self._cluster.local.values():
            if pod.namespace == change.namespace:
                self._mark(pod)

    def invalidate(self, *, reselected: bool) -> None:
        """Mark all sets, and Pods if selections may differ: an object that configures masquerade changed."""
        self._unwritten.update(dict.fromkeys(self._users))
        if reselected:
            for pod in self._cluster.local.values():
                self._mark(pod)

    def _mark(self, pod: Pod) -> None:
        if pod.holds_addresses and (self._selections.any or self._of_address):
            families = self._settings.families
            self._addresses.update((address, None) for address in pod.addresses if family_of(address) in families)

    def steps(self) -> Iterator[None]:
        """Process the marks in steps. Until the end, maps may name chains that aren't written yet."""
        while self._addresses or self._unwritten:
            until = self._selections.matched + _MATCHES
            while self._addresses and self._selections.matched < until:
                self._assign(self._addresses.popitem()[0])
                until -= _ASSIGNED
            if not self._addresses and self._unwritten:
                self._write(self._unwritten.popitem()[0])
            yield
        if not self._of_address:
            for family in self._settings.families:
                if names.egress_nat_map(family) in self._live.maps:
                    self._live.drop_map(names.egress_nat_map(family))

    def _assign(self, address: str) -> None:
        """Map an address to the chain of the policies that select its Pod."""
        pod = self._cluster.holder(address)
        wanted = self._selections.of(pod) if pod is not None and pod.node == self._cluster.node else ()
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
