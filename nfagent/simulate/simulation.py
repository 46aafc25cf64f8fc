"""What a change of policies would do to connections: each judged by the policies of now and by those of after.

Nothing is applied, and nothing is copied: both readings look at the same cluster, and only the policies differ. Both
are of one moment, also where the cluster moves on between one connection and the next.
"""

from __future__ import annotations

from typing import Literal, TypeAlias

import msgspec

from nfagent.explain.endpoints import in_words
from nfagent.explain.short_phrasing import reason
from nfagent.model.admin_policy import Policy
from nfagent.model.objects import DIRECTIONS, Direction, Pod
from nfagent.policy.evaluator import DirectionVerdict, Flow, FlowVerdict, evaluate
from nfagent.policy.options import PolicyOptions
from nfagent.simulate.patch import PatchedPolicies, PolicyPatch
from nfagent.state.cluster import ClusterState, identity_of
from nfagent.state.policy_index import PolicyIndex

Verdict: TypeAlias = Literal["allowed", "denied"]
FlowSource: TypeAlias = Literal["log", "pods"]
"""Where a flow comes from: the verdict log, or the list of all pairs of Pods."""

_DEFAULTS = PolicyOptions()


class ObservedFlow(msgspec.Struct, frozen=True):
    """A flow that is to be judged.

    count:               how often it was seen; 0: never, it is one that Pods could begin
    source, destination: the Pods whose addresses these were then, as NAMESPACE/NAME; '' where they were nobody's
    traffic:             what it stands for, where that is more than its own port: `8000-8080/tcp`
    """

    flow: Flow
    count: int = 0
    source: str = ""
    destination: str = ""
    traffic: str = ""

    @property
    def origin(self) -> FlowSource:
        """Where it comes from."""
        return "log" if self.count else "pods"


class FlippedEnd(msgspec.Struct, frozen=True):
    """An end whose verdict turns.

    pod:           NAMESPACE/NAME of the Pod that is judged
    before, after: who decides there, in words
    """

    direction: Direction
    pod: str
    before: str
    after: str


class FlowChange(msgspec.Struct, frozen=True):
    """A flow whose verdict would change.

    source, destination: who is there now: `shop/web (10.0.0.1)`, `node a (192.0.2.1)`, or the address alone
    traffic:             port and protocol in words: `5432/tcp`, `icmp`, `other ports`
    turned:              the ends to which that is due, in the order of the packets; never empty
    """

    flow: Flow
    source: str
    destination: str
    traffic: str
    origin: FlowSource
    count: int
    before: Verdict
    after: Verdict
    turned: tuple[FlippedEnd, ...]


class FlowCounts(msgspec.Struct):
    """Numbers of flows.

    judged:    all of them
    denied:    allowed now, denied after the change
    allowed:   denied now, allowed after the change
    untouched: of those that stay as they are, those about which none of the policies has a say
    gone:      those with an end that is no longer the Pod's whose it was
    """

    judged: int = 0
    denied: int = 0
    allowed: int = 0
    untouched: int = 0
    gone: int = 0

    @property
    def unchanged(self) -> int:
        """Those whose verdict stays."""
        return self.judged - self.denied - self.allowed


class PolicySimulation:
    """An amendment of policies that is tried on one flow after the other.

    amended: the policies as they would be
    log:     what became of the flows of the verdict log so far
    pods:    the same of the flows between Pods
    notes:   what is to be said about the state that is judged by
    """

    def __init__(
        self, cluster: ClusterState, index: PolicyIndex, amendment: PolicyPatch, choices: PolicyOptions = _DEFAULTS
    ) -> None:
        """Look at the state that others keep up to date."""
        self.cluster = cluster
        self.amended = PatchedPolicies(index, amendment)
        self.log = FlowCounts()
        self.pods = FlowCounts()
        self.notes: tuple[str, ...] = ()
        self._index = index
        self._choices = choices

    def judge(self, seen: ObservedFlow) -> FlowChange | None:
        """Judge a flow before and after, and count it; None where its verdict stays."""
        flow = seen.flow
        ends = (self.cluster.holder(flow.source), self.cluster.holder(flow.destination))
        judging = (*self.cluster.holders(flow.source), *self.cluster.holders(flow.destination))
        tally = self.log if seen.origin == "log" else self.pods
        tally.judged += 1
        tally.gone += any(map(_left, (seen.source, seen.destination), ends))
        sides = zip((flow.source, flow.destination), DIRECTIONS, strict=True)
        if not any(self._concerned(pod, way) for address, way in sides for pod in self.cluster.holders(address)):
            tally.untouched += 1
            return None
        now, then = self._index.judging(*judging), self.amended.judging(*judging)
        before = evaluate(self.cluster, now, flow, self._choices)
        after = evaluate(self.cluster, then, flow, self._choices)
        if before.allowed == after.allowed:
            return None
        tally.denied += before.allowed
        tally.allowed += after.allowed
        return FlowChange(
            flow=flow,
            source=in_words(self.cluster, flow.source),
            destination=in_words(self.cluster, flow.destination),
            traffic=seen.traffic or (flow.protocol if flow.port is None else f"{flow.port}/{flow.protocol}"),
            origin=seen.origin,
            count=seen.count,
            before=_verdict(before),
            after=_verdict(after),
            turned=_turned((before, now), (after, then)),
        )

    def _concerned(self, pod: Pod, direction: Direction) -> bool:
        return self.amended.concerns(identity_of(pod), direction)


def _left(path: str, holder: Pod | None) -> bool:
    """Tell whether an address is no longer the Pod's whose it was."""
    return path != "" and (holder is None or holder.ref.path != path)


def _verdict(judgement: FlowVerdict) -> Verdict:
    return "allowed" if judgement.allowed else "denied"


def _turned(
    before: tuple[FlowVerdict, list[Policy]], after: tuple[FlowVerdict, list[Policy]]
) -> tuple[FlippedEnd, ...]:
    """Say who decides at the ends that turn; whether an end is judged at all depends on no policy."""
    (was, now), (becomes, then) = before, after
    sides: tuple[tuple[DirectionVerdict | None, DirectionVerdict | None], ...] = (
        (was.egress, becomes.egress),
        (was.ingress, becomes.ingress),
    )
    old, new = {policy.ref: policy for policy in now}, {policy.ref: policy for policy in then}
    return tuple(
        FlippedEnd(one.direction, one.pod.path, reason(one, old), reason(other, new))
        for one, other in sides
        if one is not None and other is not None and one.allowed != other.allowed
    )
