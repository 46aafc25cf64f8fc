"""The running agent: one TaskGroup that wires the rooms together.

Objects come from the API server, or from a folder of manifests, into `Desired`; the reconciler makes the kernel
equal to it; logged packets come back through NFLOG and go to the verdict log; the unix socket answers questions about
all of it.
Stopping leaves the rules in force.
"""

from __future__ import annotations

import asyncio
import logging
import signal
from collections.abc import Collection, Iterable
from functools import partial
from pathlib import Path
from typing import Protocol

import msgspec

from nfagent.cluster.model import Ref
from nfagent.config import Settings
from nfagent.edge import api, systemd
from nfagent.edge.access import find_access
from nfagent.edge.addresses import is_own
from nfagent.edge.apiserver import ApiServer
from nfagent.edge.bridges import BridgeWatch
from nfagent.edge.claim import claim_table
from nfagent.edge.clock import SystemClock
from nfagent.edge.conntrack import Connections
from nfagent.edge.drift import DriftWatch
from nfagent.edge.folder import FolderSource
from nfagent.edge.following import ClusterSource
from nfagent.edge.introspection import Introspection, Reports
from nfagent.edge.kernel import Nftables
from nfagent.edge.listings import Listings
from nfagent.edge.logfile import RotatingFile
from nfagent.edge.memory import settle_memory, spare_collections
from nfagent.edge.nflog import NflogSource
from nfagent.edge.turns import Turns
from nfagent.errors import KernelError, MachineError, Problem
from nfagent.intake import Intake
from nfagent.notices.findings import NodeFaults
from nfagent.reconcile import Reconciler
from nfagent.revoke import Revoker
from nfagent.ruleset.desired import Desired, Item
from nfagent.ruleset.standing import Standing, standing_of
from nfagent.ruleset.views import View
from nfagent.verdicts.attribution import Attributor
from nfagent.verdicts.records import encode
from nfagent.voice import Voice
from nfagent.wire.nflog import LoggedPacket

log = logging.getLogger(__name__)
_NFLOG_RETRY_SECONDS = 30.0
_DRIFT_LOOK_SECONDS = 60.0
_UNHEARD_RESYNC_SECONDS = 60.0


class Source(Protocol):
    """Where objects come from."""

    @property
    def problems(self) -> tuple[Problem, ...]:
        """What is wrong with objects now."""
        ...

    async def start(self) -> None:
        """Make ready. Raises NfagentError for what stands in the way of a start."""
        ...

    async def run(self) -> None:
        """Follow until cancelled."""
        ...

    async def reload(self) -> None:
        """Read everything again."""
        ...

    async def read_services(self) -> str:
        """Have the Services that `explain` looks at; give what is in the way."""
        ...

    async def close(self) -> None:
        """End whatever is open."""
        ...

    def status(self) -> View:
        """Tell how it stands."""
        ...


class Agent:
    """One node's agent. Satisfies edge.folder.Taker and edge.following.Taker."""

    def __init__(self, settings: Settings) -> None:
        """Put the parts together; nothing is read or opened before `run`. Raises MachineError."""
        self._settings = settings
        self._desired = Desired(
            settings.node_name, settings.masquerade_settings(), settings.logging.group, settings.policy
        )
        self._clock = SystemClock()
        self._drift = DriftWatch()
        self._kernel = Nftables(drift=self._drift)
        self._reconciler = Reconciler(
            self._kernel,
            self._clock,
            self._desired,
            resync=settings.reconcile.resync_seconds,
            retry_max=settings.reconcile.retry_max_seconds,
            on_sync=self._synced,
        )
        self._connections = Connections()
        self._revoker = Revoker(
            self._desired, self._connections, self._kernel, self._clock, self._reconciler.wake, own=is_own
        )
        self._intake = Intake(self._desired, self._clock, self._reconciler.wake)
        self._attributor = Attributor(self._desired)
        self._nflog = NflogSource(settings.logging.group, receive_buffer=settings.logging.receive_buffer)
        self._nflog_problem = ""
        self._verdict_log = RotatingFile(
            settings.verdict_log, settings.logging.file_max_bytes, settings.logging.file_backups
        )
        self._bridges = BridgeWatch()
        self._stop = asyncio.Event()
        self._reload_asked = asyncio.Event()
        self._ready = False
        self._announced = False
        self._gathered = asyncio.Event()
        self._said: frozenset[Problem] = frozenset()
        self._source: Source
        self._voice: Voice | None = None
        if settings.manifests:
            self._source = FolderSource(Path(settings.manifests), self)
        else:
            find = partial(find_access, settings.kubeconfig, settings.context, settings.token_file)
            server = ApiServer(find)
            self._source = source = ClusterSource(server, self._clock, self)
            self._voice = Voice(self._desired, server, self._clock, lambda: source.faults, self._node_faults)

    async def run(self) -> None:
        """Run until SIGTERM or SIGINT. Raises UsageError, MachineError for what stands in the way of a start."""
        claim = claim_table()
        spare_collections()
        try:
            await self._kernel.read()
            self._drift.open(lambda committer: self._reconciler.changed(str(committer)))
            self._hear_of_drift()  # before the first comparison, which so needs no second one
            await self._source.start()
            turns = Turns()
            reports = Reports(self._standing, lambda: self._source.problems, self._status, self._source.read_services)
            answers = Introspection(self._desired, Listings(), turns, reports)
            runner = await api.serve(self._settings.socket_path, answers, turns)
            try:
                await self._work()
            finally:
                systemd.notify("STOPPING=1")
                await runner.cleanup()
                self._nflog.close()
                self._verdict_log.close()
        finally:
            await self._source.close()
            self._connections.close()
            self._kernel.close()
            self._drift.close()
            claim.close()
        log.info("stopped; the rules stay in force until `nfagent cleanup`")

    async def _work(self) -> None:
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self._stop.set)
        loop.add_signal_handler(signal.SIGHUP, self._reload_asked.set)
        async with asyncio.TaskGroup() as tasks:
            running = [
                tasks.create_task(self._reconciler.run()),
                tasks.create_task(self._source.run()),
                tasks.create_task(self._reload()),
                tasks.create_task(self._read_verdicts()),
                tasks.create_task(self._watch_for_drift()),
                tasks.create_task(self._revoker.run()),
                tasks.create_task(self._bridges.run()),
                tasks.create_task(systemd.let_the_node_start(self._gathered, self._clock)),
            ]
            if self._voice is not None:
                running.append(tasks.create_task(self._speak(self._voice)))
            await self._stop.wait()
            for task in running:
                task.cancel()

    def count_nodes(self) -> int:
        """Give the number of the cluster's Nodes."""
        return len(self._desired.cluster.nodes)

    def held(self, kind: str) -> Collection[tuple[str, str]]:
        """Give namespace and name of every object of a kind."""
        return self._desired.held(kind)

    async def take(self, changes: Iterable[Item | Ref]) -> None:
        """Take in what changed, in its order."""
        await self._intake.take(changes)
        self._say_problems()

    def gathered(self) -> None:
        """Everything was read once: from now on the kernel is told."""
        self._warn_about_node()
        self._gathered.set()
        self._intake.open()

    async def _speak(self, voice: Voice) -> None:
        await self._gathered.wait()
        await voice.run()

    def _node_faults(self) -> NodeFaults:
        unjudged, mending = self._bridges.unjudged
        return NodeFaults(self._reconciler.status.last_error, self._nflog_problem, unjudged, mending)

    async def _reload(self) -> None:
        """Read everything again, folder and kernel, whenever it is asked for: systemd's ExecReload."""
        while True:
            await self._reload_asked.wait()
            self._reload_asked.clear()
            systemd.notify("RELOADING=1")
            await self._source.reload()
            self._verdict_log.reopen()
            self._bridges.look()
            self._reconciler.distrust()
            self._announced = False

    def _synced(self) -> None:
        self._revoker.committed()
        if not self._ready:
            self._ready = True
            settle_memory()
            counts = (len(self._desired.cluster.local), len(self._desired.index.policies))
            log.info("in sync: %d Pods of node %s, %d policies", counts[0], self._desired.cluster.node, counts[1])
        if not self._announced:
            self._announced = True
            systemd.notify("READY=1\nSTATUS=enforcing")

    async def _read_verdicts(self) -> None:
        while True:
            try:
                self._nflog.open(self._log_verdicts)
            except (MachineError, KernelError) as error:
                self._nflog_problem = str(error)
                log.error("no verdict log for now; policies are enforced all the same: %s", error)
            else:
                self._nflog_problem = ""
                return
            await self._clock.wait(asyncio.Event(), _NFLOG_RETRY_SECONDS)

    async def _watch_for_drift(self) -> None:
        while True:
            await self._clock.wait(asyncio.Event(), _DRIFT_LOOK_SECONDS)
            self._hear_of_drift()

    def _hear_of_drift(self) -> None:
        """Hear of others' changes where listening is safe; compare every minute where it isn't, or fails."""
        resync = self._settings.reconcile.resync_seconds
        try:
            listening = self._drift.look()
        except KernelError as error:
            log.warning("whether others change the table isn't heard: %s", error)
            listening = False
        self._reconciler.compare_every(resync if listening else min(resync, _UNHEARD_RESYNC_SECONDS))

    def _log_verdicts(self, packets: list[LoggedPacket]) -> None:
        now = self._clock.now_ns()
        records = (self._attributor.attribute(logged, now) for logged in packets)
        self._verdict_log.write([encode(record) for record in records if record is not None])

    def _say_problems(self) -> None:
        now = frozenset(self._source.problems)
        for problem in sorted(now - self._said, key=str):
            log.warning("%s", problem)
        for problem in sorted(self._said - now, key=str):
            log.info("mended: %s", problem)
        self._said = now

    def _warn_about_node(self) -> None:
        cluster = self._desired.cluster
        if cluster.node not in cluster.nodes:
            known = ", ".join(sorted(cluster.nodes)) or "none at all"
            log.warning("there is no Node %s (there: %s); name this node with --node", cluster.node, known)

    def _standing(self) -> Standing:
        """Tell how far what is known can be relied on."""
        status = self._reconciler.status
        refused = status.last_error
        if not (refused or self._ready):
            refused = "they aren't committed yet"
        resources = self._source.status().get("apiserver", {}).get("resources", {})
        return standing_of(resources, self._clock.now_ns(), refused, whole=self._gathered.is_set())

    def _status(self) -> View:
        return {
            "reconcile": {
                **msgspec.to_builtins(self._reconciler.status),
                "in_sync": self._reconciler.status.in_sync and not self._intake.busy,
            },
            "drift": {"listening": self._drift.listening, "others": self._drift.others},
            "bridges": self._bridges.status(),
            "revoke": msgspec.to_builtins(self._revoker.status),
            **self._source.status(),
            **({"notices": self._voice.status()} if self._voice is not None else {}),
            "verdict_log": {
                "path": str(self._settings.verdict_log),
                "problem": self._nflog_problem,
                "errors": self._verdict_log.errors,
                "lost_lines": self._verdict_log.lost_lines,
                "last_error": self._verdict_log.last_error,
                **msgspec.to_builtins(self._nflog.counters),
                "unattributed": msgspec.to_builtins(self._attributor.counters),
            },
        }
