"""The parts of the verdict log: from the NFLOG group to the file of records."""

from __future__ import annotations

import asyncio

import msgspec

from nfagent.clock import WallClock
from nfagent.config import Settings
from nfagent.desired.state import DesiredState
from nfagent.introspection.agent_status import VerdictLogStatus
from nfagent.kernel.nflog import NflogSource
from nfagent.kernel.nflog_reader import NflogReader
from nfagent.verdicts.attribution import Attributor
from nfagent.verdicts.delegation import Delegation
from nfagent.verdicts.history import ObjectHistory
from nfagent.verdicts.log_file import RotatingFile
from nfagent.verdicts.log_writer import LogWriter
from nfagent.verdicts.record_latency import RecordLatency
from nfagent.verdicts.record_stream import RecordStream


class VerdictLogParts:
    """The parts, made and run together."""

    def __init__(self, settings: Settings, desired: DesiredState, history: ObjectHistory, clock: WallClock) -> None:
        """Make the parts; nothing is opened yet."""
        section = settings.logging
        self._path = settings.verdict_log
        self._nflog = NflogSource(section.group, receive_buffer=section.receive_buffer)
        self._file = LogWriter(RotatingFile(self._path, section.file_max_bytes, section.file_backups))
        self._records = RecordStream(
            Attributor(desired, history), settings.record_limits(), clock, self._file.write, Delegation(desired)
        )
        self._reader = NflogReader(self._nflog, clock, self._records.add)

    def start(self) -> None:
        """Start to write the file, before packets are read."""
        self._file.start()

    async def run(self) -> None:
        """Read packets and write records until cancelled."""
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(self._reader.run())
            tasks.create_task(self._records.run())

    def reopen(self) -> None:
        """Reopen the file, after another program may have moved it."""
        self._file.reopen()

    def close(self) -> None:
        """Close the group, and write what waits."""
        self._nflog.close()
        self._records.finish()
        self._file.close()

    @property
    def problem(self) -> str:
        """Why verdicts are not logged, or not all of them; '' without a problem."""
        return self._reader.problem or self._file.problem

    @property
    def is_reading(self) -> bool:
        """Whether the NFLOG group is read."""
        return not self._reader.problem

    @property
    def latency(self) -> RecordLatency:
        """How old packets are when their record is passed to the sinks."""
        return self._records.latency

    def report_problem(self) -> None:
        """Log what is wrong with the file, at most once a minute."""
        self._file.report_problem()

    def status(self) -> VerdictLogStatus:
        """Return the state of the verdict log, for `dump state`."""
        counts = msgspec.structs.asdict(self._nflog.counters) | msgspec.structs.asdict(self._records.status())
        return VerdictLogStatus(path=str(self._path), **(self._file.status() | counts | {"problem": self.problem}))
