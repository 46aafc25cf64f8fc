"""`nfagent status`: whether all is well on a node, in ten lines; served as GET /v1/status.

Degraded is what needs somebody: rules that aren't in force, a source that brings nothing, a policy that fails closed, a
part of the agent with a problem, traffic that no rule sees.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Literal

import msgspec

from nfagent.desired.state import DesiredState
from nfagent.introspection.agent_status import AgentStatus, VerdictLogStatus
from nfagent.introspection.chunks import deferred, in_steps
from nfagent.introspection.freshness import Freshness

_POLICIES_NAMED = 10
_STEP = 500


class SourceStatus(msgspec.Struct, frozen=True, kw_only=True):
    """Where the objects come from.

    kind:        apiserver or manifests
    name:        the API server's address, or the folder
    synced:      whether everything was read once
    age_seconds: since the API server was heard, or the folder brought a change; None for not yet
    """

    kind: Literal["apiserver", "manifests"]
    name: str
    synced: bool
    age_seconds: float | None = None


class DeniedCount(msgspec.Struct, frozen=True, kw_only=True):
    """Packets that were denied. source, destination: '' where only counters tell; reason: of drops without a policy."""

    packets: int
    source: str = ""
    destination: str = ""
    policies: list[str] = []
    reason: str = ""


class DeniedStatus(msgspec.Struct, frozen=True, kw_only=True):
    """What was denied lately.

    seconds: how far back the count of packets reaches; less than five minutes soon after a start
    packets: by the kernel's counters
    by:      what `top` is from: `log`, records of the verdict log, which come some seconds later; or `counters`, where
             denied connections aren't logged, or not all: they name no ends
    top:     the three with the most packets
    """

    seconds: float
    packets: int
    by: Literal["log", "counters"]
    top: list[DeniedCount]


class LogLoss(msgspec.Struct, frozen=True, kw_only=True):
    """What the verdict log lacks since the start.

    unread:    packets that the kernel had no room for: the agent was too slow
    unwritten: records that a sink could not write
    dropped:   records beyond the rate limit, and packets of too many denied connections at once
    problem:   why records are being lost now, '' for none
    """

    unread: int
    unwritten: int
    dropped: int
    problem: str = ""


class StatusView(msgspec.Struct, frozen=True, kw_only=True):
    """Whether all is well.

    health:         ok, or degraded: then `problems` says why
    in_sync:        the kernel holds the desired ruleset; since: the time from which on it did, or of the last change
    failing_closed: policies that can't be enforced as written, the first ten; `failing_closed_in_all` counts them
    drift_repairs:  how often changes by other programs were undone; drift_by: the last of these programs, '' unknown
    enforced:       what the kernel enforces until the agent's own rules are in force; '' once they are
    """

    version: str
    node: str
    uptime_seconds: float
    source: SourceStatus
    in_sync: bool
    in_sync_seconds: float | None
    enforced: str
    local_pods: int
    pods: int
    policies: int
    failing_closed: list[str]
    failing_closed_in_all: int
    denied: DeniedStatus
    log_loss: LogLoss
    drift_repairs: int
    drift_by: str
    health: Literal["ok", "degraded"]
    problems: list[str]


class StatusReadings(msgspec.Struct, frozen=True, kw_only=True):
    """What the view is made of, beside the desired state. problems: of the agent's parts; in_sync_at: monotonic."""

    version: str
    now: float
    started: float
    in_sync_at: float
    source: SourceStatus
    freshness: Freshness
    agent: AgentStatus
    problems: Sequence[str]
    denied: DeniedStatus


def status_parts(desired: DesiredState, readings: StatusReadings) -> StatusView:
    """Return the view; the policies are looked through while it is written."""
    agent, freshness = readings.agent, readings.freshness
    closed: list[str] = []
    problems = list(_problems(readings))
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
        local_pods=len(cluster.local),
        pods=len(cluster.pods),
        policies=len(desired.index.policies),
        failing_closed=in_steps(_failing_closed(desired, closed)),
        failing_closed_in_all=deferred(lambda: len(closed)),
        denied=readings.denied,
        log_loss=log_loss(agent.verdict_log),
        drift_repairs=agent.reconcile.drifts,
        drift_by=agent.reconcile.drift_by,
        health=deferred(lambda: "degraded" if problems or closed else "ok"),
        problems=deferred(lambda: [*problems, *_closed_problem(closed)]),
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


def _failing_closed(desired: DesiredState, found: list[str]) -> Iterator[str | None]:
    """Yield the first of the policies that fail closed; all are added to `found`."""
    for number, policy in enumerate(list(desired.index.policies.values())):
        if policy.problems:
            found.append(policy.ref.path if policy.ref.namespace else str(policy.ref))
            if len(found) <= _POLICIES_NAMED:
                yield found[-1]
        if number % _STEP == 0:
            yield None


def _closed_problem(closed: list[str]) -> list[str]:
    if not closed:
        return []
    words = "policy fails" if len(closed) == 1 else "policies fail"
    return [f"{len(closed)} {words} closed: `nfagent dump policies` says why"]


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
    yield from (text for text in dict.fromkeys(readings.problems) if text and not (held and held in text))
    for bridge in agent.bridges:
        yield f"traffic on bridge {bridge['bridge']} is not filtered: br_netfilter is off; see nfagent check"
    if agent.conntrack is not msgspec.UNSET and agent.conntrack.is_full:
        yield f"conntrack: {agent.conntrack}"
