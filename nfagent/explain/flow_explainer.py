"""Evaluates one flow at both ends, and describes the verdicts and what would change them."""

from __future__ import annotations

from collections.abc import Callable, Generator

import msgspec

from nfagent.explain.endpoints import in_words
from nfagent.explain.phrasing import side_lines
from nfagent.explain.policy_edits import Suggestion
from nfagent.explain.service_routes import ServiceRoute
from nfagent.explain.suggestions import remedies
from nfagent.model.admin_policy import Policy
from nfagent.model.netaddr import endpoint
from nfagent.model.networkpolicy import PodPeer
from nfagent.model.objects import DIRECTIONS, Direction
from nfagent.policy.evaluator import DirectionVerdict, Flow, FlowVerdict, evaluate
from nfagent.policy.options import PolicyOptions
from nfagent.state.cluster import ClusterState
from nfagent.state.policy_index import PolicyIndex

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


class FlowExplainer:
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
            lines.append(f"{self._heading(side, judged)}: {verdict_word(side.allowed)}")
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
            lines += ["", f"{shown}: {verdict_word(judged[group[0]].allowed)}"]
            lines += [f"  {line}" for line in told[group[0]]]
        rest = [judged[number] for group in groups[_GROUPS_SHOWN:] for number in group]
        if rest:
            denied = sum(not item.allowed for item in rest)
            pods = "1 more Pod" if len(rest) == 1 else f"{len(rest)} more Pods"
            lines += ["", f"and {pods}: {denied} denied, {len(rest) - denied} allowed"]
        return lines

    def _server(self, judged: ExplainedFlow) -> str:
        return with_port(in_words(self._cluster, judged.arriving.destination), judged.arriving)

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
            called = with_port(in_words(self._cluster, seen.destination), seen)
            return heading if seen.destination == arriving.destination else f"{heading}, to {called}"
        heading = f"ingress at {in_words(self._cluster, arriving.destination)}"
        return (
            heading if seen.source == arriving.source else f"{heading}, from {in_words(self._cluster, arriving.source)}"
        )


def _ends(judged: ExplainedFlow) -> tuple[str, str]:
    return judged.leaving.source, judged.arriving.destination


def verdict_word(allowed: bool) -> str:  # noqa: FBT001 - the verdict is what it is about
    """Return the word for a verdict."""
    return "allowed" if allowed else "denied"


def with_port(name: str, flow: Flow) -> str:
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
