"""Watches for changes of the tables by other programs, and for what is looked at once a minute."""

from __future__ import annotations

import asyncio

import msgspec

from nfagent.clock import Clock
from nfagent.controllers.reconciler import Reconciler
from nfagent.introspection.agent_status import DriftStatus
from nfagent.kernel.bridge_table import BridgeTableReconciler
from nfagent.kernel.conntrack_usage import ConntrackUsageWatch
from nfagent.kernel.look_budget import LOOK_SECONDS
from nfagent.kernel.nft_monitor import NftMonitor
from nfagent.kernel.xt_watch import XtWatch
from nfagent.netlink.nft_events import CommitOrigin
from nfagent.netlink.nft_messages import NFPROTO_BRIDGE, NFPROTO_INET
from nfagent.system.process_unit import process_unit

_LOOK_SECONDS = 60.0
_RESUBSCRIBE_SECONDS = 1.0
_RETRY_SECONDS = 5.0
"""Between two tries to subscribe, where there is no subscription."""
_POLL_SECONDS = 60.0


class DriftParts:
    """Requests comparisons of table inet nfagent, and of that of the bridges, after another program's commit."""

    def __init__(
        self,
        monitor: NftMonitor | XtWatch,
        reconciler: Reconciler,
        bridge_table: BridgeTableReconciler,
        clock: Clock,
        resync_seconds: float,
    ) -> None:
        """Store the parts.

        monitor: reports changes; of rules in iptables, which nothing reports, what looks for them

        resync_seconds: seconds between two comparisons while notifications are received
        """
        self._monitor = monitor
        self._reconciler = reconciler
        self._bridge_table = bridge_table
        self._clock = clock
        self._resync_seconds = resync_seconds
        self._conntrack_usage = ConntrackUsageWatch()

    def subscribe(self) -> None:
        """Subscribe to nf_tables notifications; compare every minute where that is refused or would be too costly."""
        if isinstance(self._monitor, XtWatch):
            return
        listening = self._monitor.listen(self.changed)
        self._reconciler.compare_every(self._resync_seconds if listening else min(self._resync_seconds, _POLL_SECONDS))

    async def run(self) -> None:
        """Subscribe again where that failed, and look each minute at what no notification tells, until cancelled."""
        monitor = self._monitor
        if isinstance(monitor, XtWatch):
            await self._run_watch(monitor)
            return
        looked = self._clock.monotonic()
        while True:
            unopened = bool(monitor.problem) and not monitor.listening
            if await self._clock.wait(monitor.failed, _RETRY_SECONDS if unopened else _LOOK_SECONDS):
                await self._clock.wait(asyncio.Event(), _RESUBSCRIBE_SECONDS)
                monitor.failed.clear()
            self.subscribe()
            if self._clock.monotonic() - looked >= _LOOK_SECONDS:
                looked = self._clock.monotonic()
                self._reconciler.log_contest()
                self._conntrack_usage.look()

    async def _run_watch(self, watch: XtWatch) -> None:
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(watch.run())
            while True:
                await self._clock.wait(asyncio.Event(), _LOOK_SECONDS)
                self._reconciler.log_contest()
                self._conntrack_usage.look()
                self._bridge_table.mark_changed()
                self._bridge_table.compare_if_changed()

    def set_resync(self, seconds: float) -> None:
        """Set the seconds between two comparisons while notifications are received."""
        self._resync_seconds = seconds
        if isinstance(self._monitor, XtWatch):
            self._reconciler.compare_every(seconds)
        else:
            self.subscribe()

    def status(self, notifications: NftMonitor) -> DriftStatus:
        """Return the state of changes by other programs. notifications: those of nf_tables, whatever is watched."""
        contest = self._reconciler.contest
        return DriftStatus(
            listening=notifications.listening,
            others=notifications.others,
            problem=self._monitor.problem,
            looks=LOOK_SECONDS if isinstance(self._monitor, XtWatch) else 0.0,
            contest=contest or msgspec.UNSET,
            next_repair_in=self._reconciler.next_repair_in if contest else msgspec.UNSET,
        )

    def changed(self, committer: CommitOrigin) -> None:
        """Request the comparison of each table that another program's commit concerns."""
        # Once for each comparison, not for each commit of a thousand a second.
        tables = [
            table
            for table, family in ((self._reconciler, NFPROTO_INET), (self._bridge_table, NFPROTO_BRIDGE))
            if committer.concerns(family)
        ]
        marked = all(table.is_marked for table in tables)
        unit = "" if marked else process_unit(committer.process, committer.name)
        for table in tables:
            table.mark_changed(str(committer), unit)
        if tables == [self._bridge_table]:
            self._bridge_table.compare_if_changed()  # otherwise after the reconciler's round
