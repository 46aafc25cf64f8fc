"""A folder of manifests as the agent's source of objects: read, followed, read again when asked."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Iterable
from itertools import chain
from pathlib import Path
from typing import Any, Protocol

from nfagent.checkpoint.store import CheckpointStore
from nfagent.errors import UsageError, ValidationIssue
from nfagent.manifests.follower import FolderReader, follow
from nfagent.manifests.index import FolderScan, ManifestEvent, ManifestIndex
from nfagent.manifests.parser_process import end_children
from nfagent.model.objects import ObjectRef, Pod

log = logging.getLogger(__name__)
_FIRST_RETRY_SECONDS, _LAST_RETRY_SECONDS = 0.5, 30.0
_SLICE = 1000
"""How many objects are adopted before others have a turn: some milliseconds."""


class EventSink(Protocol):
    """Who takes what changes."""

    async def take(self, changes: Iterable[ManifestEvent]) -> None:
        """Take in changes, in their order; following goes on when it returns."""
        ...

    def gathered(self) -> None:
        """Take in, once, that everything was read."""
        ...


class FolderSource:
    """Follows one folder."""

    def __init__(self, folder: Path, taker: EventSink, last_good: CheckpointStore) -> None:
        """Join the folder, who takes what changes, and what is kept for the next start; `start` reads."""
        self._path = folder
        self._folder = ManifestIndex()
        self._taker = taker
        self._last_good = last_good
        self._disk = FolderReader()
        self._ignored: frozenset[str] = frozenset()

    @property
    def problems(self) -> tuple[ValidationIssue, ...]:
        """Everything that is wrong with the files now."""
        return self._folder.problems

    def news(self) -> tuple[list[ValidationIssue], list[ValidationIssue]]:
        """Give the problems that came and those that went since the last time; it costs what changed."""
        return self._folder.flaws.news()

    async def start(self) -> None:
        """Read everything; where that can't be read, what an agent of before read holds. Raises UsageError.

        A folder that can't be listed, and of which nothing is known, is waited for: the rules of before hold.
        """
        await self._last_good.open(f"manifests {self._path.absolute()}")
        self._folder = ManifestIndex(self._last_good.of_files())
        await self._take(self._folder.adopt_look(await self._first_look()))
        self._folder.forget_last_good()
        self._last_good.settle()
        self._taker.gathered()

    async def run(self) -> None:
        """Follow until cancelled."""
        async for events in follow(self._path, self._folder, asyncio.Event(), disk=self._disk):
            await self._take(events)

    async def reload(self) -> None:
        """Read everything again; what was read before holds where that can't be."""
        try:
            async with self._folder.reading:
                await self._take(self._folder.adopt_look(await self._disk.look(self._path, self._folder)))
        except (UsageError, OSError) as error:
            log.error("reload: %s; what was read before holds", error)

    async def read_services(self) -> str:
        """Give no trouble: Services are read with everything else."""
        return ""

    async def close(self) -> None:
        """End what reads large files: a thread waits for it."""
        end_children()

    def status(self) -> dict[str, Any]:
        """Tell which files were read, by the digest of each."""
        return {"files": dict(sorted(self._folder.digests.items()))}

    async def _first_look(self) -> FolderScan:
        pause = _FIRST_RETRY_SECONDS
        while True:
            try:
                return await self._disk.look(self._path, self._folder)
            except OSError as error:
                if pause == _FIRST_RETRY_SECONDS:
                    log.warning("%s can't be read, it is tried again: %s", self._path, error.strerror or error)
            await asyncio.sleep(pause)
            pause = min(2 * pause, _LAST_RETRY_SECONDS)

    async def _take(self, events: Iterable[ManifestEvent]) -> None:
        # Whatever else came together takes effect together; Pods, of which there may be many, don't hold it up.
        pods: list[ManifestEvent] = []
        others: list[ManifestEvent] = []
        for count, event in enumerate(self._last_good.noted(events, self._folder.holder), 1):
            (pods if _is_pod(event) else others).append(event)
            if count % _SLICE == 0:
                await asyncio.sleep(0)
        await self._taker.take(chain(others, pods))
        for kind in sorted(self._folder.ignored - self._ignored):
            log.debug("%s is not read", kind)
        self._ignored |= self._folder.ignored


def _is_pod(event: ManifestEvent) -> bool:
    return event.kind == "Pod" if isinstance(event, ObjectRef) else isinstance(event, Pod)
