"""The ip-masq-agent configuration as a file: read at the start, then looked at again at an interval.

The file is what a mounted ConfigMap has under the key `config`. It is read as a whole every time, since kubelet
replaces a link in the path to it, and a comparison of its times could miss that. A missing file is normal. One that
can't be read, or only in part, keeps what was read before, also by the agent's previous run: what is in force, with
the values that unread keys keep, is in the folder of last good objects.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from pathlib import Path

import msgspec

from nfagent.checkpoint.codec import CheckpointedObject, decode_record, encode_record, with_in_force_note
from nfagent.checkpoint.kept_text import IP_MASQ_FILE, KeptText
from nfagent.clock import Clock
from nfagent.errors import DecodeError, ValidationIssue
from nfagent.manifests.ip_masq_reader import decode_ip_masq_file, unreadable
from nfagent.model.ip_masq import IpMasqConfig
from nfagent.system.bounded_calls import BoundedCalls
from nfagent.system.regular_file import read_regular

log = logging.getLogger(__name__)

_BEFORE = "what was read before"


class IpMasqFile:
    """Follows the file.

    problems: what is wrong with it
    """

    def __init__(
        self, path: str, folder: Path, clock: Clock, seconds: float, apply: Callable[[IpMasqConfig | None], None]
    ) -> None:
        """Start without reading.

        path:    '' for no file
        folder:  of last good objects
        seconds: the interval
        apply:   called with the new configuration, None for no file; keys that can't be read have the value of before
        """
        self._path = path
        self._file = Path(path)
        self._clock = clock
        self._seconds = seconds
        self._apply = apply
        self._calls = BoundedCalls()
        self._content: bytes | None = None
        self._held: IpMasqConfig | None = None
        self._kept = KeptText(folder / IP_MASQ_FILE)
        self._first = True
        self._unkept = self._unrecalled = ""
        self.problems: tuple[ValidationIssue, ...] = ()

    async def run(self) -> None:
        """Read the file at every interval, until cancelled."""
        while self._path:
            await self._clock.wait(asyncio.Event(), self._seconds)
            await self.read()

    async def read(self) -> None:
        """Read the file; apply its configuration if it differs from what was read before. Never raises."""
        if not self._path:
            return
        if self._first:
            await self._recall()
        try:
            content = await asyncio.to_thread(self._calls.ask, lambda: read_regular(self._file), self._path)
        except FileNotFoundError:
            self._content = None
            self._report(())
            await self._put(None)
            return
        except OSError as error:
            # Its content is unknown, and read as new once it can be read.
            self._content = None
            self._report((with_in_force_note(unreadable(self._path, error), _BEFORE),))
            return
        if content != self._content:
            self._content = content
            found, problems = decode_ip_masq_file(self._path, content)
            if found is None:
                self._report(tuple(with_in_force_note(problem, _BEFORE) for problem in problems))
            else:
                self._report(problems)
                await self._take(found.with_last_good(self._held), partial=bool(problems))
        elif self._unkept:
            await self._keep(self._held)

    async def _recall(self) -> None:
        """Apply what was in force in the previous run; what the file has now comes after it.

        Where that can't be read, it is tried again with the next reading, until the file itself has been read.
        """
        try:
            kept = await asyncio.to_thread(self._calls.ask, self._kept.read, IP_MASQ_FILE)
            record = None if kept is None else decode_record(kept)[1]
        except (OSError, DecodeError) as error:
            before, self._unrecalled = self._unrecalled, f"what {self._path} had last can't be read: {error}"
            if self._unrecalled != before:
                log.warning("%s", self._unrecalled)
            return
        self._first, self._unrecalled = False, ""
        if record is not None and isinstance(record.item, IpMasqConfig):
            self._held = record.item
            self._apply(record.item)

    async def _take(self, config: IpMasqConfig, *, partial: bool) -> None:
        """Apply what was read; keep it, unless keys that can't be read have a value of before that isn't known yet."""
        if partial and self._first:
            self._content = None  # it is read anew with what is recalled
            self._apply(config)
        else:
            await self._put(config)

    async def _put(self, config: IpMasqConfig | None) -> None:
        """Apply a configuration with the values that unread keys keep, and keep it for the next start."""
        self._held = config
        self._first, self._unrecalled = False, ""
        self._apply(config)
        await self._keep(config)

    async def _keep(self, config: IpMasqConfig | None) -> None:
        """Keep a configuration for the next start; a failure is logged once, and tried again with the next reading."""
        line = None
        if config is not None:
            item = msgspec.structs.replace(config, problems=())
            line = encode_record(item.ref, CheckpointedObject(item, self._path))
        try:
            await asyncio.to_thread(self._calls.ask, lambda: self._kept.write(line), IP_MASQ_FILE)
        except OSError as error:
            before, self._unkept = self._unkept, error.strerror or str(error)
            if self._unkept != before:
                log.warning("what the ip-masq-agent file has can't be kept for the next start: %s", error)
        else:
            self._unkept = ""

    def _report(self, problems: tuple[ValidationIssue, ...]) -> None:
        before, self.problems = self.problems, problems
        for problem in problems:
            if problem not in before:
                log.warning("%s", problem)
        for problem in before:
            if problem not in problems:
                log.info("resolved: %s", problem)

    @property
    def problem(self) -> str:
        """What is wrong with the file, or why its content can't be kept or recalled; '' where nothing is."""
        unkept = f"what {self._path} has can't be kept for the next start: {self._unkept}" if self._unkept else ""
        return "; ".join(filter(None, (self.fault, self._unrecalled, unkept)))

    @property
    def fault(self) -> str:
        """What is wrong with the file, for people; '' where nothing is."""
        return "; ".join(str(msgspec.structs.replace(problem, place="")) for problem in self.problems)
