"""EgressNATPolicies of different actions with the same destination prefix that select the same Pod of the cluster.

Neither of two such policies applies to that prefix. Pairs of policies with a common prefix come first: labels of Pods
are matched only while there are such pairs. New Pods are matched as they come, and all of them after a change of a
policy, of a Namespace, or of the Pods that proved a tie: in steps.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import product
from typing import TypeAlias

import msgspec

from nfagent.model.egress_nat import EgressNATPolicy
from nfagent.model.netaddr import Range
from nfagent.state.cluster import ClusterDelta, ClusterState, Identity, labels_of
from nfagent.state.egress import EgressState

Pair: TypeAlias = tuple[str, str]
"""Names of a NoSNAT policy and of a SNAT policy."""

_MATCHES = 1_000
"""Sources that one step matches with Pods."""
_SHOWN = 3
"""Prefixes in the text of a tie."""
_MOST_PAIRS = 1_000
"""Pairs that are tracked: more say nothing new to who reads the first ones."""


class Tie(msgspec.Struct, frozen=True):
    """Two policies that disagree; prefixes: those that both have, in order."""

    keeps: str
    translates: str
    prefixes: tuple[Range, ...]

    def text_for(self, name: str) -> str:
        """Return what it means to one of the two policies."""
        other, action = (self.translates, "SNAT") if name == self.keeps else (self.keeps, "NoSNAT")
        shown = ", ".join(map(str, self.prefixes[:_SHOWN]))
        more = f" and {len(self.prefixes) - _SHOWN} more" if len(self.prefixes) > _SHOWN else ""
        return (
            f"{shown}{more}: EgressNATPolicy {other} has the same destination with action {action} for the same Pods; "
            "neither applies there, and it is masqueraded. Give one of the two a longer prefix, or other sources"
        )


class EgressNATTies:
    """The ties in the cluster."""

    def __init__(self, cluster: ClusterState, egress: EgressState) -> None:
        """Start without policies."""
        self._cluster = cluster
        self._egress = egress
        self._pairs: dict[Pair, Tie] = {}
        self._policies: dict[str, EgressNATPolicy] = {}
        # Pair -> an identity that both policies select; None: every Pod.
        self._proof: dict[Pair, Identity | None] = {}
        self._stale = False
        self._unmatched: dict[Identity, None] = {}

    @property
    def found(self) -> tuple[Tie, ...]:
        """Every tie, by names, as of the last complete `steps`."""
        return tuple(self._pairs[pair] for pair in sorted(self._proof))

    def follow(self, change: ClusterDelta) -> None:
        """Mark the Pods that a change of the cluster may bring into a tie, or out of it."""
        if not self._pairs:
            return
        if change.vanished is not None:
            self._unmatched.pop(change.vanished, None)
        lost = [
            pair
            for pair, proof in self._proof.items()
            if proof is not None and (proof == change.vanished or proof.namespace == change.namespace)
        ]
        for pair in lost:
            del self._proof[pair]
        if lost:
            self._unmatched.update(dict.fromkeys(self._cluster.members))
        elif change.namespace is not None:
            self._unmatched.update(dict.fromkeys(self._cluster.by_namespace.get(change.namespace, ())))
        if change.appeared is not None:
            self._unmatched[change.appeared] = None

    def invalidate(self) -> None:
        """Compare all policies again: one of them changed."""
        self._stale = True

    def steps(self) -> Iterator[None]:
        """Process the marks in steps."""
        while self._stale:
            self._stale = False
            yield from self._compare()
        while self._unmatched:
            unproved = {pair for pair in self._pairs if pair not in self._proof}
            involved = {name for pair in unproved for name in pair}
            if not unproved:
                self._unmatched.clear()
                return
            matches = 0
            while self._unmatched and matches < _MATCHES:
                self._match(self._unmatched.popitem()[0], involved, unproved)
                matches += sum(len(self._policies[name].sources) + 1 for name in involved)
            yield

    def _compare(self) -> Iterator[None]:
        """Find the pairs with a common prefix."""
        users: dict[Range, tuple[list[str], list[str]]] = {}
        enforced = self._egress.enforced
        for policy in enforced:
            for item in dict.fromkeys(policy.destinations):
                users.setdefault(item, ([], []))[policy.action == "SNAT"].append(policy.name)
            yield
        common: dict[Pair, list[Range]] = {}
        for count, (item, (keep, translate)) in enumerate(users.items(), 1):
            for pair in product(keep, translate):
                if pair in common or len(common) < _MOST_PAIRS:
                    common.setdefault(pair, []).append(item)
            if count % _MOST_PAIRS == 0:
                yield
        before, known = self._policies, self._pairs
        self._pairs = {pair: Tie(*pair, tuple(sorted(items))) for pair, items in sorted(common.items())}
        self._policies = {policy.name: policy for policy in enforced}
        same = {name for name, now in self._policies.items() if name in before and before[name].sources == now.sources}
        matched = {pair for pair in self._pairs if pair in known and same.issuperset(pair)}
        whole = {policy.name for policy in enforced if not policy.sources}
        self._proof = {pair: proof for pair, proof in self._proof.items() if pair in matched}
        self._proof.update((pair, None) for pair in self._pairs if whole.issuperset(pair))
        if len(matched) < len(self._pairs):
            self._unmatched = dict.fromkeys(self._cluster.members)

    def _match(self, identity: Identity, involved: set[str], unproved: set[Pair]) -> None:
        labels, namespace = labels_of(identity), dict(self._cluster.namespace_labels(identity.namespace))
        selecting = [name for name in involved if self._policies[name].selects(labels, namespace)]
        for pair in unproved.intersection(product(selecting, repeat=2)):
            self._proof[pair] = identity
