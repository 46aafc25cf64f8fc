"""Evaluates flows by the current policies and by the patched ones.

Nothing is applied or copied: both evaluations read the same cluster state at the same moment, and differ in the
policies only. The state may change between two flows.
"""

from __future__ import annotations

from typing import Literal, TypeAlias

import msgspec

from nfagent.explain.endpoints import describe_address
from nfagent.explain.short_phrasing import reason
from nfagent.model.admin_policy import Policy
from nfagent.model.objects import DIRECTIONS, Direction, Pod
from nfagent.policy.evaluator import DirectionVerdict, Flow, FlowVerdict, evaluate
from nfagent.policy.options import PolicyOptions
from nfagent.simulate.patch import PatchedPolicies, PolicyPatch
from nfagent.simulate.translations import TranslationComparison
from nfagent.state.cluster import ClusterState, identity_of
from nfagent.state.policy_index import PolicyIndex

VerdictName: TypeAlias = Literal["allowed", "denied"]
FlowSource: TypeAlias = Literal["log", "pods"]
"""Source of a flow: the verdict log, or the enumeration of all pairs of Pods."""

_DEFAULTS = PolicyOptions()


class ObservedFlow(msgspec.Struct, frozen=True):
    """A flow of the verdict log.

    count:               how often it was logged
    source, destination: the Pods that held its addresses, as NAMESPACE/NAME; '' where no Pod did
    """

    flow: Flow
    count: int = 1
    source: str = ""
    destination: str = ""


class FlippedEnd(msgspec.Struct, frozen=True):
    """An end of a flow whose verdict changes.

    pod:           NAMESPACE/NAME of the evaluated Pod
    before, after: which policy decides there, as text
    """

    direction: Direction
    pod: str
    before: str
    after: str


class FlowChange(msgspec.Struct, frozen=True):
    """A flow whose verdict would change.

    source, destination: the current holders: `shop/web (10.0.0.1)`, `node a (192.0.2.1)`, or the address alone
    traffic:             port and protocol: `5432/tcp`, `icmp`, `other ports`
    turned:              the ends whose verdict changes, egress first; never empty
    pairs:               the pairs of Pods that it stands for: an end that is several Pods, which policies can't tell
                         apart, is described as `shop app=web (3 Pods)`, and `flow` has the address of one of them
    """

    flow: Flow
    source: str
    destination: str
    traffic: str
    origin: FlowSource
    count: int
    before: VerdictName
    after: VerdictName
    turned: tuple[FlippedEnd, ...]
    pairs: int = 1


class FlowCounts(msgspec.Struct):
    """Numbers of flows.

    judged:    all evaluated flows
    denied:    allowed now, denied after the change
    allowed:   denied now, allowed after the change
    untouched: unchanged because no patched policy selects an end
    gone:      with an address that its Pod no longer holds
    """

    judged: int = 0
    denied: int = 0
    allowed: int = 0
    untouched: int = 0
    gone: int = 0

    @property
    def unchanged(self) -> int:
        """Number of flows whose verdict stays."""
        return self.judged - self.denied - self.allowed


class PolicySimulation:
    """Evaluates flows before and after a policy patch.

    patched: the patched policies
    log:     counts of the flows of the verdict log so far
    pods:    counts of the flows between Pods so far
    notes:   what may be stale in the state
    translations: the comparison of egress NAT; None where no egress object changes
    """

    def __init__(
        self,
        cluster: ClusterState,
        index: PolicyIndex,
        patch: PolicyPatch,
        policy_options: PolicyOptions = _DEFAULTS,
        translations: TranslationComparison | None = None,
    ) -> None:
        """Evaluate against this state, which the caller keeps up to date."""
        self.cluster = cluster
        self.patched = PatchedPolicies(index, patch)
        self.log = FlowCounts()
        self.pods = FlowCounts()
        self.notes: tuple[str, ...] = ()
        self.translations = translations
        self.index = index
        self.policy_options = policy_options

    def judge(self, seen: ObservedFlow) -> FlowChange | None:
        """Evaluate and count a flow; return its change, None where the verdict stays."""
        flow = seen.flow
        ends = (self.cluster.holder(flow.source), self.cluster.holder(flow.destination))
        pods = (*self.cluster.holders(flow.source), *self.cluster.holders(flow.destination))
        counts = self.log
        counts.judged += 1
        counts.gone += any(map(_is_gone, (seen.source, seen.destination), ends))
        sides = zip((flow.source, flow.destination), DIRECTIONS, strict=True)
        if not any(
            self._affected(pod, direction) for address, direction in sides for pod in self.cluster.holders(address)
        ):
            counts.untouched += 1
            return None
        now, then = self.index.policies_for(*pods), self.patched.policies_for(*pods)
        before = evaluate(self.cluster, now, flow, self.policy_options)
        after = evaluate(self.cluster, then, flow, self.policy_options)
        if before.allowed == after.allowed:
            return None
        counts.denied += before.allowed
        counts.allowed += after.allowed
        return FlowChange(
            flow=flow,
            source=describe_address(self.cluster, flow.source),
            destination=describe_address(self.cluster, flow.destination),
            traffic=flow.protocol if flow.port is None else f"{flow.port}/{flow.protocol}",
            origin="log",
            count=seen.count,
            before=_verdict(before),
            after=_verdict(after),
            turned=_flipped_ends((before, now), (after, then)),
        )

    def _affected(self, pod: Pod, direction: Direction) -> bool:
        return self.patched.affects(identity_of(pod), direction)


def _is_gone(path: str, holder: Pod | None) -> bool:
    """Return whether the Pod `path` no longer holds an address."""
    return path != "" and (holder is None or holder.ref.path != path)


def _verdict(verdict: FlowVerdict) -> VerdictName:
    return "allowed" if verdict.allowed else "denied"


def _flipped_ends(
    before: tuple[FlowVerdict, list[Policy]], after: tuple[FlowVerdict, list[Policy]]
) -> tuple[FlippedEnd, ...]:
    """Return the ends whose verdict changes; whether an end is evaluated at all doesn't depend on policies."""
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
