"""What a scrape reads from the agent's parts, beside the desired state."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, TypeAlias

import msgspec

from nfagent.checkpoint.enforced_rules import RulesOrigin
from nfagent.controllers.drift_backoff import DriftTotals
from nfagent.controllers.reconcile_status import ReconcileStatus
from nfagent.controllers.sync_latency import SyncLatency
from nfagent.errors import ValidationIssue
from nfagent.kernel.conntrack_usage import ConntrackUsage
from nfagent.kernel.nat_port_watch import NatPortStatus
from nfagent.metrics.families import OBJECT_KINDS
from nfagent.model.objects import Direction
from nfagent.nftables.verdict_keys import Disposition, VerdictKey
from nfagent.verdicts.record_latency import RecordLatency

PodVerdict: TypeAlias = tuple[str, str, Direction, Disposition]
"""Namespace and name of a Pod, direction and disposition."""


class CountedPackets(msgspec.Struct, frozen=True):
    """Packets that the kernel counted; none of the numbers ever decreases while its Pod, policy or reason exists.

    pods:      by Pod, direction and disposition
    policies:  by verdict and its policies
    drops:     by the name of a counter that no policy has: `drop/spoofed`
    workloads: name and kind of the workload of Pods, also of those that are gone
    """

    pods: Mapping[PodVerdict, int] = {}
    policies: Mapping[VerdictKey, int] = {}
    drops: Mapping[str, int] = {}
    workloads: Mapping[tuple[str, str], tuple[str, str]] = {}


class Readings(msgspec.Struct, frozen=True, kw_only=True):
    """One scrape's readings.

    unready:        why the agent isn't ready, '' where it is
    enforced:       where the rules in force come from
    problems:       the problem of each part of the agent, of families.PARTS, '' or none for none
    synced:         whether everything was read once
    uptime:         seconds since the agent started
    resources:      kind -> the API server source's status of it (kube.informers); empty for manifests
    invalid:        kind -> objects with something that can't be read
    reading_log:    whether the NFLOG group is being read
    verdict_log:    introspection.agent_status.VerdictLogStatus as builtins
    python_blocks:  blocks of memory that Python's objects use (sys.getallocatedblocks)
    foreign_nat:    rules of other programs that translate Pods' traffic
    conntrack:      None where the kernel doesn't say
    """

    unready: str
    enforced: RulesOrigin = "current"
    problems: Mapping[str, str] = {}
    synced: bool
    uptime: float
    reconcile: ReconcileStatus
    drift: DriftTotals = DriftTotals()
    sync_latency: SyncLatency
    record_latency: RecordLatency
    revoked: int
    resources: Mapping[str, Mapping[str, Any]]
    invalid: Mapping[str, int]
    reading_log: bool
    verdict_log: Mapping[str, Any]
    own_log_lost: int
    python_blocks: int
    foreign_nat: int
    nat_ports: NatPortStatus
    conntrack: ConntrackUsage | None
    counts: CountedPackets


class InvalidObjects:
    """Objects with issues, counted by kind as issues come and go: a scrape must not list what may be many."""

    def __init__(self) -> None:
        """Start without any."""
        self._issues: Counter[str] = Counter()
        self.by_kind: Counter[str] = Counter()

    def update(self, came: Sequence[ValidationIssue], went: Sequence[ValidationIssue]) -> None:
        """Count issues that appeared, and discount those that were resolved."""
        for name in _objects(came):
            self._issues[name] += 1
            if self._issues[name] == 1:
                self.by_kind[_kind(name)] += 1
        for name in _objects(went):
            self._issues[name] -= 1
            if self._issues[name] <= 0:
                del self._issues[name]
                self.by_kind[_kind(name)] -= 1


def _objects(issues: Iterable[ValidationIssue]) -> Iterable[str]:
    return (issue.object or issue.place for issue in issues)


def _kind(name: str) -> str:
    """Return the kind in `Kind namespace/name`; `other` for a file."""
    kind = name.partition(" ")[0]
    return kind if kind in OBJECT_KINDS else "other"
