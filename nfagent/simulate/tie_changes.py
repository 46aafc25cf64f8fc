"""Ties of EgressNATPolicies that a change of egress objects creates or removes, cluster-wide."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import msgspec

from nfagent.desired.egress_nat_ties import EgressNATTies, Tie
from nfagent.model.netaddr import Range
from nfagent.state.cluster import ClusterState
from nfagent.state.egress import EgressState


class TieChange(msgspec.Struct, frozen=True):
    """Two policies that begin or cease to disagree for the same Pods.

    policies:     their names
    destinations: the prefixes that this is about, as text
    """

    policies: tuple[str, str]
    destinations: tuple[str, ...]


class TieChanges(msgspec.Struct, frozen=True):
    """The ties that a change creates, and those that it removes, by the policies' names."""

    created: tuple[TieChange, ...] = ()
    removed: tuple[TieChange, ...] = ()


class TieComparison:
    """Compares the ties in two states of the egress objects, for the Pods of one cluster.

    result: complete after the last of `steps`
    """

    def __init__(self, cluster: ClusterState, before: EgressState, after: EgressState) -> None:
        """Compare two states; neither changes meanwhile."""
        self.result = TieChanges()
        self._before = EgressNATTies(cluster, before)
        self._after = EgressNATTies(cluster, after)

    def steps(self) -> Iterator[None]:
        """Find the ties of both states in steps, and compare them."""
        for ties in (self._before, self._after):
            ties.invalidate()
            yield from ties.steps()
        before, after = _prefixes(self._before.found), _prefixes(self._after.found)
        self.result = TieChanges(tuple(_beyond(after, before)), tuple(_beyond(before, after)))


def _prefixes(ties: Iterable[Tie]) -> dict[tuple[str, str], tuple[Range, ...]]:
    return {tie.policies: tie.prefixes for tie in ties}


def _beyond(
    ties: dict[tuple[str, str], tuple[Range, ...]], others: dict[tuple[str, str], tuple[Range, ...]]
) -> Iterator[TieChange]:
    """Yield what one state has and the other has not."""
    for pair, prefixes in ties.items():
        known = set(others.get(pair, ()))
        found = tuple(str(item) for item in prefixes if item not in known)
        if found:
            yield TieChange(pair, found)
