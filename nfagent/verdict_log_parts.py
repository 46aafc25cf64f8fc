"""The parts of the verdict log: from the NFLOG group to the sinks of records."""

from __future__ import annotations

import asyncio

import msgspec
from aiohttp import web

from nfagent.clock import WallClock
from nfagent.config import Settings
from nfagent.desired.state import DesiredState
from nfagent.introspection.agent_status import VerdictLogStatus
from nfagent.introspection.record_peers import StatePeers
from nfagent.introspection.record_route import record_routes
from nfagent.kernel.log_group_watch import LogGroupWatch
from nfagent.kernel.nflog import NflogSource
from nfagent.kernel.nflog_reader import NflogReader
from nfagent.time_slices import TimeSlices
from nfagent.verdicts.attribution import Attributor
from nfagent.verdicts.delegation import Delegation
from nfagent.verdicts.denied_window import DeniedWindow
from nfagent.verdicts.history import ObjectHistory
from nfagent.verdicts.log_file import RotatingFile
from nfagent.verdicts.log_journald import JournalSink
from nfagent.verdicts.log_sink import LineSink
from nfagent.verdicts.log_sinks import LogSinks, lost_by_reason
from nfagent.verdicts.log_stdout import StdoutSink
from nfagent.verdicts.log_stream import LogStream
from nfagent.verdicts.log_writer import LogWriter
from nfagent.verdicts.packet_origin import NFTABLES, LogPlaces
from nfagent.verdicts.record_latency import RecordLatency
from nfagent.verdicts.record_stream import RecordStream


class VerdictLogParts:
    """The parts, made and run together."""

    def __init__(
        self,
        settings: Settings,
        desired: DesiredState,
        history: ObjectHistory,
        clock: WallClock,
        places: LogPlaces = NFTABLES,
        *,
        time_slices: TimeSlices | None = None,
    ) -> None:
        """Make the parts; nothing is opened yet.

        places:      where the rules of the backend log
        time_slices: share the event loop with other long answers
        """
        section = settings.logging
        self._path = str(settings.verdict_log) if "file" in section.sinks else ""
        self._nflog = NflogSource(section.group, receive_buffer=section.receive_buffer)
        stream = LogStream()
        self._file = RotatingFile(settings.verdict_log, section.file_max_bytes, section.file_backups)
        self._sinks = LogSinks({name: LogWriter(self._sink(name)) for name in section.sinks}, stream)
        self.routes: tuple[web.RouteDef, ...] = record_routes(stream, StatePeers(desired), time_slices)
        self._records = RecordStream(
            Attributor(desired, history, places),
            section,
            clock,
            self._sinks.write,
            Delegation(desired, history),
        )
        self._group_watch = LogGroupWatch(section.group, lambda: self._records.status().unattributed.foreign, clock)
        self._reader = NflogReader(self._nflog, clock, self._records.add)

    def start(self) -> None:
        """Start the sinks, before packets are read."""
        self._sinks.start()

    async def run(self) -> None:
        """Read packets and write records until cancelled."""
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(self._reader.run())
            tasks.create_task(self._records.run())
            tasks.create_task(self._group_watch.run())

    def reopen(self) -> None:
        """Reopen the sinks, after another program may have moved the file."""
        self._sinks.reopen()

    def close(self) -> None:
        """Close the group, and write what waits."""
        self._nflog.close()
        self._records.finish()
        self._sinks.close()

    def apply_settings(self, settings: Settings) -> None:
        """Apply those settings of the section that can change while the agent runs."""
        section = settings.logging
        self._records.limit(section.records_per_second, section.burst)
        self._file.limit(section.file_max_bytes, section.file_backups)

    def _sink(self, name: str) -> LineSink:
        """Return the sink of a name that the settings allow."""
        if name == "journald":
            return JournalSink()
        return StdoutSink() if name == "stdout" else self._file

    @property
    def problem(self) -> str:
        """Why verdicts are not logged, or not all of them; '' without a problem."""
        return self._reader.problem or self._sinks.problem

    @property
    def is_reading(self) -> bool:
        """Whether the NFLOG group is read."""
        return not self._reader.problem

    @property
    def latency(self) -> RecordLatency:
        """How old packets are when their record is passed to the sinks."""
        return self._records.latency

    @property
    def denied(self) -> DeniedWindow:
        """What was denied lately, as far as it is logged."""
        return self._records.denied

    @property
    def group_problem(self) -> str:
        """Which other programs log to the same group; '' without any."""
        return self._group_watch.problem

    def report_problem(self) -> None:
        """Log what is wrong with the sinks, and packets that were lost, at most once a minute."""
        self._sinks.report_problem()
        self._reader.report_loss()

    def status(self) -> VerdictLogStatus:
        """Return the state of the verdict log, for `dump state`."""
        counts = msgspec.structs.asdict(self._nflog.counters) | msgspec.structs.asdict(self._records.status())
        sinks = self._sinks.status()
        lost_by = lost_by_reason(sinks)
        return VerdictLogStatus(
            path=self._path,
            problem=self.problem,
            group_problem=self.group_problem,
            errors=sum(sink.errors for sink in sinks.values()),
            lost_lines=sum(lost_by.values()),
            lost_by=lost_by,
            queued_lines=sum(sink.queued_lines for sink in sinks.values()),
            last_error=next((sink.last_error for sink in sinks.values() if sink.last_error), ""),
            sinks=sinks,
            **counts,
        )
