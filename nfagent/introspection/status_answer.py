"""Makes the answer to GET /v1/status (status_view) from the agent's parts."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import msgspec

from nfagent.desired.state import DesiredState
from nfagent.errors import ValidationIssue
from nfagent.introspection.agent_status import AgentStatus, VerdictLogStatus, backend_words
from nfagent.introspection.chunks import deferred, in_steps
from nfagent.introspection.freshness import Freshness
from nfagent.introspection.status_view import DeniedStatus, LogLoss, SourceStatus, StatusView
from nfagent.model.plurals import counted

_POLICIES_NAMED = 10
_STEP = 500


class StatusReadings(msgspec.Struct, frozen=True, kw_only=True):
    """What the view is made of, beside the desired state.

    in_sync_at: monotonic
    problems:   of the agent's parts
    issues:     of objects and files; those of policies that fail closed may be among them
    """

    version: str
    now: float
    started: float
    in_sync_at: float
    source: SourceStatus
    freshness: Freshness
    agent: AgentStatus
    problems: Sequence[str]
    denied: DeniedStatus
    issues: Sequence[ValidationIssue] = ()


def status_parts(desired: DesiredState, readings: StatusReadings) -> StatusView:
    """Return the view; the policies are looked through while it is written."""
    agent, freshness = readings.agent, readings.freshness
    closed: set[str] = set()
    problems = list(_problems(readings))

    def found() -> list[str]:
        return [*problems, *_closed_problem(closed), *_object_problem(readings.issues, closed)]

    cluster = desired.cluster
    since = readings.now - readings.in_sync_at if readings.in_sync_at else None
    return StatusView(
        version=readings.version,
        node=cluster.node,
        uptime_seconds=round(readings.now - readings.started, 1),
        source=readings.source,
        in_sync=agent.reconcile.in_sync,
        in_sync_seconds=round(since, 1) if since is not None and agent.reconcile.in_sync else None,
        enforced=freshness.enforced.words,
        backend=backend_words(agent.backend),
        local_pods=len(cluster.local),
        pods=len(cluster.pods),
        policies=len(desired.index.policies),
        failing_closed=in_steps(_failing_closed(desired, closed)),
        failing_closed_in_all=deferred(lambda: len(closed)),
        denied=readings.denied,
        log_loss=log_loss(agent.verdict_log),
        drift_repairs=agent.reconcile.drifts,
        drift_by=agent.reconcile.drift_by,
        health=deferred(lambda: "degraded" if found() else "ok"),
        problems=deferred(found),
    )


def log_loss(log: VerdictLogStatus) -> LogLoss:
    """Return what the verdict log lacks."""
    dropped = log.dropped_records
    return LogLoss(
        unread=log.lost + log.overruns * (not log.lost),
        unwritten=log.lost_lines,
        dropped=sum(dropped.values()) + sum(n for reason, n in log.dropped_packets.items() if reason not in dropped),
        problem=log.problem,
    )


def _failing_closed(desired: DesiredState, found: set[str]) -> Iterator[str | None]:
    """Yield the first of the policies that fail closed; all are added to `found`, with their kinds."""
    for number, policy in enumerate(list(desired.index.policies.values())):
        if policy.problems:
            found.add(str(policy.ref))
            if len(found) <= _POLICIES_NAMED:
                yield policy.ref.path if policy.ref.namespace else str(policy.ref)
        if number % _STEP == 0:
            yield None


def _closed_problem(closed: set[str]) -> list[str]:
    if not closed:
        return []
    words = "policy fails" if len(closed) == 1 else "policies fail"
    return [f"{len(closed)} {words} closed: `nfagent dump policies` says why"]


def _object_problem(issues: Sequence[ValidationIssue], closed: set[str]) -> list[str]:
    """Return that objects or files aren't in force as they are written: what they would allow or deny isn't known."""
    others = [issue for issue in issues if issue.object not in closed]
    if not others:
        return []
    problems = counted(len(others), "problem")
    return [f"{problems} of objects or files, which aren't used as written: `nfagent dump policies` lists all"]


def _problems(readings: StatusReadings) -> Iterator[str]:
    """Yield what is wrong, each once."""
    agent, freshness = readings.agent, readings.freshness
    held = agent.reconcile.held or agent.reconcile.last_error
    if freshness.unknown:
        yield freshness.unknown
    yield from map(str, freshness.stale)
    if freshness.unenforced:
        yield freshness.unenforced
    elif held:
        yield f"the kernel doesn't hold these rules: {held}"
    said = freshness.unenforced
    yield from (
        text for text in dict.fromkeys(readings.problems) if text and text not in said and not (held and held in text)
    )
    for bridge in agent.bridges:
        yield f"traffic on bridge {bridge['bridge']} is not filtered: br_netfilter is off; see nfagent check"
    if agent.conntrack is not msgspec.UNSET and agent.conntrack.is_full:
        yield f"conntrack: {agent.conntrack}"
