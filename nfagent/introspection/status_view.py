"""`nfagent status`: whether all is well on a node, in ten lines; served as GET /v1/status.

Degraded is what needs attention: rules that aren't in force, a source that brings nothing, a policy that fails closed,
an object or file that isn't used as written, a part of the agent with a problem, traffic that no rule sees.
"""

from __future__ import annotations

from typing import Literal

import msgspec


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
    backend:        where the rules are written, and why there; '' where no rules are written
    enforced:       what the kernel enforces until the agent's own rules are in force; '' once they are
    """

    version: str
    node: str
    uptime_seconds: float
    source: SourceStatus
    in_sync: bool
    in_sync_seconds: float | None
    enforced: str
    backend: str = ""
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
