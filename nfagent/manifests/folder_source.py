"""A folder of manifests as the agent's object source: read at the start, watched, and read again on reload."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Iterable, Iterator
from itertools import chain
from pathlib import Path
from typing import Any

from nfagent.checkpoint.store import CheckpointStore
from nfagent.errors import UsageError, ValidationIssue
from nfagent.manifests.follower import FolderReader, follow
from nfagent.manifests.index import FolderScan, ManifestIndex
from nfagent.manifests.parser_process import end_children
from nfagent.model.gvk import ObjectChange
from nfagent.model.objects import ObjectRef, Pod
from nfagent.object_source import EventSink
from nfagent.time_slices import TimeSlices

log = logging.getLogger(__name__)
_FIRST_RETRY_SECONDS, _LAST_RETRY_SECONDS = 0.5, 30.0


class FolderSource:
    """Reads and follows one folder."""

    def __init__(
        self, folder: Path, sink: EventSink, last_good: CheckpointStore, time_slices: TimeSlices | None = None
    ) -> None:
        """Start without objects; `start` reads the folder, and `last_good` keeps its objects for the next process.

        time_slices: in which what was read is applied to the index
        """
        self._path = folder
        self._folder = ManifestIndex()
        self._sink = sink
        self._passed_on: dict[str, str] = {}
        self._last_good = last_good
        self._disk = FolderReader()
        self._ignored: frozenset[str] = frozenset()
        self._received: float | None = None
        self._unread = ""
        self._time_slices = time_slices or TimeSlices()

    @property
    def problems(self) -> tuple[ValidationIssue, ...]:
        """All issues of the files."""
        return self._folder.problems

    @property
    def trouble(self) -> str:
        """Return why the folder can't be read for the first time; later this is one of `problems`."""
        return self._unread

    def news(self) -> tuple[list[ValidationIssue], list[ValidationIssue]]:
        """Return the issues that appeared and those resolved since the last call; the cost grows with both."""
        return self._folder.issues.drain_changes()

    async def start(self) -> None:
        """Read everything, with the checkpoint of the previous process for what can't be read. Raises UsageError.

        Waits for a folder that can't be listed and has no checkpoint: the rules of the previous process stay in force.
        """
        await self._last_good.open(f"manifests {self._path.absolute()}")
        self._folder = ManifestIndex(self._last_good.of_files())
        await self._take(self._folder.apply_steps(await self._first_scan()))
        self._folder.forget_last_good()
        self._last_good.mark_synced()
        self._sink.on_synced()

    async def run(self) -> None:
        """Follow until cancelled."""
        async for events in follow(
            self._path, self._folder, asyncio.Event(), disk=self._disk, on_event=self._note_event
        ):
            await self._take(events, self._received)

    async def reload(self) -> None:
        """Read everything again; what can't be read keeps its last good content."""
        try:
            async with self._folder.scan_lock:
                await self._take(self._folder.apply_steps(await self._disk.scan(self._path, self._folder)))
        except (UsageError, OSError) as error:
            log.error("reload failed: %s; the last good objects stay in force", error)

    async def read_services(self) -> str:
        """Return '': Services are read with everything else."""
        return ""

    async def close(self) -> None:
        """End the child processes that parse large files: a thread waits for them."""
        end_children()

    def status(self) -> dict[str, Any]:
        """Return the digest of each file that was read, and whose objects were passed on."""
        return {"files": dict(sorted(self._passed_on.items()))}

    async def _first_scan(self) -> FolderScan:
        pause = _FIRST_RETRY_SECONDS
        while True:
            try:
                found = await self._disk.scan(self._path, self._folder)
            except OSError as error:
                before, self._unread = self._unread, f"{self._path} can't be read: {error.strerror or error}"
                if self._unread != before:
                    log.warning("%s; retrying", self._unread)
            else:
                self._unread = ""
                return found
            await asyncio.sleep(pause)
            pause = min(2 * pause, _LAST_RETRY_SECONDS)

    def _note_event(self) -> None:
        self._received = time.monotonic()

    async def _take(self, steps: Iterable[ObjectChange | None], received: float | None = None) -> None:
        # All objects but Pods take effect together; Pods, of which there may be many, don't delay them.
        pods: list[ObjectChange] = []
        others: list[ObjectChange] = []
        async for made in self._time_slices.slices(self._recorded(steps)):
            for event in made:
                if event is not None:
                    (pods if _is_pod(event) else others).append(event)
        # As they are now: others may be read while these are applied.
        digests = dict(self._folder.digests)
        self._passed_on = {name: digest for name, digest in self._passed_on.items() if name in digests}
        await self._sink.apply(chain(others, pods), received)
        self._passed_on = digests
        for kind in sorted(self._folder.ignored - self._ignored):
            issue = self._folder.foreign_issue(kind)
            if issue is None:
                log.debug("%s is not read", kind)
            else:
                log.warning("%s", issue)
        self._ignored |= self._folder.ignored

    def _recorded(self, steps: Iterable[ObjectChange | None]) -> Iterator[ObjectChange | None]:
        """Record each change for the next process, and yield it; None is a step without one."""
        for event in steps:
            if event is None:
                yield None
            else:
                yield from self._last_good.record((event,), self._folder.holder)


def _is_pod(event: ObjectChange) -> bool:
    return event.kind == "Pod" if isinstance(event, ObjectRef) else isinstance(event, Pod)
