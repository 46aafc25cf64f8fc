"""The running agent: its parts, the order in which they start and stop, and the signals.

Objects come from the API server, or from a folder of manifests, into `DesiredState`; the reconciler makes the kernel
equal to it; logged packets come back through NFLOG and go to the verdict log; the unix socket answers questions about
all of it.
Stopping leaves the rules in force.
"""

from __future__ import annotations

import asyncio
import logging
import signal
from collections.abc import Awaitable, Callable, Coroutine, Iterable
from functools import partial
from pathlib import Path
from typing import Any

import msgspec
from aiohttp import web

from nfagent.boot_parts import BootParts
from nfagent.checkpoint.store import CheckpointStore
from nfagent.clock import SystemClock
from nfagent.config import Settings
from nfagent.controllers.event_applier import EventApplier
from nfagent.desired.node_guard import advice
from nfagent.desired.node_interfaces import NodeInterfaces
from nfagent.desired.state import DesiredState
from nfagent.egress_nat_parts import EgressNatParts
from nfagent.introspection import http_server
from nfagent.introspection.agent_status import AgentStatus, OwnLogStatus
from nfagent.introspection.answers import AgentAnswerer, AnswerSources
from nfagent.introspection.freshness import Freshness, freshness_of
from nfagent.introspection.page.listener import PageListener
from nfagent.introspection.runtime_files import RuntimeFiles
from nfagent.introspection.syncs_route import syncs_route
from nfagent.kernel.bridges import BridgeWatch
from nfagent.kernel.conntrack import revoked_set_size
from nfagent.kernel.conntrack_usage import read_conntrack_usage
from nfagent.kernel.link_monitor import LinkMonitor, link_query
from nfagent.kernel.table_lock import acquire_table
from nfagent.metrics_parts import MetricSources, MetricsParts
from nfagent.model.gvk import Item
from nfagent.model.objects import ObjectRef
from nfagent.own_log_parts import OwnLogParts
from nfagent.part_problems import PartProblems
from nfagent.reconcile_parts import ReconcileParts
from nfagent.reload_parts import ReloadParts, live_settings
from nfagent.settings_parts import SettingsParts, fixed
from nfagent.source_parts import make_source
from nfagent.status_parts import StatusParts, StatusSources
from nfagent.system import systemd
from nfagent.system.background_task import background_task, run_until
from nfagent.system.garbage_collections import GarbageCollections
from nfagent.system.gc_tuning import collect_and_freeze, relax_collection
from nfagent.system.process_exit import exit_within
from nfagent.system.readiness import ReadinessNotifier
from nfagent.system.stderr_log import lost_lines
from nfagent.system.threads import POOL_THREADS, started_executor
from nfagent.system.watchdog_notifier import WatchdogNotifier
from nfagent.time_slices import TimeSlices
from nfagent.verdict_log_parts import VerdictLogParts
from nfagent.verdicts.history import ObjectHistory

log = logging.getLogger(__name__)


class Agent:
    """One node's agent. Satisfies object_source.EventSink."""

    def __init__(self, settings: Settings, settings_parts: SettingsParts | None = None) -> None:
        """Make the parts: libnftables is loaded and sockets to the kernel are opened; `run` does the rest.

        settings_parts: the settings as they are loaded again; None for settings that stay
        Raises HostError.
        """
        self._settings = settings
        self._settings_parts = settings_parts or fixed(settings)
        self._desired = DesiredState(
            settings.node_name,
            settings.masquerade_settings(),
            settings.logging.group,
            settings.policy,
            reply_tuples=revoked_set_size(),
        )
        self._clock, self._time_slices = SystemClock(), TimeSlices()
        made = self._reconcile = ReconcileParts(
            settings, self._desired, self._clock, on_sync=self._synced, on_hold=self._held
        )
        self._backend, self._reconciler, self._revoker = made.backend, made.reconciler, made.revoker
        self._bridge_table, self._drift = made.bridge_table, made.drift
        reconciler = self._reconciler
        history = ObjectHistory(self._desired, self._clock.now_ns)
        reconciler.observe_commits(history)
        self._watchdog = WatchdogNotifier(self._clock, reconciler.progress)
        self._source_synced = asyncio.Event()
        self._own_log = OwnLogParts(
            self._desired,
            history,
            self._clock,
            reconciler,
            lambda: self._source,
            time_slices=self._time_slices,
            synced=self._source_synced.is_set,
        )
        self._event_applier = EventApplier(
            self._own_log.changes, self._clock, reconciler.wake, reconciler.undivided, reconciler.latency
        )
        self._boot = BootParts(
            settings, self._desired, self._clock, reconciler, self._event_applier, backend=self._backend
        )
        self._readiness = ReadinessNotifier(self._clock, settings.boot.wait_seconds, lambda: self._boot.enforced)
        self._verdict_log = VerdictLogParts(
            settings, self._desired, history, self._clock, self._backend.log_places, time_slices=self._time_slices
        )
        self._bridges = BridgeWatch()
        self._links = LinkMonitor(lambda: link_query(self._desired.cluster), self._links_changed)
        self._stop, self._reload_requested = asyncio.Event(), asyncio.Event()
        self._link_changes, self._ready, self._in_force = 0, False, asyncio.Event()
        self._egress_nat = EgressNatParts(
            settings,
            self._desired,
            made.nat_conflicts,
            self._backend.client,
            self._clock,
            wake=reconciler.wake,
            source_synced=self._source_synced,
        )
        self._checkpoint = CheckpointStore(Path(settings.state_dir), settings.node_name)
        self._part_problems = PartProblems(
            reconciler,
            made.monitor,
            self._revoker,
            self._links,
            self._checkpoint,
            bridges=self._bridges,
            verdict_log=self._verdict_log,
            egress_nat=self._egress_nat,
        )
        if self._backend.is_nftables:  # docs/backends.md has what iptables lacks
            self._part_problems.also["bridge_frames"] = lambda: self._bridge_table.problem
        self._part_problems.also |= {
            "other_backend": lambda: self._backend.replacing,
            "saved_ruleset": lambda: self._boot.problem,
            "settings": lambda: self._settings_parts.problem,
        }
        self._source, self._reporter = make_source(
            settings,
            self,
            self._desired,
            self._clock,
            self._checkpoint,
            part_problems=self._part_problems,
            synced=self._source_synced.is_set,
        )
        self._settings_parts.apply_with(live_settings(made.guard, reconciler, self._drift, self._verdict_log))
        self._reload = self._make_reload()
        self._metrics = self._make_metrics()
        self._page = PageListener(settings.ui_address(), settings.socket_path.parent, self._clock)
        self._status_parts = self._make_status()

    def _make_reload(self) -> ReloadParts:
        return ReloadParts(
            self._settings_parts,
            self._own_log,
            self._source,
            self._readiness,
            self._reconciler,
            verdict_log=self._verdict_log,
            egress_nat=self._egress_nat,
            bridges=self._bridges,
        )

    def _make_metrics(self) -> MetricsParts:
        sources = MetricSources(
            self._freshness,
            self._part_problems.by_part,
            lambda: self._watchdog.problem,
            self._reconciler,
            self._revoker,
            self._verdict_log,
            self._egress_nat,
            self._source,
            self._backend,
        )
        made = MetricsParts(self._settings, self._desired, self._clock, self._time_slices, sources)
        self._part_problems.also["packet_counters"] = lambda: made.packet_counts.problem
        return made

    def _make_status(self) -> StatusParts:
        served = self._metrics, self._page
        self._part_problems.also["listeners"] = lambda: "; ".join(filter(None, (part.problem for part in served)))
        sources = StatusSources(
            self._status,
            self._freshness,
            self._side_problems,
            self._reconciler,
            self._source,
            self._verdict_log,
            self._metrics,
        )
        return StatusParts(self._settings, self._desired, self._clock, sources)

    async def run(self) -> None:
        """Run until SIGTERM or SIGINT. Raises UsageError, HostError where the agent can't start."""
        table_lock = acquire_table()
        # Without these a signal during the start would end the process at once, and leave a credential plugin running.
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self._end)
        loop.add_signal_handler(signal.SIGHUP, self._reload_requested.set)
        loop.set_default_executor(started_executor(POOL_THREADS, "agent"))
        relax_collection()
        self._boot.read_enforced(self._backend.has_rules)
        start_limit = background_task(self._readiness.await_start(self._source_synced))
        reporting = [background_task(run()) for run in (self._watchdog.run, self._own_log.report_waits)]
        try:
            await self._reconcile.read_table()
            self._drift.subscribe()  # before the first comparison: a change after it is reported
            reports = AnswerSources(
                self._freshness,
                lambda: (*self._source.problems, *self._egress_nat.file.problems),
                self._status,
                self._source.read_services,
                self._backend.client.as_written,
                self._egress_nat.ports.refresh,
            )
            answers = AgentAnswerer(self._desired, self._backend.listings(), self._time_slices, reports)
            routes = self._routes(answers)
            serving = await http_server.serve(self._settings.socket_path, answers, self._time_slices, routes=routes)
            self._metrics.start()
            self._page.start((*http_server.answer_routes(answers, self._time_slices), *routes))
            runtime_files = RuntimeFiles(serving, table_lock, self._clock, self._readiness, self._side_problems)
            self._part_problems.also["runtime_files"] = lambda: runtime_files.problem
            files_task = background_task(runtime_files.run())
            self._verdict_log.start()
            await self._egress_nat.file.read()  # before the first comparison: the default list isn't written in between
            try:
                if await run_until(self._stop, self._source.start()):  # which may take a minute
                    await self._run_parts()
            finally:
                systemd.notify("STOPPING=1")
                files_task.cancel()
                await runtime_files.finish()
                self._verdict_log.close()  # before the server: streams of records end with the last ones
                await self._metrics.close()
                await self._page.close()
                await serving.cleanup()
        finally:
            start_limit.cancel()
            await self._source.close()
            await self._boot.finish()
            await self._checkpoint.close()
            self._egress_nat.close()
            self._reconcile.close()
            table_lock.close()
            for task in reporting:
                task.cancel()
        log.info("stopped; the rules stay in force until `nfagent cleanup`")

    def _routes(self, answers: AgentAnswerer) -> tuple[web.RouteDef, ...]:
        syncs = syncs_route(self._reconciler.latency.trace, self._clock, lambda: self._revoker.last_round)
        views = syncs, *self._status_parts.routes(self._time_slices), self._settings_parts.route
        return (*answers.routes, *views, *self._metrics.routes, *self._verdict_log.routes)

    def _end(self) -> None:
        if not self._stop.is_set():
            exit_within()
        self._stop.set()

    async def _run_parts(self) -> None:
        async with asyncio.TaskGroup() as tasks:
            parts: list[Callable[[], Coroutine[Any, Any, None]]] = [
                self._reconciler.run,
                self._source.run,
                self._egress_nat.run,
                partial(self._reload.run, self._reload_requested),
                self._own_log.run,
                self._verdict_log.run,
                self._drift.run,
                self._revoker.run,
                self._bridges.run,
                self._bridge_table.run,
                partial(self._when_synced, self._links.run),
                self._checkpoint.run,
                self._metrics.run,
                self._status_parts.run,
                self._boot.run,
                self._replace_others,
                partial(self._when_synced, GarbageCollections(self._clock).run),
            ]
            if self._reporter is not None:
                parts.append(partial(self._when_synced, self._reporter.run))
            running = [tasks.create_task(run()) for run in parts]
            await self._stop.wait()
            for task in running:
                task.cancel()

    async def apply(self, changes: Iterable[Item | ObjectRef], received: float | None = None) -> None:
        """Apply changes to the desired state, in their order; received: as in EventSink."""
        await self._event_applier.apply(changes, received)
        self._notify_link_monitor()
        self._metrics.pods_changed()
        self._egress_nat.gateways.prepare()
        self._own_log.applied(self._metrics)

    def on_synced(self) -> None:
        """Begin to write to the kernel: the source has read everything once."""
        cluster = self._desired.cluster
        if cluster.node not in cluster.nodes:
            log.warning("%s", advice(cluster.node, cluster.nodes))
        self._links.refresh()  # before the first comparison: it would remove the source checks of unknown interfaces
        self._egress_nat.gateways.prepare()
        self._own_log.begin()
        self._source_synced.set()
        self._event_applier.open()

    async def _when_synced(self, run: Callable[[], Awaitable[None]]) -> None:
        await self._source_synced.wait()
        await run()

    async def _replace_others(self) -> None:
        await self._in_force.wait()
        await self._backend.replace_others()

    def _notify_link_monitor(self) -> None:
        # Those of other Nodes too: the ways to a few of them are looked up.
        before, self._link_changes = self._link_changes, self._desired.local_changes + self._desired.node_changes
        if self._link_changes != before:
            self._links.pods_changed()

    def _links_changed(self, links: NodeInterfaces) -> None:
        if self._desired.follow_links(links) and self._source_synced.is_set():
            self._reconciler.wake()

    def _side_problems(self) -> list[str]:
        """Return what is wrong with the agent's parts, the files that it writes, and its progress."""
        self._verdict_log.report_problem()
        files = self._verdict_log.problem, self._boot.problem
        return [self._source.trouble, *self._part_problems.described(), *files, self._watchdog.problem]

    def _synced(self) -> None:
        self._revoker.committed()
        self._egress_nat.committed()
        self._bridge_table.compare_if_changed()
        if not self._ready:
            self._ready = True
            self._boot.synced()
            self._in_force.set()
            collect_and_freeze()
            self._own_log.in_sync()
        # A comparison that began before a reload doesn't cover what was read since.
        if self._reconciler.compared:
            self._readiness.compared()

    def _held(self) -> None:
        self._bridge_table.compare_if_changed()
        if self._reconciler.compared:
            self._readiness.compared(f"nothing is changed: {self._reconciler.status.held}")

    def _freshness(self) -> Freshness:
        """Return how complete and how old the known state is."""
        status = self._reconciler.status
        unended = self._watchdog.problem or ("" if self._ready else "they aren't committed yet")
        refused = status.last_error or status.held or unended
        resources = self._source.status().get("apiserver", {}).get("resources", {})
        whole, now = self._source_synced.is_set(), self._clock.now_ns()
        return freshness_of(resources, now, refused, whole=whole, enforced=self._boot.enforced)

    def _status(self) -> AgentStatus:
        reconcile = self._reconciler.status
        return AgentStatus(
            reconcile=msgspec.structs.replace(reconcile, in_sync=reconcile.in_sync and not self._event_applier.busy),
            drift=self._reconcile.drift_status(),
            backend=self._backend.status(),
            bridges=self._bridges.status(),
            frames=self._bridge_table.status(),
            links=self._links.status(),
            revoke=msgspec.structs.replace(self._revoker.status),
            conntrack=read_conntrack_usage() or msgspec.UNSET,
            **self._egress_nat.status(),
            **self._source.status(),
            last_good=self._checkpoint.status(),
            boot=self._boot.status(),
            notices=self._reporter.status() if self._reporter is not None else msgspec.UNSET,
            own_log=OwnLogStatus(lost_lines=lost_lines()),
            problems=self._part_problems.found(),
            verdict_log=self._verdict_log.status(),
        )
