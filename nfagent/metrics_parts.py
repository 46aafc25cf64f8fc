"""The parts of metrics: what a scrape reads, the page that is made of it, and where it is served."""

from __future__ import annotations

import asyncio
import contextlib
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import msgspec
from aiohttp import web

from nfagent.backend_parts import BackendParts
from nfagent.clock import Clock
from nfagent.config import Settings
from nfagent.controllers.conntrack_revoker import ConntrackRevoker
from nfagent.controllers.reconciler import Reconciler
from nfagent.desired.state import DesiredState
from nfagent.egress_nat_parts import EgressNatParts
from nfagent.errors import HostError, KernelError, ValidationIssue
from nfagent.introspection.freshness import Freshness
from nfagent.introspection.metrics_routes import metrics_routes
from nfagent.introspection.tcp_listener import TcpListener, deadlines
from nfagent.kernel.conntrack_usage import read_conntrack_usage
from nfagent.metrics.collector import NodeCollector
from nfagent.metrics.exposition import MetricsPage
from nfagent.metrics.packet_counts import PacketCounts, boot_id
from nfagent.metrics.readings import CountedPackets, InvalidObjects, Readings
from nfagent.object_source import ObjectSource
from nfagent.system.background_task import background_task
from nfagent.system.stderr_log import lost_lines
from nfagent.time_slices import TimeSlices
from nfagent.verdict_log_parts import VerdictLogParts


class MetricSources(msgspec.Struct, frozen=True):
    """The agent's parts that metrics read.

    freshness: returns how complete and how old the state is
    problems:  returns the problem of each part of the agent, '' for none
    stalled:   returns why the reconciler makes no progress, '' where it does
    """

    freshness: Callable[[], Freshness]
    problems: Callable[[], Mapping[str, str]]
    stalled: Callable[[], str]
    reconciler: Reconciler
    revoker: ConntrackRevoker
    verdict_log: VerdictLogParts
    egress_nat: EgressNatParts
    source: ObjectSource
    backend: BackendParts


class MetricsParts:
    """The parts, made and run together. Satisfies introspection.metrics_routes.MetricsProvider."""

    def __init__(
        self, settings: Settings, desired: DesiredState, clock: Clock, time_slices: TimeSlices, sources: MetricSources
    ) -> None:
        """Make the parts; nothing is opened yet."""
        self._desired = desired
        self._clock = clock
        self._sources = sources
        self._started = clock.monotonic()
        self._invalid = InvalidObjects()
        self.packet_counts = PacketCounts(
            desired,
            Path(settings.state_dir),
            clock,
            boot=boot_id(),
            synced=lambda: not sources.freshness().unread,
            time_slices=time_slices,
            source=sources.backend.counters,
        )
        self.packet_counts.delete_by(sources.backend.client.commit_latest)
        sources.backend.client.defer_deletions(self.packet_counts)
        self._page = MetricsPage(self._collect, clock, time_slices)
        address = settings.metrics_address()
        self._listener = None if address is None else TcpListener(address, clock, "metrics", "[metrics] listen")
        self._serving: asyncio.Task[None] | None = None

    @property
    def routes(self) -> list[web.RouteDef]:
        """The routes for the agent's socket."""
        return metrics_routes(self)

    @property
    def problem(self) -> str:
        """Why metrics aren't served over TCP; '' where they are, or needn't be."""
        return self._listener.problem if self._listener is not None else ""

    async def run(self) -> None:
        """Read the kernel's counters between scrapes, until cancelled."""
        await self.packet_counts.run()

    def start(self) -> None:
        """Serve over TCP, where the settings ask for it."""
        if self._listener is not None:
            application = web.Application(middlewares=[deadlines])
            application.router.add_routes(self.routes)
            self._serving = background_task(self._listener.run(application, "/metrics"))

    async def close(self) -> None:
        """Stop to serve over TCP."""
        if self._serving is not None:
            self._serving.cancel()
            await asyncio.wait((self._serving,))

    @property
    def uncounted(self) -> str:
        """Why the kernel's packet counters could not be read the last time; '' where they could."""
        return self.packet_counts.unread

    @property
    def counts(self) -> CountedPackets:
        """The packets that the kernel counted, as of the last reading."""
        return self.packet_counts.values

    @property
    def counted_at(self) -> float:
        """When the kernel's counters were read, in monotonic seconds; 0 for not yet."""
        return self.packet_counts.read_at

    async def page(self) -> bytes:
        """Return the page."""
        return await self._page.read()

    def stalled(self) -> str:
        """Return why the agent should be started anew, '' where it works."""
        return self._sources.stalled()

    def unready(self) -> str:
        """Return why the agent isn't ready, '' where it is."""
        freshness = self._sources.freshness()
        return freshness.unknown or freshness.refused

    def pods_changed(self) -> None:
        """Note that objects were applied, Pods possibly among them."""
        self.packet_counts.pods_changed()

    def note_issues(self, came: Sequence[ValidationIssue], went: Sequence[ValidationIssue]) -> None:
        """Count issues of objects that appeared or were resolved."""
        self._invalid.update(came, went)

    async def _collect(self) -> NodeCollector:
        sources = self._sources
        await self.refresh_counts()
        readings = Readings(
            unready=self.unready(),
            enforced=sources.freshness().enforced.origin,
            problems=sources.problems(),
            synced=not sources.freshness().unread,
            uptime=self._clock.monotonic() - self._started,
            reconcile=sources.reconciler.status,
            drift=sources.reconciler.drift_totals,
            sync_latency=sources.reconciler.latency,
            record_latency=sources.verdict_log.latency,
            revoked=sources.revoker.status.revoked,
            resources=sources.source.status().get("apiserver", {}).get("resources", {}),
            invalid=self._invalid.by_kind,
            reading_log=sources.verdict_log.is_reading,
            verdict_log=msgspec.to_builtins(sources.verdict_log.status()),
            own_log_lost=lost_lines(),
            python_blocks=sys.getallocatedblocks(),
            foreign_nat=len(sources.egress_nat.conflicts.found),
            nat_ports=sources.egress_nat.ports.status(),
            conntrack=read_conntrack_usage(),
            counts=self.packet_counts.values,
        )
        return NodeCollector(readings, self._desired)

    async def refresh_counts(self) -> None:
        """Read the kernel's counts; where that fails, those of the last scrape are served."""
        with contextlib.suppress(KernelError, HostError):  # it is in `uncounted`
            await self.packet_counts.refresh()
