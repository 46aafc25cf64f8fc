"""The chain and the sets that hold packets of addresses in this node's Pod ranges which no known Pod has.

The ranges are the podCIDRs of this node's Node object. A Pod of any node counts as known: some network plugins assign
addresses without regard to podCIDRs. Nothing of it is written, and nothing of it costs anything, where the settings let
such packets pass.
"""

from __future__ import annotations

from collections.abc import Iterator

from nfagent.desired.recheck import RecheckSets
from nfagent.desired.tracker import RulesetTracker
from nfagent.model.netaddr import Range, disjoint, family_of
from nfagent.nftables.unknown_pods import (
    UNKNOWN_POD_COUNTER,
    UNKNOWN_PODS_CHAIN,
    known_pods_set,
    known_pods_sets,
    unknown_pods_chain,
    unknown_pods_drop,
)
from nfagent.policy.options import PolicyOptions
from nfagent.state.cluster import ClusterDelta, ClusterState

_PART = 500
"""Addresses that one step processes."""


class UnknownPods:
    """Keeps this node's Pod ranges, and the known addresses in them, up to date."""

    def __init__(
        self, live: RulesetTracker, cluster: ClusterState, recheck: RecheckSets, policy_options: PolicyOptions
    ) -> None:
        """Add the sets and chains, where unknown Pods are held.

        recheck: gets addresses that become unknown, whose connections end then
        """
        self._live = live
        self._cluster = cluster
        self._recheck = recheck
        self._holding = policy_options.holds_unknown
        self._addresses: dict[str, None] = {}
        self._ranges: tuple[Range, ...] = ()
        if self._holding:
            live.put_counter(UNKNOWN_POD_COUNTER)
            for name, shape in known_pods_sets():
                live.add_set(name, shape)
            live.put_chain(*unknown_pods_drop())
            live.put_chain(UNKNOWN_PODS_CHAIN, unknown_pods_chain(()))

    def follow(self, change: ClusterDelta) -> None:
        """Mark the addresses that a change of the cluster may make known or unknown."""
        if not self._holding:
            return
        for pod in change.pod or ():
            if pod is not None:
                self._addresses.update(dict.fromkeys(pod.addresses))
        if change.node == self._cluster.node:
            ranges = pod_ranges(self._cluster)
            if ranges != self._ranges:
                self._ranges = ranges
                self._live.put_chain(UNKNOWN_PODS_CHAIN, unknown_pods_chain(ranges))
                self._addresses.update(dict.fromkeys(self._cluster.by_address))

    def steps(self) -> Iterator[None]:
        """Update the sets for the marked addresses, in steps."""
        while self._addresses:
            for _ in range(min(_PART, len(self._addresses))):
                self._assess(self._addresses.popitem()[0])
            yield

    def _assess(self, address: str) -> None:
        name = known_pods_set(family_of(address))
        was = address in self._live.sets[name].elements
        within = any(item.contains(address) for item in self._ranges)
        known = within and address in self._cluster.by_address
        if known and not was:
            self._live.add(name, address)
        elif was and not known:
            self._live.remove(name, address)
            if within:
                self._recheck.add((address,))


def pod_ranges(cluster: ClusterState) -> tuple[Range, ...]:
    """Return this node's Pod ranges: the podCIDRs of its Node object, ascending and disjoint; none without it."""
    node = cluster.nodes.get(cluster.node)
    return disjoint(node.pod_cidrs) if node is not None else ()
