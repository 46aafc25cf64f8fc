"""The addresses of this node's Pods in the sets that count verdicts (nftables.pod_counts)."""

from __future__ import annotations

from nfagent.desired.tracker import RulesetTracker
from nfagent.model.netaddr import family_of
from nfagent.model.objects import Pod
from nfagent.nftables.pod_counts import count_chains, count_shapes, counted_sets


class PodCounts:
    """The elements of one node's Pods; their order of arrival is that of the Pods."""

    def __init__(self, live: RulesetTracker, node: str) -> None:
        """Add the sets, empty, and the chains that look them up."""
        self._live = live
        self._node = node
        for name, shape in count_shapes():
            live.add_set(name, shape)
        for name, chain in count_chains():
            live.put_chain(name, chain)

    def add(self, pod: Pod) -> None:
        """Add a Pod's addresses, if it is of this node and has its own."""
        for name, address in self._elements(pod):
            self._live.add(name, address)

    def remove(self, pod: Pod) -> None:
        """Remove a Pod's addresses; one that another Pod holds too stays."""
        for name, address in self._elements(pod):
            self._live.remove(name, address)

    def _elements(self, pod: Pod) -> tuple[tuple[str, str], ...]:
        if pod.node != self._node or not pod.holds_addresses:
            return ()
        return tuple((name, address) for address in pod.addresses for name in counted_sets(family_of(address)))
