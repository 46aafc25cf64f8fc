"""What a scrape reads from the agent's parts, beside the desired state."""

from __future__ import annotations

from collections import Counter
from collections.abc import Hashable, Iterable, Mapping, Sequence
from typing import Any, Protocol

import msgspec

from nfagent.controllers.reconciler import ReconcileStatus
from nfagent.controllers.sync_latency import SyncLatency
from nfagent.errors import ValidationIssue
from nfagent.kernel.conntrack_usage import ConntrackUsage
from nfagent.kernel.nat_port_watch import NatPortStatus
from nfagent.metrics.families import OBJECT_KINDS
from nfagent.model.objects import Direction, ObjectRef
from nfagent.verdicts.record_latency import RecordLatency


class PolicyVerdict(Hashable, Protocol):
    """A verdict with the policies that gave it: nftables.verdict_keys.VerdictKey."""

    @property
    def disposition(self) -> str:
        """Return allow, deny or audit-deny."""
        ...

    @property
    def direction(self) -> Direction:
        """Return the direction."""
        ...

    @property
    def policies(self) -> tuple[ObjectRef, ...]:
        """Return the policies."""
        ...


class PacketCounts(Protocol):
    """Packets that the kernel counted; none of the numbers ever decreases while its Pod, policy or reason exists."""

    @property
    def pods(self) -> Mapping[tuple[str, str, Direction, str], int]:
        """Return packets by namespace, Pod, direction and disposition."""
        ...

    @property
    def policies(self) -> Mapping[PolicyVerdict, int]:
        """Return packets by verdict and its policies."""
        ...

    @property
    def drops(self) -> Mapping[str, int]:
        """Return packets by the name of a counter that no policy has: `drop/spoofed`."""
        ...


class PacketCounter(PacketCounts, Protocol):
    """Counts that are read from the kernel on request."""

    async def refresh(self) -> None:
        """Read them anew. Raises KernelError, HostError; the last ones stay then."""
        ...


class NoPacketCounts(msgspec.Struct, frozen=True):
    """Counts that no kernel was asked for."""

    pods: Mapping[tuple[str, str, Direction, str], int] = {}
    policies: Mapping[PolicyVerdict, int] = {}
    drops: Mapping[str, int] = {}

    async def refresh(self) -> None:
        """Read nothing."""


class Readings(msgspec.Struct, frozen=True, kw_only=True):
    """One scrape's readings.

    unready:        why the agent isn't ready, '' where it is
    synced:         whether everything was read once
    uptime:         seconds since the agent started
    resources:      kind -> the API server source's status of it (kube.informers); empty for manifests
    invalid:        kind -> objects with something that can't be read
    reading_log:    whether the NFLOG group is being read
    verdict_log:    introspection.agent_status.VerdictLogStatus as builtins
    foreign_nat:    rules of other programs that translate Pods' traffic
    conntrack:      None where the kernel doesn't say
    """

    unready: str
    synced: bool
    uptime: float
    reconcile: ReconcileStatus
    sync_latency: SyncLatency
    record_latency: RecordLatency
    revoked: int
    resources: Mapping[str, Mapping[str, Any]]
    invalid: Mapping[str, int]
    reading_log: bool
    verdict_log: Mapping[str, Any]
    own_log_lost: int
    foreign_nat: int
    nat_ports: NatPortStatus
    conntrack: ConntrackUsage | None
    counts: PacketCounts


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
