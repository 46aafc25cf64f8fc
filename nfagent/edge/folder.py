"""A folder of manifests as the agent's source of objects: read, followed, read again when asked."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Iterable
from pathlib import Path
from typing import Any, Protocol

from nfagent.edge.manifests import Event, Folder, follow, read_folder
from nfagent.errors import Problem, UsageError

log = logging.getLogger(__name__)


class Taker(Protocol):
    """Who takes what changes."""

    async def take(self, changes: Iterable[Event]) -> None:
        """Take in changes, in their order; following goes on when it returns."""
        ...

    def gathered(self) -> None:
        """Take in, once, that everything was read."""
        ...


class FolderSource:
    """Follows one folder."""

    def __init__(self, folder: Path, taker: Taker) -> None:
        """Join the folder and who takes what changes; nothing is read before `start`."""
        self._path = folder
        self._folder = Folder()
        self._taker = taker
        self._ignored: frozenset[str] = frozenset()

    @property
    def problems(self) -> tuple[Problem, ...]:
        """Everything that is wrong with the files now."""
        return self._folder.problems

    async def start(self) -> None:
        """Read everything. Raises UsageError."""
        await self._take(await asyncio.to_thread(read_folder, self._path, self._folder))
        self._taker.gathered()

    async def run(self) -> None:
        """Follow until cancelled. Raises MachineError."""
        async for events in follow(self._path, self._folder, asyncio.Event()):
            await self._take(events)

    async def reload(self) -> None:
        """Read everything again; what was read before holds where that can't be."""
        try:
            await self._take(read_folder(self._path, self._folder))
        except UsageError as error:
            log.error("reload: %s; what was read before holds", error)

    async def read_services(self) -> str:
        """Give no trouble: Services are read with everything else."""
        return ""

    async def close(self) -> None:
        """Nothing is open."""

    def status(self) -> dict[str, Any]:
        """Tell which files were read, by the digest of each."""
        return {"files": dict(sorted(self._folder.digests.items()))}

    async def _take(self, events: list[Event]) -> None:
        await self._taker.take(events)
        for kind in sorted(self._folder.ignored - self._ignored):
            log.debug("%s is not read", kind)
        self._ignored |= self._folder.ignored
