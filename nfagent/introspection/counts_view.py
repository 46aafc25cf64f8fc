"""GET /v1/counts: the packets that the kernel counted by Pod of this node and by policy, for `nfagent top`.

All are from the kernel's counters, whether verdicts are logged or not: first packets of allowed connections, and every
denied packet. What isn't counted is null, never 0: a direction of a Pod to which no policy applies, a verdict that a
policy can't give, and policies of a kernel that can't count for them.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import TypeAlias

import msgspec

from nfagent.desired.state import DesiredState
from nfagent.introspection.chunks import in_steps
from nfagent.metrics.readings import CountedPackets
from nfagent.model.admin_policy import applies
from nfagent.model.objects import DIRECTIONS, Direction, ObjectRef, Pod
from nfagent.nftables.verdict_keys import DISPOSITIONS
from nfagent.state.cluster import Identity, identity_of

_STEP = 100


class PacketCount(msgspec.Struct, frozen=True, kw_only=True):
    """Packets of one direction since they are counted; audit: allowed, and denied by policies in audit mode."""

    allow: int | None = None
    deny: int | None = None
    audit: int | None = None


_Totals: TypeAlias = Mapping[tuple[ObjectRef, Direction], dict[str, int]]


class PodCount(msgspec.Struct, frozen=True, kw_only=True):
    """A Pod of this node; a direction is null where no policy applies to it."""

    namespace: str
    name: str
    ingress: PacketCount | None = None
    egress: PacketCount | None = None


class PolicyCount(msgspec.Struct, frozen=True, kw_only=True):
    """A policy that selects a Pod of this node; a direction is null where nothing is counted for it."""

    kind: str
    namespace: str
    name: str
    ingress: PacketCount | None = None
    egress: PacketCount | None = None


class CountsView(msgspec.Struct, frozen=True, kw_only=True):
    """The counts.

    started: identifies this run of the agent: an earlier one's counts may not go on in it
    read_at: monotonic seconds at which the counters were read; 0 for not yet
    problem: why they aren't current, '' where they are
    """

    version: str
    node: str
    started: float
    read_at: float
    problem: str
    pods: list[PodCount]
    policies: list[PolicyCount]


class CountReadings(msgspec.Struct, frozen=True, kw_only=True):
    """What the view is made of, beside the desired state; the fields are those of CountsView."""

    version: str
    started: float
    read_at: float
    problem: str
    counts: CountedPackets


def counts_parts(desired: DesiredState, readings: CountReadings) -> CountsView:
    """Return the view; its lists are made while they are written."""
    return CountsView(
        version=readings.version,
        node=desired.cluster.node,
        started=readings.started,
        read_at=readings.read_at,
        problem=readings.problem,
        pods=in_steps(_pods(desired, readings.counts)),
        policies=in_steps(_policies(desired, readings.counts)),
    )


def _pods(desired: DesiredState, counts: CountedPackets) -> Iterator[PodCount | None]:
    directions: dict[Identity, frozenset[Direction]] = {}
    for number, pod in enumerate(list(desired.cluster.local.values())):
        if number % _STEP == 0:
            yield None
        identity = identity_of(pod)
        if identity not in directions:
            directions[identity] = _judged(desired, pod)
        found = {
            direction: _of_pod(counts, pod, direction) for direction in directions[identity] if pod.holds_addresses
        }
        yield PodCount(namespace=pod.namespace, name=pod.name, **found)


def _judged(desired: DesiredState, pod: Pod) -> frozenset[Direction]:
    """Return the directions in which policies judge a Pod's connections."""
    return frozenset(
        direction for policy in desired.index.policies_of(pod) for direction in DIRECTIONS if applies(policy, direction)
    )


def _of_pod(counts: CountedPackets, pod: Pod, direction: Direction) -> PacketCount:
    allow, deny, audit = (
        counts.pods.get((pod.namespace, pod.name, direction, disposition)) for disposition in DISPOSITIONS
    )
    return PacketCount(allow=allow, deny=deny, audit=audit)


def _policies(desired: DesiredState, counts: CountedPackets) -> Iterator[PolicyCount | None]:
    totals: dict[tuple[ObjectRef, Direction], dict[str, int]] = {}
    for number, (key, packets) in enumerate(list(counts.policies.items())):
        if number % _STEP == 0:
            yield None
        for ref in key.policies:
            found = totals.setdefault((ref, key.direction), {})
            found[key.disposition] = found.get(key.disposition, 0) + packets
    for number, ref in enumerate(list(desired.index.active)):
        if number % _STEP == 0:
            yield None
        yield PolicyCount(
            kind=ref.kind,
            namespace=ref.namespace,
            name=ref.name,
            ingress=_of_policy(totals, ref, "ingress"),
            egress=_of_policy(totals, ref, "egress"),
        )


def _of_policy(totals: _Totals, ref: ObjectRef, direction: Direction) -> PacketCount | None:
    found = totals.get((ref, direction))
    if found is None:
        return None
    return PacketCount(allow=found.get("allow"), deny=found.get("deny"), audit=found.get("audit-deny"))
