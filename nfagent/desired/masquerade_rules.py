"""The masquerade chains and sets of the desired ruleset.

The chains and the fixed sets are planned again after a change of a Node, of a ServiceCIDR or of an egress object: once
for all changes of a batch. The `outside` sets follow single Pods, and so do the Pods of policies with sources.
"""

from __future__ import annotations

from collections.abc import Iterator

from nfagent.desired.egress_nat_selections import EgressNATSelections
from nfagent.desired.egress_nat_sets import EgressNATSets
from nfagent.desired.egress_nat_ties import EgressNATTies, Tie
from nfagent.desired.gateway_rules import GatewayRules
from nfagent.desired.tracker import RulesetTracker
from nfagent.egress.cluster_addresses import ClusterAddresses
from nfagent.egress.gateway_election import GatewayElection
from nfagent.egress.gateway_translation import through_gateway
from nfagent.egress.gateways import GatewayPlan
from nfagent.egress.masquerade import MasqueradeSettings, exempt_ranges, is_source, masquerade_plan
from nfagent.egress.translation import Translation, outside_translation, translation
from nfagent.model.netaddr import FAMILIES, Family, Range, family_of
from nfagent.model.objects import Pod
from nfagent.nftables import names
from nfagent.nftables.gateway_chains import gateway_nat_rules
from nfagent.nftables.masquerade_chains import (
    CLUSTER_PODS,
    KEPT_CHAIN,
    UNTRANSLATED_COUNTER,
    cluster_pods_set,
    masquerade_sets,
    nat_chains,
)
from nfagent.state.cluster import ClusterDelta, ClusterState
from nfagent.state.egress import EgressState


class MasqueradeRules:
    """The masquerade part of the ruleset; none of it where masquerade is off."""

    def __init__(
        self, live: RulesetTracker, cluster: ClusterState, egress: EgressState, settings: MasqueradeSettings
    ) -> None:
        """Start without chains: the first `steps` writes them."""
        self._live = live
        self._cluster = cluster
        self._egress = egress
        self._settings = settings
        self._addresses = ClusterAddresses(cluster, settings.cluster_ranges)
        self._selections = EgressNATSelections(cluster, egress)
        self._by_source = EgressNATSets(live, cluster, egress, settings, self._selections)
        self._ties = EgressNATTies(cluster, egress)
        self.gateways = GatewayElection(cluster, egress, self._addresses)
        self._floating = GatewayRules(live, cluster, egress, settings, self._selections, self.gateways)
        self._planned = False
        self._ranges: tuple[Range, ...] = ()  # the cluster's, as they were planned

    @property
    def families(self) -> tuple[Family, ...]:
        """The families that this node masquerades; none where masquerade is off."""
        return self._settings.families

    @property
    def exempt(self) -> tuple[Range, ...]:
        """The destinations outside the cluster that are not masqueraded."""
        return exempt_ranges(self._egress, self._settings)

    @property
    def cluster_ranges(self) -> tuple[Range, ...]:
        """The cluster's ranges as of the last `steps`; none where masquerade is off."""
        return self._addresses.ranges

    @property
    def gateway_plan(self) -> GatewayPlan:
        """What this node does for floating addresses, as of the last `steps`."""
        return self._floating.plan

    @property
    def has_gateways(self) -> bool:
        """Whether a policy names a gateway, and this node masquerades."""
        return self._floating.active

    @property
    def ties(self) -> tuple[Tie, ...]:
        """The EgressNATPolicies that disagree about a destination of the same Pod."""
        return self._ties.found

    def translation(self, pod: Pod | None, destination: str) -> Translation:
        """Return how packets of a Pod to a canonical address leave its node, with the floating address."""
        objects = self._cluster, self._egress, self._settings
        if self.families and self._addresses.up_to_date and not self._addresses.contain(destination):
            # Most are outside: the search for the range inside walks all Nodes.
            found = outside_translation(pod, destination, *objects)
        else:
            found = translation(pod, destination, *objects)
        return through_gateway(found, pod, destination, self._egress, self.gateways)

    def follow(self, change: ClusterDelta) -> None:
        """Apply a change of the cluster."""
        if not self.families:
            return
        self._selections.follow(change)
        self._by_source.follow(change)
        self._ties.follow(change)
        self.gateways.follow(change)
        self._floating.follow(change)
        if self._addresses.apply(change) or is_source(self._cluster, change):
            self._planned = False

    def invalidate(self) -> None:
        """Plan the chains again at the next `steps`: an object that configures masquerade changed."""
        reselected = self._selections.invalidate()
        self._by_source.invalidate(reselected=reselected)
        self._ties.invalidate()
        self.gateways.invalidate()
        self._floating.invalidate(reselected=reselected)
        self._planned = False

    def steps(self) -> Iterator[None]:
        """Update chains and sets, in steps."""
        if self.families:
            for moved in self._addresses.steps():
                self._put_outside(moved)
                yield
            yield from self.gateways.steps()
            yield from self._by_source.steps()
            yield from self._floating.steps(self._outside)
            self._selections.settle()
            yield from self._ties.steps()
            self._plan()

    @property
    def _outside(self) -> tuple[Family, ...]:
        """The families with Pods outside the cluster's ranges."""
        return tuple(family for family in FAMILIES if self._addresses.outside[family])

    def _put_outside(self, addresses: list[str]) -> None:
        """Update the `outside` sets for Pods that left the cluster's ranges or returned.

        The first address of a family adds its set, and the rules that name it.
        """
        for address in addresses:
            family = family_of(address)
            if family not in self.families:
                continue
            name = names.set_name(CLUSTER_PODS, family)
            if address not in self._addresses.outside[family]:
                self._live.remove(name, address)
                continue
            if name not in self._live.sets:
                self._live.add_set(name, cluster_pods_set(family))
                self._planned = False
            self._live.add(name, address)

    def _plan(self) -> None:
        for family in FAMILIES:
            name = names.set_name(CLUSTER_PODS, family)
            if name in self._live.sets and not self._addresses.outside[family]:
                self._live.drop_set(name)
                self._planned = False
        by_source = self._by_source.selects
        if self._planned and self._ranges is self._addresses.ranges and by_source == (KEPT_CHAIN in self._live.chains):
            return
        # A change between two steps moves the ranges after this.
        self._planned, self._ranges = True, self._addresses.ranges
        plan = masquerade_plan(self._cluster, self._egress, self._settings, self._addresses)
        self._live.put_counter(UNTRANSLATED_COUNTER)
        marked = gateway_nat_rules(self._settings.gateway_mark) if self._floating.active else ()
        for name, chain in nat_chains(plan, by_source=by_source, gateways=marked):
            self._live.put_chain(name, chain)
        if KEPT_CHAIN in self._live.chains and not by_source:
            self._live.drop_chain(KEPT_CHAIN)
        wanted = dict(masquerade_sets(plan, self.families if self._floating.active else ()))
        for name in [names.set_name(word, family) for word in ("pods", "cluster", "nonmasq") for family in FAMILIES]:
            shape = wanted.get(name)
            if shape is None and name in self._live.sets:
                self._live.drop_set(name)
            elif shape is not None and name not in self._live.sets:
                self._live.add_set(name, shape)
            elif shape is not None:
                self._live.recount(name, shape.elements)
