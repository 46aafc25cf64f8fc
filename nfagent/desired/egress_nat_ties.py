"""EgressNATPolicies that disagree about a destination prefix, by action or gateway, and select the same Pod.

Neither of two such policies applies to that prefix. Pairs of policies with a common prefix come first: labels of Pods
are matched only while there are such pairs. New Pods are matched as they come, and all of them after a change of a
policy, of a Namespace, or of the Pods that proved a tie: in steps.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from itertools import combinations, product
from typing import TypeAlias

import msgspec

from nfagent.model.egress_nat import EgressNATPolicy
from nfagent.model.netaddr import Range
from nfagent.state.cluster import ClusterDelta, ClusterState, Identity, labels_of
from nfagent.state.egress import EgressState

Pair: TypeAlias = tuple[str, str]
"""Names of two policies, sorted."""

_MATCHES = 1_000
"""Sources that one step matches with Pods."""
_SHOWN = 3
"""Prefixes in the text of a tie."""
_MOST_PAIRS = 1_000
"""Pairs that are tracked: more say nothing new to who reads the first ones."""
_COMPARED = 1_000
"""Prefixes, and pairs of policies that have one, that one step looks at."""


class Tie(msgspec.Struct, frozen=True):
    """Two policies that disagree.

    policies: their names, sorted
    outcomes: what each of them does, as text
    prefixes: those that both have, in order
    """

    policies: Pair
    outcomes: tuple[str, str]
    prefixes: tuple[Range, ...]

    def text_for(self, name: str) -> str:
        """Return what it means to one of the two policies."""
        place = 1 - self.policies.index(name)
        other, action = self.policies[place], self.outcomes[place]
        shown = ", ".join(map(str, self.prefixes[:_SHOWN]))
        more = f" and {len(self.prefixes) - _SHOWN} more" if len(self.prefixes) > _SHOWN else ""
        return (
            f"{shown}{more}: EgressNATPolicy {other} has the same destination with {action} for the same Pods; "
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
        users: dict[Range, list[EgressNATPolicy]] = {}
        enforced = self._egress.enforced
        for policy in enforced:
            for item in dict.fromkeys(policy.destinations):
                users.setdefault(item, []).append(policy)
            yield
        common: dict[Pair, list[Range]] = {}
        count = 0
        for item, having in users.items():
            for pair in _disagreeing(having):
                if pair in common or len(common) < _MOST_PAIRS:
                    common.setdefault(pair, []).append(item)
                count += 1
                if count % _COMPARED == 0:
                    yield
            count += 1
            if count % _COMPARED == 0:
                yield
        before, known = self._policies, self._pairs
        self._policies = {policy.name: policy for policy in enforced}
        self._pairs = {pair: self._tie(pair, items) for pair, items in sorted(common.items())}
        same = {name for name, now in self._policies.items() if name in before and before[name].sources == now.sources}
        matched = {pair for pair in self._pairs if pair in known and same.issuperset(pair)}
        whole = {policy.name for policy in enforced if not policy.sources}
        self._proof = {pair: proof for pair, proof in self._proof.items() if pair in matched}
        self._proof.update((pair, None) for pair in self._pairs if whole.issuperset(pair))
        if len(matched) < len(self._pairs):
            self._unmatched = dict.fromkeys(self._cluster.members)

    def _tie(self, pair: Pair, prefixes: Iterable[Range]) -> Tie:
        first, second = (_outcome_text(self._policies[name]) for name in pair)
        return Tie(pair, (first, second), tuple(sorted(prefixes)))

    def _match(self, identity: Identity, involved: set[str], unproved: set[Pair]) -> None:
        labels, namespace = labels_of(identity), dict(self._cluster.namespace_labels(identity.namespace))
        selecting = [name for name in involved if self._policies[name].selects(labels, namespace)]
        for pair in unproved.intersection(combinations(sorted(selecting), 2)):
            self._proof[pair] = identity


def _disagreeing(policies: list[EgressNATPolicy]) -> Iterator[Pair]:
    """Yield the pairs of policies, sorted by name, whose outcomes differ."""
    by_outcome: dict[object, list[str]] = {}
    for policy in policies:
        by_outcome.setdefault(policy.outcome, []).append(policy.name)
    for some, others in combinations(by_outcome.values(), 2):
        for first, second in product(some, others):
            yield (first, second) if first < second else (second, first)


def _outcome_text(policy: EgressNATPolicy) -> str:
    return f"action {policy.action}" + (f" and gatewayRef {policy.gateway.path}" if policy.gateway else "")
