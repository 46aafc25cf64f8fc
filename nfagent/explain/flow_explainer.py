"""Explains one flow: the verdicts at both ends, and the changes of policies that would reverse them."""

from __future__ import annotations

from collections.abc import Callable, Generator

import msgspec

from nfagent.explain.endpoints import describe_address
from nfagent.explain.phrasing import side_lines
from nfagent.explain.policy_edits import Suggestion
from nfagent.explain.service_routes import ServiceRoute
from nfagent.explain.suggestions import suggest
from nfagent.model.admin_policy import Policy
from nfagent.model.netaddr import endpoint
from nfagent.model.networkpolicy import PodPeer
from nfagent.model.objects import DIRECTIONS, Direction
from nfagent.policy.evaluator import DirectionVerdict, Flow, FlowVerdict, evaluate
from nfagent.policy.options import PolicyOptions
from nfagent.state.cluster import ClusterState
from nfagent.state.policy_index import PolicyIndex

_PODS_NAMED = 3
_GROUPS_SHOWN = 6


# The JSON keys are those of the first release.
_JSON_KEYS = {"verdict": "judgement", "suggestions": "remedies"}  # codespell:ignore judgement


class ExplainedFlow(msgspec.Struct, frozen=True, rename=_JSON_KEYS):
    """The verdict on one flow of a connection: the only one, or the one to a Pod behind a Service.

    leaving, arriving: the flow as the client's and as the server's policies see it
    suggestions:       changes that each reverse the verdict of one end; if both ends deny, both need a change
    """

    leaving: Flow
    arriving: Flow
    verdict: FlowVerdict
    suggestions: tuple[Suggestion, ...]

    @property
    def allowed(self) -> bool:
        """Return the verdict."""
        return self.verdict.allowed

    @property
    def sides(self) -> tuple[tuple[DirectionVerdict, Flow], ...]:
        """The ends that policies apply to, source first, each with the flow as it is seen there."""
        found = ((self.verdict.egress, self.leaving), (self.verdict.ingress, self.arriving))
        return tuple((side, flow) for side, flow in found if side is not None)


class FlowExplainer:
    """Evaluates the routes of a connection, and returns the lines that explain them."""

    def __init__(
        self,
        cluster: ClusterState,
        index: PolicyIndex,
        policy_options: PolicyOptions,
        bar_reason: Callable[[Flow], str] = lambda _: "",
    ) -> None:
        self._cluster = cluster
        self._index = index
        self._policy_options = policy_options
        self._bar_reason = bar_reason

    def explain(self, route: ServiceRoute, servers: PodPeer | None = None) -> ExplainedFlow:
        """Evaluate both ends of a route, each with the flow that it sees; `servers` selects the Service's Pods."""
        flow = route.arriving
        barred = self._bar_reason(flow)
        if barred:
            return ExplainedFlow(route.leaving, flow, FlowVerdict(flow, None, None, barred=barred), ())
        policies = self._policies(route.leaving.source, flow.destination)
        verdict = evaluate(self._cluster, policies, flow, self._policy_options)
        if route.leaving != flow:
            left = evaluate(self._cluster, policies, route.leaving, self._policy_options)
            exempt = "; ".join(dict.fromkeys(words for words in (left.exempt, verdict.exempt) if words))
            verdict = FlowVerdict(flow, left.egress, verdict.ingress, exempt, left.barred or verdict.barred)
        found = ExplainedFlow(route.leaving, flow, verdict, ())
        by_ref = {policy.ref: policy for policy in policies}
        sides = [
            (side, seen)
            for side, seen in found.sides
            # If several Pods share an address, a change of one Pod's policies may not be enough.
            if verdict.allowed or not (side.allowed or self._shared(side, found))
        ]
        changes = [change for side, seen in sides for change in suggest(self._cluster, by_ref, seen, side, servers)]
        return msgspec.structs.replace(found, suggestions=tuple(changes))

    def _shared(self, side: DirectionVerdict, explained: ExplainedFlow) -> bool:
        return len(self._cluster.holders(_ends(explained)[DIRECTIONS.index(side.direction)])) > 1

    def lines(self, explained: ExplainedFlow) -> list[str]:
        """Return the lines about one flow: the decisive policies and rules, and what would reverse the verdict."""
        lines = []
        by_ref = {policy.ref: policy for policy in self._policies(*_ends(explained))}
        for side, flow in explained.sides:
            audit = ", logged as audit-deny" if side.audit_denying else ""
            lines.append(f"{self._heading(side, explained)}: {verdict_word(side.allowed)}{audit}")
            lines += self._shared_by(side, explained)
            lines += side_lines(side, flow, by_ref)
        exempt = explained.verdict.exempt
        if explained.verdict.barred:
            lines.append(f"dropped: {explained.verdict.barred}")
        elif exempt:
            lines.append(f"exempt from policies: {exempt}")
        elif not lines:
            lines.append("no policy applies: neither end is a Pod with an address of its own")
        return lines + _suggestion_lines(explained)

    def grouped(
        self, explained: list[ExplainedFlow], allowed: list[bool], lines_of: list[list[str]]
    ) -> Generator[None, None, list[str]]:
        """Return the lines about all Pods behind a Service, grouped by equal verdicts, denied ones first.

        allowed, lines_of: the verdict and the lines about each of them
        """
        alike: dict[object, list[int]] = {}
        for number in sorted(range(len(explained)), key=allowed.__getitem__):
            item = explained[number]
            stages = tuple((side.stages, side.audited, side.enforced) for side, _ in item.sides)
            seen = (item.arriving.source, item.arriving.port)
            alike.setdefault((stages, item.verdict.exempt, item.suggestions, seen), []).append(number)
            yield
        lines = []
        groups = list(alike.values())
        for group in groups[:_GROUPS_SHOWN]:
            servers = [self._server(explained[number]) for number in group[:_PODS_NAMED]]
            more = len(group) - _PODS_NAMED
            shown = f"{', '.join(servers)}{f' and {more} more' if more > 0 else ''}"
            lines += ["", f"{shown}: {verdict_word(allowed[group[0]])}"]
            lines += [f"  {line}" for line in lines_of[group[0]]]
        rest = [allowed[number] for group in groups[_GROUPS_SHOWN:] for number in group]
        if rest:
            denied = rest.count(False)
            pods = "1 more Pod" if len(rest) == 1 else f"{len(rest)} more Pods"
            lines += ["", f"and {pods}: {denied} denied, {len(rest) - denied} allowed"]
        return lines

    def _server(self, explained: ExplainedFlow) -> str:
        return with_port(describe_address(self._cluster, explained.arriving.destination), explained.arriving)

    def _policies(self, *ends: str) -> list[Policy]:
        return self._index.policies_for(*(pod for address in ends for pod in self._cluster.holders(address)))

    def _shared_by(self, side: DirectionVerdict, explained: ExplainedFlow) -> list[str]:
        """Return a line about an address that several Pods share; none for other addresses."""
        address = _ends(explained)[DIRECTIONS.index(side.direction)]
        holders = self._cluster.holders(address)
        if len(holders) < 2:
            return []
        paths = ", ".join(pod.ref.path for pod in holders)
        return [f"  {address} is shared by {paths}: all their policies must allow; this is {side.pod.path}'s verdict"]

    def _heading(self, side: DirectionVerdict, explained: ExplainedFlow) -> str:
        """Return the heading of one end, with the other end's address if NAT changes it."""
        seen, arriving = explained.leaving, explained.arriving
        if side.direction == "egress":
            heading = f"egress at {describe_address(self._cluster, seen.source)}"
            called = with_port(describe_address(self._cluster, seen.destination), seen)
            return heading if seen.destination == arriving.destination else f"{heading}, to {called}"
        heading = f"ingress at {describe_address(self._cluster, arriving.destination)}"
        return (
            heading
            if seen.source == arriving.source
            else f"{heading}, from {describe_address(self._cluster, arriving.source)}"
        )


def _ends(explained: ExplainedFlow) -> tuple[str, str]:
    return explained.leaving.source, explained.arriving.destination


def verdict_word(allowed: bool) -> str:  # noqa: FBT001 - the verdict is what it is about
    """Return the word for a verdict."""
    return "allowed" if allowed else "denied"


def with_port(name: str, flow: Flow) -> str:
    """Return a destination's name with port and protocol; an IPv6 address alone is put in brackets."""
    bare = name == flow.destination
    host = endpoint(name, flow.port) if bare else f"{name}{'' if flow.port is None else f':{flow.port}'}"
    return f"{host}/{flow.protocol}"


def _suggestion_lines(explained: ExplainedFlow) -> list[str]:
    """Return the lines about what would reverse the verdict; if both ends deny it, both must change."""
    goal = "deny" if explained.allowed else "allow"
    ends: dict[Direction, list[Suggestion]] = {}
    for suggestion in explained.suggestions:
        ends.setdefault(suggestion.direction, []).append(suggestion)
    if not ends:
        return []
    if len(ends) == 1:
        first, *others = explained.suggestions
        return [f"to {goal} it: {first}", *(f"         or: {other}" for other in others)]
    lines = [f"to {goal} it, change {'either end' if explained.allowed else 'both ends'}:"]
    for direction, found in ends.items():
        lines += [f"  {'or:' if number else f'{direction}:':<9}{change}" for number, change in enumerate(found)]
    return lines
