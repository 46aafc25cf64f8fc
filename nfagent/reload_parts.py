"""Reloads: after each SIGHUP, settings, objects and kernel are read again."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from nfagent.config import Settings
from nfagent.controllers.reconciler import Reconciler
from nfagent.desired.node_guard import UnknownNodeGuard
from nfagent.drift_parts import DriftParts
from nfagent.egress_nat_parts import EgressNatParts
from nfagent.kernel.bridges import BridgeWatch
from nfagent.object_source import ObjectSource
from nfagent.own_log_parts import OwnLogParts
from nfagent.settings_parts import SettingsParts
from nfagent.system.readiness import ReadinessNotifier
from nfagent.verdict_log_parts import VerdictLogParts


class ReloadParts:
    """The parts that read again, in order."""

    def __init__(
        self,
        settings: SettingsParts,
        own_log: OwnLogParts,
        source: ObjectSource,
        readiness: ReadinessNotifier,
        reconciler: Reconciler,
        *,
        verdict_log: VerdictLogParts,
        egress_nat: EgressNatParts,
        bridges: BridgeWatch,
    ) -> None:
        """Store the parts."""
        self._settings = settings
        self._own_log = own_log
        self._source = source
        self._readiness = readiness
        self._reconciler = reconciler
        self._verdict_log = verdict_log
        self._egress_nat = egress_nat
        self._bridges = bridges

    async def run(self, requested: asyncio.Event) -> None:
        """Read everything again each time that it is requested (SIGHUP, which systemd's ExecReload sends)."""
        async with asyncio.TaskGroup() as rereading:
            while True:
                await requested.wait()
                requested.clear()
                await self._settings.reload()
                read = asyncio.Event()
                rereading.create_task(self._reread(read))
                self._verdict_log.reopen()
                self._bridges.refresh()
                await self._readiness.await_reload(read, self._reconciler.invalidate)

    async def _reread(self, read: asyncio.Event) -> None:
        self._own_log.begin_reload()
        await self._egress_nat.file.read()
        await self._source.reload()
        self._own_log.reloaded()
        self._readiness.reread_done()
        self._reconciler.invalidate()
        read.set()


def live_settings(
    guard: UnknownNodeGuard, reconciler: Reconciler, drift: DriftParts, verdict_log: VerdictLogParts
) -> dict[str, Callable[[Settings], None]]:
    """Return what applies changed settings, by section or key: for `SettingsParts.apply_with`."""

    def apply_times(settings: Settings) -> None:
        reconciler.retry_max = settings.reconcile.retry_max_seconds
        drift.set_resync(settings.reconcile.resync_seconds)

    return {
        "allow_unknown_node": lambda settings: guard.allow(allowed=settings.allow_unknown_node),
        "logging": verdict_log.apply_settings,
        "reconcile": apply_times,
    }
