"""Explains why a connection is allowed or denied, and which changes of policies would reverse that.

`endpoints` parses the two ends; `service_routes` returns the flows to a Service's Pods.
"""

from __future__ import annotations

from collections.abc import Callable, Container, Generator
from typing import Any

import msgspec

from nfagent.explain.endpoints import FlowQuery, describe_address, read_query
from nfagent.explain.flow_explainer import ExplainedFlow, FlowExplainer, verdict_word, with_port
from nfagent.explain.peer_naming import peer_for_labels
from nfagent.explain.service_routes import ServiceRoute, find_routes_in_steps
from nfagent.explain.source_translation import SourceTranslation, Translate, find_translation
from nfagent.model.netaddr import family_of, is_multicast_or_broadcast, number
from nfagent.model.slices import run_to_end
from nfagent.policy.evaluator import Flow
from nfagent.policy.options import PolicyOptions
from nfagent.state.cluster import ClusterState
from nfagent.state.policy_index import PolicyIndex

_DEFAULTS = PolicyOptions()
_GROUP = (
    "whether it is delivered: a node drops broadcast and multicast packets while any of its Pods is isolated for "
    "ingress in that family; see drop/multicast in `nfagent dump counters` there"
)


class Explanation(msgspec.Struct, frozen=True):
    """The verdict on a connection, with its reasons.

    connection:  the connection as text: `shop/web (10.0.0.1) -> shop/db (10.0.0.2):5432/tcp`
    verdict:     'allowed' or 'denied'; for a Service whose Pods differ, the number of denied Pods
    allowed:     whether every flow of the connection is allowed
    lines:       the decisive policies and rules, in order, and what would reverse the verdict
    flow:        the flow that the client starts; None for a Service without an address
    judged:      one flow, or one for each Pod behind a Service; none if there is no Pod
    unknown:     what is unknown, and what to do next: the real verdict may differ
    notes:       what may be outdated
    translation: of the source address, for a connection of a Pod to an address; None for every other
    """

    connection: str
    verdict: str
    allowed: bool
    lines: tuple[str, ...]
    flow: Flow | None
    judged: tuple[ExplainedFlow, ...]
    unknown: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()
    translation: SourceTranslation | None = None


class JudgedSide(msgspec.Struct, frozen=True):
    """The verdict of one end of a flow, as far as a command reads it."""

    allowed: bool


class JudgedSides(msgspec.Struct, frozen=True):
    """Both ends of a flow; None for one that isn't judged here."""

    egress: JudgedSide | None
    ingress: JudgedSide | None


class JudgedFlow(msgspec.Struct, frozen=True):
    """A flow of `explanation_view`, as far as a command reads it."""

    judgement: JudgedSides  # codespell:ignore judgement


class ExplanationAnswer(msgspec.Struct, frozen=True):
    """What a command reads of `explanation_view`: an agent of another version may answer something else."""

    complete: bool
    connection: str
    verdict: str
    allowed: bool | None
    lines: tuple[str, ...]
    judged: tuple[JudgedFlow, ...]
    unknown: tuple[str, ...]
    notes: tuple[str, ...]


def explain(  # noqa: PLR0917 - the state, and the query
    cluster: ClusterState,
    index: PolicyIndex,
    source: str,
    destination: str,
    policy_options: PolicyOptions = _DEFAULTS,
    translate: Translate | None = None,
) -> Explanation:
    """Explain a connection. Raises UsageError for an end that can't be parsed or found."""
    return run_to_end(explain_in_steps(cluster, index, source, destination, policy_options, translate=translate))


def explain_in_steps(  # noqa: PLR0917 - the state, and the query
    cluster: ClusterState,
    index: PolicyIndex,
    source: str,
    destination: str,
    policy_options: PolicyOptions = _DEFAULTS,
    bar_reason: Callable[[Flow], str] = lambda _: "",
    translate: Translate | None = None,
) -> Generator[None, None, Explanation]:
    """Return the same as `explain`, in steps of one Pod: a Service may have thousands.

    The Pods are those at the start; each is evaluated with the policies at its own step.

    bar_reason: returns why rules drop a flow independent of policies; '' if the policies decide
    translate:  returns how packets of a Pod to an address leave its node; without it the explanation has none
    """
    query = read_query(cluster, source, destination)
    found = yield from find_routes_in_steps(cluster, query)
    explainer = FlowExplainer(cluster, index, policy_options, bar_reason)
    target = query.target
    servers = None
    if target is not None:
        servers = peer_for_labels(target.service.selector or (), target.service.namespace)
    judged: list[ExplainedFlow] = []
    allowed: list[bool] = []
    lines_of: list[list[str]] = []
    to_group, broadcast = False, _broadcast_addresses(cluster)
    for route in found.routes:
        judged.append(explainer.explain(route, servers))
        allowed.append(judged[-1].allowed)
        lines_of.append(explainer.lines(judged[-1]))
        to_group = to_group or _is_group(judged[-1], broadcast)
        yield
    lines = (
        lines_of[0] if target is None else [*found.lines, *(yield from explainer.grouped(judged, allowed, lines_of))]
    )
    source = judged[0].leaving.source if judged else query.sources[0]
    connection = f"{describe_address(cluster, source)} -> {_destination(cluster, query, found.flow)}"
    translation = None
    barred = any(item.verdict.barred for item in judged)
    if translate is not None and target is None and found.flow is not None and not barred:
        yield
        translation = find_translation(cluster, found.flow, translate)
    if translation is not None and translation.is_shown:
        lines = [*lines, translation.words]
    return _explanation(connection, tuple(judged), allowed, lines, found.flow, translation, to_group=to_group)


def explain_flow(
    cluster: ClusterState, index: PolicyIndex, flow: Flow, policy_options: PolicyOptions = _DEFAULTS
) -> Explanation:
    """Explain a flow as packets have it after DNAT of a Service's address."""
    explainer = FlowExplainer(cluster, index, policy_options)
    judged = explainer.explain(ServiceRoute(flow, flow))
    connection = (
        f"{describe_address(cluster, flow.source)} -> {with_port(describe_address(cluster, flow.destination), flow)}"
    )
    to_group = _is_group(judged, _broadcast_addresses(cluster))
    return _explanation(connection, (judged,), [judged.allowed], explainer.lines(judged), flow, to_group=to_group)


def explanation_view(found: Explanation) -> dict[str, Any]:
    """Return an explanation, and values derived from it, as builtins for JSON."""
    view = explanation_parts(found)
    return {**view, "judged": list(view["judged"])}


def explanation_parts(found: Explanation) -> dict[str, Any]:
    """Return the same with `judged` as an iterator: there is one item for each Pod behind a Service."""
    shown = msgspec.to_builtins(msgspec.structs.replace(found, judged=()))
    if found.unknown:
        # Programs must not take an incomplete verdict for a final one.
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
        decided = (side if side.enforced is None else side.enforced).decided
        shown["judgement"][side.direction] |= {  # codespell:ignore judgement
            "allowed": side.allowed,
            "decided_by": "default" if decided is None else decided.tier,
            "audit_denied_by": msgspec.to_builtins(side.audit_denying),
        }
    for suggestion, fields in zip(judged.suggestions, shown["remedies"], strict=True):
        fields["words"] = str(suggestion)
    return shown


def _explanation(  # noqa: PLR0917 - what the explanation has
    connection: str,
    judged: tuple[ExplainedFlow, ...],
    each_allowed: list[bool],
    lines: list[str],
    flow: Flow | None,
    translation: SourceTranslation | None = None,
    *,
    to_group: bool,
) -> Explanation:
    """Return the explanation.

    each_allowed: whether each of `judged` is allowed
    to_group:     whether any of them goes to a multicast or broadcast address
    """
    denied = each_allowed.count(False)
    verdict = verdict_word(not denied)
    if not judged:
        verdict = "no Pod serves it"
    elif 0 < denied < len(judged):
        verdict = f"denied for {denied} of {len(judged)} Pods"
    allowed = bool(judged) and not denied
    return Explanation(
        connection=connection,
        verdict=verdict,
        allowed=allowed,
        lines=tuple(lines),
        flow=flow,
        judged=judged,
        unknown=(_GROUP,) if allowed and to_group else (),
        translation=translation,
    )


def _broadcast_addresses(cluster: ClusterState) -> frozenset[int]:
    """Return the last address of every IPv4 Pod range of a Node: it is the broadcast address there."""
    ranges = (cidr for node in cluster.nodes.values() for cidr in node.pod_cidrs)
    return frozenset(cidr.last for cidr in ranges if cidr.family == 4)


def _is_group(explained: ExplainedFlow, broadcast: Container[int]) -> bool:
    """Return whether a flow arrives at a multicast or broadcast address."""
    address = explained.arriving.destination
    return is_multicast_or_broadcast(address) or (family_of(address) == 4 and number(address) in broadcast)


def _destination(cluster: ClusterState, query: FlowQuery, flow: Flow | None) -> str:
    """Return the destination as it was written: `Service shop/db (10.96.0.10):80/tcp`, `node a (10.0.0.1):22/tcp`."""
    target = query.target
    if flow is None:
        return f"{target.service.ref}:{query.port}/{query.protocol}" if target is not None else ""
    if target is None or target.node:
        return with_port(describe_address(cluster, flow.destination), flow)
    return with_port(f"{target.service.ref} ({flow.destination})", flow)
