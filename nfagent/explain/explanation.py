"""Why a connection is allowed or denied, in words: `evaluate`'s judgement for people, and what would turn it.

How its ends are written is in `ends`; where a Service's address leads to is in `routes`.
"""

from __future__ import annotations

from collections.abc import Callable, Generator
from typing import Any

import msgspec

from nfagent.explain.endpoints import FlowQuery, in_words, read_query
from nfagent.explain.flow_explainer import ExplainedFlow, FlowExplainer, verdict_word, with_port
from nfagent.explain.peer_naming import peer_for_labels
from nfagent.explain.service_routes import ServiceRoute, finding
from nfagent.model.netaddr import is_group, single
from nfagent.model.slices import result
from nfagent.policy.evaluator import Flow
from nfagent.policy.options import PolicyOptions
from nfagent.state.cluster import ClusterState
from nfagent.state.policy_index import PolicyIndex

_DEFAULTS = PolicyOptions()
_GROUP = (
    "whether it arrives: a node drops what is for everybody or a group while any Pod of it is isolated for ingress in "
    "that family; ask `nfagent dump counters` there for drop/multicast"
)


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
    question = read_query(cluster, source, destination)
    found = yield from finding(cluster, question)
    explainer = FlowExplainer(cluster, index, choices, bars)
    called = question.called
    servers = None
    if called is not None:
        servers = peer_for_labels(called.service.selector or (), called.service.namespace)
    judged: list[ExplainedFlow] = []
    lines_of: list[list[str]] = []
    for route in found.routes:
        judged.append(explainer.judge(route, servers))
        lines_of.append(explainer.lines(judged[-1]))
        yield
    lines = lines_of[0] if called is None else [*found.lines, *(yield from explainer.grouped(judged, lines_of))]
    source = judged[0].leaving.source if judged else question.sources[0]
    connection = f"{in_words(cluster, source)} -> {_destination(cluster, question, found.flow)}"
    return _explanation(cluster, connection, tuple(judged), lines, found.flow)


def explain_flow(
    cluster: ClusterState, index: PolicyIndex, flow: Flow, choices: PolicyOptions = _DEFAULTS
) -> Explanation:
    """Judge a flow as packets have it, after a Service's address was translated."""
    explainer = FlowExplainer(cluster, index, choices)
    judged = explainer.judge(ServiceRoute(flow, flow))
    connection = f"{in_words(cluster, flow.source)} -> {with_port(in_words(cluster, flow.destination), flow)}"
    return _explanation(cluster, connection, (judged,), explainer.lines(judged), flow)


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


def _explanation(
    cluster: ClusterState,
    connection: str,
    judged: tuple[ExplainedFlow, ...],
    lines: list[str],
    flow: Flow | None,
) -> Explanation:
    denied = sum(not item.allowed for item in judged)
    verdict = verdict_word(not denied)
    if not judged:
        verdict = "no Pod serves it"
    elif 0 < denied < len(judged):
        verdict = f"denied for {denied} of {len(judged)} Pods"
    allowed = bool(judged) and not denied
    groups = allowed and any(_is_group(cluster, item.arriving.destination) for item in judged)
    return Explanation(
        connection=connection,
        verdict=verdict,
        allowed=allowed,
        lines=tuple(lines),
        flow=flow,
        judged=judged,
        unknown=(_GROUP,) if groups else (),
    )


def _is_group(cluster: ClusterState, address: str) -> bool:
    """Return whether an address is multicast or broadcast: the last address of a node's IPv4 Pod range is broadcast."""
    ranges = (cidr for node in cluster.nodes.values() for cidr in node.pod_cidrs)
    return is_group(address) or any(cidr.family == 4 and cidr.last == single(address).last for cidr in ranges)


def _destination(cluster: ClusterState, question: FlowQuery, flow: Flow | None) -> str:
    """Write what is called as it was asked about: `Service shop/db (10.96.0.10):80/tcp`, `node a (10.0.0.1):22/tcp`."""
    called = question.called
    if flow is None:
        return f"{called.service.ref}:{question.port}/{question.protocol}" if called is not None else ""
    if called is None or called.node:
        return with_port(in_words(cluster, flow.destination), flow)
    return with_port(f"{called.service.ref} ({flow.destination})", flow)
