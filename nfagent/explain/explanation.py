"""Why a connection is allowed or denied, in words: `evaluate`'s judgement for people, and what would turn it.

How its ends are written is in `ends`; where a Service's address leads to is in `routes`.
"""

from __future__ import annotations

from collections.abc import Callable, Generator
from typing import Any

import msgspec

from nfagent.explain.endpoints import Question, in_words, pod_of, read_question
from nfagent.explain.peer_naming import pods_labelled
from nfagent.explain.phrasing import side_lines
from nfagent.explain.policy_edits import Suggestion
from nfagent.explain.service_routes import ServiceRoute, finding
from nfagent.explain.suggestions import remedies
from nfagent.model.admin_policy import Policy
from nfagent.model.netaddr import endpoint, is_group, single
from nfagent.model.networkpolicy import PodPeer
from nfagent.model.objects import DIRECTIONS, Direction
from nfagent.model.slices import result
from nfagent.policy.evaluator import DirectionVerdict, Flow, FlowVerdict, evaluate
from nfagent.policy.options import PolicyOptions
from nfagent.state.cluster import ClusterState
from nfagent.state.policy_index import PolicyIndex

__all__ = [
    "ExplainedFlow",
    "Explanation",
    "explain",
    "explain_flow",
    "explaining",
    "explanation_parts",
    "explanation_view",
    "pod_of",
]

_DEFAULTS = PolicyOptions()
_GROUP = (
    "whether it arrives: a node drops what is for everybody or a group while any Pod of it is isolated for ingress in "
    "that family; ask `nfagent dump counters` there for drop/multicast"
)
_ALIKE_NAMED = 3
_GROUPS_SHOWN = 6


class ExplainedFlow(msgspec.Struct, frozen=True):
    """The judgement on one way that the connection may take: the only one, or that to one Pod behind a Service.

    leaving, arriving: the flow as the client's and as the server's policies see it
    remedies:          the changes of which each turns the verdict of its end; where both deny, each needs one
    """

    leaving: Flow
    arriving: Flow
    judgement: FlowVerdict
    remedies: tuple[Suggestion, ...]

    @property
    def allowed(self) -> bool:
        """Tell the verdict."""
        return self.judgement.allowed

    @property
    def sides(self) -> tuple[tuple[DirectionVerdict, Flow], ...]:
        """The ends that were judged, in the order of the packets, each with the flow as it was seen there."""
        found = ((self.judgement.egress, self.leaving), (self.judgement.ingress, self.arriving))
        return tuple((side, flow) for side, flow in found if side is not None)


class Explanation(msgspec.Struct, frozen=True):
    """Judgements and the words for them.

    connection: the connection in words: `shop/web (10.0.0.1) -> shop/db (10.0.0.2):5432/tcp`
    verdict:    'allowed' or 'denied', of how many Pods behind a Service where they differ
    allowed:    whether it is allowed whatever way it takes
    lines:      what mattered, in order, and what would turn it
    flow:       what the client calls; None where a Service has no address
    judged:     one judgement, or one for each Pod behind a Service; none where there is no Pod
    unknown:    what isn't known, and what to do next: the verdict may be another then
    notes:      what may be older than it is
    """

    connection: str
    verdict: str
    allowed: bool
    lines: tuple[str, ...]
    flow: Flow | None
    judged: tuple[ExplainedFlow, ...]
    unknown: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()


def explain(
    cluster: ClusterState, index: PolicyIndex, source: str, destination: str, choices: PolicyOptions = _DEFAULTS
) -> Explanation:
    """Judge a connection that a person wrote down. Raises UsageError where an end can't be understood."""
    return result(explaining(cluster, index, source, destination, choices))


def explaining(  # noqa: PLR0917 - the state, and the question
    cluster: ClusterState,
    index: PolicyIndex,
    source: str,
    destination: str,
    choices: PolicyOptions = _DEFAULTS,
    bars: Callable[[Flow], str] = lambda _: "",
) -> Generator[None, None, Explanation]:
    """Do the same in steps: behind a Service may stand thousands of Pods.

    Those Pods are the ones of the moment of asking; each is judged, and put into words, by the policies of the moment
    when its turn comes.

    bars: says of a flow why rules drop it whatever the policies; '' where these decide
    """
    question = read_question(cluster, source, destination)
    found = yield from finding(cluster, question)
    teller = _Teller(cluster, index, choices, bars)
    called = question.called
    servers = None
    if called is not None:
        servers = pods_labelled(called.service.selector or (), called.service.namespace)
    judged: list[ExplainedFlow] = []
    told: list[list[str]] = []
    for route in found.routes:
        judged.append(teller.judge(route, servers))
        told.append(teller.lines(judged[-1]))
        yield
    lines = told[0] if called is None else [*found.lines, *(yield from teller.grouped(judged, told))]
    source = judged[0].leaving.source if judged else question.sources[0]
    connection = f"{in_words(cluster, source)} -> {_destination(cluster, question, found.flow)}"
    return teller.explanation(connection, tuple(judged), lines, found.flow)


def explain_flow(
    cluster: ClusterState, index: PolicyIndex, flow: Flow, choices: PolicyOptions = _DEFAULTS
) -> Explanation:
    """Judge a flow as packets have it, after a Service's address was translated."""
    teller = _Teller(cluster, index, choices)
    judged = teller.judge(ServiceRoute(flow, flow))
    connection = f"{in_words(cluster, flow.source)} -> {_called(in_words(cluster, flow.destination), flow)}"
    return teller.explanation(connection, (judged,), teller.lines(judged), flow)


def explanation_view(found: Explanation) -> dict[str, Any]:
    """Show an explanation with all its fields, as JSON can hold them, and what follows from them."""
    view = explanation_parts(found)
    return {**view, "judged": list(view["judged"])}


def explanation_parts(found: Explanation) -> dict[str, Any]:
    """Show the same, its judgements made as they are written: there is one for each Pod behind a Service."""
    shown = msgspec.to_builtins(msgspec.structs.replace(found, judged=()))
    if found.unknown:
        # Neither programs nor people take for a verdict what may not be one.
        shown |= {"allowed": None, "verdict": f"not known ({found.verdict} by what is known)"}
    return {
        "complete": not found.unknown,
        **shown,
        "judged": map(_judged_view, found.judged),
    }


def _judged_view(judged: ExplainedFlow) -> dict[str, Any]:
    shown: dict[str, Any] = msgspec.to_builtins(judged)
    shown["allowed"] = judged.allowed
    for side, _ in judged.sides:
        decided = side.decided
        shown["judgement"][side.direction] |= {
            "allowed": side.allowed,
            "decided_by": "default" if decided is None else decided.tier,
        }
    for remedy, fields in zip(judged.remedies, shown["remedies"], strict=True):
        fields["words"] = str(remedy)
    return shown


class _Teller:
    """Judges routes by the policies that an index has, and finds the words."""

    def __init__(
        self,
        cluster: ClusterState,
        index: PolicyIndex,
        choices: PolicyOptions,
        bars: Callable[[Flow], str] = lambda _: "",
    ) -> None:
        self._cluster = cluster
        self._index = index
        self._choices = choices
        self._bars = bars

    def judge(self, route: ServiceRoute, servers: PodPeer | None = None) -> ExplainedFlow:
        """Judge both ends of a route, each by the flow that it sees; `servers` names the Pods behind a Service."""
        flow = route.arriving
        barred = self._bars(flow)
        if barred:
            return ExplainedFlow(route.leaving, flow, FlowVerdict(flow, None, None, barred=barred), ())
        policies = self._judging(route.leaving.source, flow.destination)
        judgement = evaluate(self._cluster, policies, flow, self._choices)
        if route.leaving != flow:
            left = evaluate(self._cluster, policies, route.leaving, self._choices)
            exempt = "; ".join(dict.fromkeys(words for words in (left.exempt, judgement.exempt) if words))
            judgement = FlowVerdict(flow, left.egress, judgement.ingress, exempt, left.barred or judgement.barred)
        found = ExplainedFlow(route.leaving, flow, judgement, ())
        named = {policy.ref: policy for policy in policies}
        sides = [
            (side, seen)
            for side, seen in found.sides
            # Where several Pods hold an address, no change to one Pod's policies is sure to open it.
            if judgement.allowed or not (side.allowed or self._shared(side, found))
        ]
        changes = [change for side, seen in sides for change in remedies(self._cluster, named, seen, side, servers)]
        return msgspec.structs.replace(found, remedies=tuple(changes))

    def _shared(self, side: DirectionVerdict, judged: ExplainedFlow) -> bool:
        return len(self._cluster.holders(_ends(judged)[DIRECTIONS.index(side.direction)])) > 1

    def lines(self, judged: ExplainedFlow) -> list[str]:
        """Say what mattered on one way, and what would turn it."""
        lines = []
        named = {policy.ref: policy for policy in self._judging(*_ends(judged))}
        for side, flow in judged.sides:
            lines.append(f"{self._heading(side, judged)}: {_verdict_of(side.allowed)}")
            lines += self._holding(side, judged)
            lines += side_lines(side, flow, named)
        exempt = judged.judgement.exempt
        if judged.judgement.barred:
            lines.append(f"dropped: {judged.judgement.barred}")
        elif exempt:
            lines.append(f"not judged: {exempt}")
        elif not lines:
            lines.append("not judged: neither end is a Pod with an address of its own")
        return lines + _remedy_lines(judged)

    def grouped(self, judged: list[ExplainedFlow], told: list[list[str]]) -> Generator[None, None, list[str]]:
        """Say it for all Pods behind a Service: once for those that are judged alike, the denied ones first.

        told: what there is to say on each of them
        """
        alike: dict[object, list[int]] = {}
        for number in sorted(range(len(judged)), key=lambda number: judged[number].allowed):
            item = judged[number]
            stages = tuple(side.stages for side, _ in item.sides)
            seen = (item.arriving.source, item.arriving.port)
            alike.setdefault((stages, item.judgement.exempt, item.remedies, seen), []).append(number)
            yield
        lines = []
        groups = list(alike.values())
        for group in groups[:_GROUPS_SHOWN]:
            servers = [self._server(judged[number]) for number in group[:_ALIKE_NAMED]]
            more = len(group) - _ALIKE_NAMED
            shown = f"{', '.join(servers)}{f' and {more} more' if more > 0 else ''}"
            lines += ["", f"{shown}: {_verdict_of(judged[group[0]].allowed)}"]
            lines += [f"  {line}" for line in told[group[0]]]
        rest = [judged[number] for group in groups[_GROUPS_SHOWN:] for number in group]
        if rest:
            denied = sum(not item.allowed for item in rest)
            pods = "1 more Pod" if len(rest) == 1 else f"{len(rest)} more Pods"
            lines += ["", f"and {pods}: {denied} denied, {len(rest) - denied} allowed"]
        return lines

    def explanation(
        self, connection: str, judged: tuple[ExplainedFlow, ...], lines: list[str], flow: Flow | None
    ) -> Explanation:
        """Put it together; whether a group's packet passes depends on more than its ends."""
        found = _explanation(connection, judged, lines, flow)
        if found.allowed and any(self._is_group(item.arriving.destination) for item in judged):
            return msgspec.structs.replace(found, unknown=(_GROUP,))
        return found

    def _is_group(self, address: str) -> bool:
        """Tell whether an address is everybody's, or a group's: the last of a node's IPv4 Pod range is such a one."""
        ranges = (cidr for node in self._cluster.nodes.values() for cidr in node.pod_cidrs)
        return is_group(address) or any(cidr.family == 4 and cidr.last == single(address).last for cidr in ranges)

    def _server(self, judged: ExplainedFlow) -> str:
        return _called(in_words(self._cluster, judged.arriving.destination), judged.arriving)

    def _judging(self, *ends: str) -> list[Policy]:
        return self._index.judging(*(pod for address in ends for pod in self._cluster.holders(address)))

    def _holding(self, side: DirectionVerdict, judged: ExplainedFlow) -> list[str]:
        """Say who holds the address where several Pods do, and who of them is judged here."""
        address = _ends(judged)[DIRECTIONS.index(side.direction)]
        holders = self._cluster.holders(address)
        if len(holders) < 2:
            return []
        paths = ", ".join(pod.ref.path for pod in holders)
        return [f"  {address} is held by {paths}: all their policies must allow; this is {side.pod.path}'s verdict"]

    def _heading(self, side: DirectionVerdict, judged: ExplainedFlow) -> str:
        """Name the end that is judged, and whom it sees there where that isn't who the other end says."""
        seen, arriving = judged.leaving, judged.arriving
        if side.direction == "egress":
            heading = f"egress at {in_words(self._cluster, seen.source)}"
            called = _called(in_words(self._cluster, seen.destination), seen)
            return heading if seen.destination == arriving.destination else f"{heading}, to {called}"
        heading = f"ingress at {in_words(self._cluster, arriving.destination)}"
        return (
            heading if seen.source == arriving.source else f"{heading}, from {in_words(self._cluster, arriving.source)}"
        )


def _ends(judged: ExplainedFlow) -> tuple[str, str]:
    return judged.leaving.source, judged.arriving.destination


def _explanation(
    connection: str, judged: tuple[ExplainedFlow, ...], lines: list[str], flow: Flow | None
) -> Explanation:
    denied = sum(not item.allowed for item in judged)
    verdict = _verdict_of(not denied)
    if not judged:
        verdict = "no Pod stands behind it"
    elif 0 < denied < len(judged):
        verdict = f"denied for {denied} of {len(judged)} Pods"
    return Explanation(
        connection=connection,
        verdict=verdict,
        allowed=bool(judged) and not denied,
        lines=tuple(lines),
        flow=flow,
        judged=judged,
    )


def _verdict_of(allowed: bool) -> str:  # noqa: FBT001 - the verdict is what it is about
    return "allowed" if allowed else "denied"


def _destination(cluster: ClusterState, question: Question, flow: Flow | None) -> str:
    """Write what is called as it was asked about: `Service shop/db (10.96.0.10):80/tcp`, `node a (10.0.0.1):22/tcp`."""
    called = question.called
    if flow is None:
        return f"{called.service.ref}:{question.port}/{question.protocol}" if called is not None else ""
    if called is None or called.node:
        return _called(in_words(cluster, flow.destination), flow)
    return _called(f"{called.service.ref} ({flow.destination})", flow)


def _called(name: str, flow: Flow) -> str:
    """Put port and protocol behind a name; an address that is nobody's stands as it is, others in parentheses."""
    bare = name == flow.destination
    host = endpoint(name, flow.port) if bare else f"{name}{'' if flow.port is None else f':{flow.port}'}"
    return f"{host}/{flow.protocol}"


def _remedy_lines(judged: ExplainedFlow) -> list[str]:
    """Say what would turn the verdict; where both ends deny, that both must change."""
    goal = "deny" if judged.allowed else "allow"
    ends: dict[Direction, list[Suggestion]] = {}
    for remedy in judged.remedies:
        ends.setdefault(remedy.direction, []).append(remedy)
    if not ends:
        return []
    if len(ends) == 1:
        first, *others = judged.remedies
        return [f"to {goal} it: {first}", *(f"         or: {other}" for other in others)]
    lines = [f"to {goal} it, change {'either end' if judged.allowed else 'both ends'}:"]
    for direction, found in ends.items():
        lines += [f"  {'or:' if number else f'{direction}:':<9}{change}" for number, change in enumerate(found)]
    return lines
