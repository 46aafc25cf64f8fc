"""A folder of manifests, followed: looked at when something may have changed, and again where it can't be read.

Everything that touches the disk happens in threads that nobody waits for at the end: a disk that never answers holds
up neither the event loop nor a stop.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import aclosing, suppress
from functools import partial
from pathlib import Path
from typing import TypeVar

import msgspec

from nfagent.errors import UsageError, ValidationIssue
from nfagent.manifests.folder_listing import Identity, identity_of, is_manifest
from nfagent.manifests.folder_scan import read_files, unreadable_folder
from nfagent.manifests.index import FolderScan, ManifestEvent, ManifestIndex
from nfagent.manifests.inotify import FolderWatch, changed_paths
from nfagent.system.bounded_calls import BoundedCalls
from nfagent.system.daemon_thread import DaemonThread

_SETTLE_SECONDS = 0.1
"""How long a writer in place gets to finish a file that is empty or doesn't parse."""

_FOLDER_SECONDS = 0.5
"""How often a folder that is gone is looked for."""

_RETRY_SECONDS = 0.5
"""How soon what couldn't be looked at is tried again; twice as long each time, until it is as for everything."""

_T = TypeVar("_T")


class FolderReader:
    """The thread that looks at a folder, and the calls that it makes."""

    def __init__(self, calls: BoundedCalls | None = None) -> None:
        """Start nothing yet."""
        self.calls = calls or BoundedCalls()
        self._thread = DaemonThread("manifests")

    async def run(self, call: Callable[[], _T]) -> _T:
        """Have something called in the thread, and return what it gives."""
        return await self._thread.run(call)

    async def look(self, folder: Path, known: ManifestIndex, paths: frozenset[Path] | None = None) -> FolderScan:
        """Look at files, all of the folder for None; at those that look half-written once more, after a moment.

        Raises UsageError, OSError where the folder can't be read and nothing is known that holds in its place.
        """
        look = await self.run(partial(read_files, folder, known, paths, self.calls))
        if any(reading.halfway for reading in look.readings):
            await asyncio.sleep(_SETTLE_SECONDS)
            look = await self.run(partial(read_files, folder, known, paths, self.calls))
        return look

    async def identity(self, folder: Path) -> Identity:
        """Tell which folder it is: a watch stays with the one that it was made for. Raises OSError."""
        return await self.run(lambda: self.calls.ask(lambda: identity_of(folder), ("identity", folder)))


class _Pause(msgspec.Struct):
    """How long nothing is looked at while there is no news."""

    longest: float
    seconds: float = 0.0

    def __call__(self) -> float:
        return self.seconds or self.longest

    def note(self, known: ManifestIndex, paths: frozenset[Path] | None) -> None:
        """Take in that a look was adopted."""
        if not known.uncertain:
            self.seconds = 0.0
        elif paths is None and self.seconds:
            self.seconds = min(2 * self.seconds, self.longest)
        else:
            self.seconds = min(_RETRY_SECONDS, self.longest)


async def follow(
    folder: Path,
    known: ManifestIndex,
    stop: asyncio.Event,
    look_seconds: float = 30.0,
    disk: FolderReader | None = None,
) -> AsyncIterator[Iterator[ManifestEvent]]:
    """Give what changes on the disk, batch by batch, until `stop`; a batch may be empty (problems changed).

    Whoever takes a batch takes all of it before the next. Where the whole folder is gone, what was read last holds
    until it is there again. Everything is looked at when this starts, when a link on the way to the folder points
    elsewhere, and every so many seconds without a change: inotify may lose some.
    """
    disk = disk or FolderReader()
    pause = _Pause(look_seconds)

    def unwatched(reason: str) -> None:
        known.say("watching", ValidationIssue(place=str(folder), reason=reason) if reason else None)

    watching = FolderWatch(folder, lambda path: is_manifest(folder, path), pause, disk.run, disk.calls, unwatched)
    while not stop.is_set():
        try:
            watched = await disk.identity(folder)
        except OSError as error:
            await _within(_FOLDER_SECONDS, stop)
            if known.say("folder", unreadable_folder(folder, error)):
                yield iter(())
            continue
        known.say("folder", None)
        async with aclosing(changed_paths(watching, stop)) as changes:
            async for paths in changes:
                if not await _is_still(disk, folder, watched):
                    break
                async with known.reading:
                    look = await _look(disk, folder, known, paths)
                    yield known.adopt_look(look)
                    pause.note(known, paths)


async def _is_still(disk: FolderReader, folder: Path, watched: Identity) -> bool:
    try:
        return await disk.identity(folder) == watched
    except OSError:
        return False


async def _look(disk: FolderReader, folder: Path, known: ManifestIndex, paths: frozenset[Path] | None) -> FolderScan:
    """Look at files. A folder that is gone tells nothing."""
    try:
        return await disk.look(folder, known, paths)
    except (OSError, UsageError):
        return FolderScan(uncertain=True)


async def _within(seconds: float, event: asyncio.Event) -> None:
    with suppress(TimeoutError):
        async with asyncio.timeout(seconds):
            await event.wait()
