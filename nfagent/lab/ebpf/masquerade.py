"""The map of destinations that aren't masqueraded. Pure."""

from __future__ import annotations

from nfagent.egress.cluster_addresses import ClusterAddresses
from nfagent.egress.masquerade import MasqueradeSettings, masquerade_plan
from nfagent.lab.ebpf.prefixes import Prefix, prefixes
from nfagent.model.netaddr import FAMILIES, Family, disjoint, single
from nfagent.state.cluster import ClusterDelta, ClusterState
from nfagent.state.egress import EgressState


class MasqueradePrefixes:
    """The destinations that keep a Pod's address: the cluster's own, and those of the non-masquerade list."""

    def __init__(self, cluster: ClusterState, egress: EgressState, settings: MasqueradeSettings) -> None:
        """Start without any; the first `drain` has all."""
        self._cluster = cluster
        self._egress = egress
        self._settings = settings
        self._addresses = ClusterAddresses(cluster, settings.cluster_ranges)
        self._written: frozenset[Prefix] = frozenset()
        self._stale = True

    @property
    def families(self) -> tuple[Family, ...]:
        """The families that are masqueraded."""
        return self._settings.families

    def follow(self, change: ClusterDelta) -> None:
        """Apply a change of the cluster."""
        self._stale |= self._addresses.apply(change)

    def invalidate(self) -> None:
        """Note that an object that configures masquerade changed."""
        self._stale = True

    def drain(self) -> tuple[set[Prefix], set[Prefix]]:
        """Return the CIDRs to add and those to remove since the last call."""
        if not self.families:
            return set(), set()
        for moved in self._addresses.steps():
            self._stale |= bool(moved)
        if not self._stale:
            return set(), set()
        self._stale = False
        plan = masquerade_plan(self._cluster, self._egress, self._settings, self._addresses)
        outside = (single(address) for family in FAMILIES for address in self._addresses.outside[family])
        wanted = frozenset(prefixes(disjoint((*plan.cluster, *plan.exempt, *outside))))
        before, self._written = self._written, wanted
        return set(wanted - before), set(before - wanted)
