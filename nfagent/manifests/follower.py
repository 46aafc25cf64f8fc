"""Follows a folder of manifests: scans it when files may have changed, and retries what can't be read.

All disk access happens in threads that the agent's stop doesn't wait for: a disk that doesn't respond delays neither
the event loop nor the stop.
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
from nfagent.manifests.folder_listing import FolderIdentity, identity_of, is_manifest
from nfagent.manifests.folder_scan import read_files, unreadable_folder
from nfagent.manifests.index import FolderScan, ManifestIndex
from nfagent.manifests.inotify import FolderWatch, changed_paths
from nfagent.model.gvk import ObjectChange
from nfagent.system.bounded_calls import BoundedCalls
from nfagent.system.daemon_thread import DaemonThread

_PARTIAL_WRITE_SECONDS = 0.1
"""Time for a writer to complete a file that is empty or doesn't parse."""

_MISSING_FOLDER_SECONDS = 0.5
"""Between two checks for a folder that is gone."""

_RETRY_SECONDS = 0.5
"""First retry of what couldn't be read; the interval doubles up to that of the regular scan."""

_T = TypeVar("_T")


class FolderReader:
    """The thread that scans a folder, and its bounded calls."""

    def __init__(self, calls: BoundedCalls | None = None) -> None:
        """Create no thread yet."""
        self.calls = calls or BoundedCalls()
        self._thread = DaemonThread("manifests")

    async def run(self, call: Callable[[], _T]) -> _T:
        """Call in the thread, and return the result."""
        return await self._thread.run(call)

    async def scan(self, folder: Path, known: ManifestIndex, paths: frozenset[Path] | None = None) -> FolderScan:
        """Scan these files, or the whole folder for None; once more after a moment where a file looks half-written.

        Raises UsageError, OSError where the folder can't be read and no last good content exists.
        """
        scan = await self.run(partial(read_files, folder, known, paths, self.calls))
        if any(reading.maybe_partial for reading in scan.readings):
            await asyncio.sleep(_PARTIAL_WRITE_SECONDS)
            scan = await self.run(partial(read_files, folder, known, paths, self.calls))
        return scan

    async def identity(self, folder: Path) -> FolderIdentity:
        """Return the folder's identity: a watch stays with the folder that it was created for. Raises OSError."""
        return await self.run(lambda: self.calls.ask(lambda: identity_of(folder), ("identity", folder)))


class _RescanInterval(msgspec.Struct):
    """The interval between scans without an inotify event."""

    longest: float
    seconds: float = 0.0

    def __call__(self) -> float:
        return self.seconds or self.longest

    def note(self, known: ManifestIndex, paths: frozenset[Path] | None) -> None:
        """Set the interval after a scan: short, then doubling, while something couldn't be read."""
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
    scan_seconds: float = 30.0,
    disk: FolderReader | None = None,
    *,
    on_event: Callable[[], None] = lambda: None,
) -> AsyncIterator[Iterator[ObjectChange | None]]:
    """Yield the changes of the folder's objects, batch by batch, until `stop`; a batch may be empty (issues changed).

    A batch is applied in the steps of its iterator, as `ManifestIndex.apply_steps` has them.

    The consumer takes a whole batch before the next. Where the whole folder is gone, the last good content stays in
    force until it is back. The whole folder is scanned at the start, when a link in its path is replaced, and after so
    many seconds without an event, as inotify may lose some.

    on_event: called as soon as files may have changed, before they are read
    """
    disk = disk or FolderReader()
    pause = _RescanInterval(scan_seconds)

    def on_fallback(reason: str) -> None:
        known.set_folder_issue("watching", ValidationIssue(place=str(folder), reason=reason) if reason else None)

    watching = FolderWatch(folder, lambda path: is_manifest(folder, path), pause, disk.run, disk.calls, on_fallback)
    while not stop.is_set():
        try:
            watched = await disk.identity(folder)
        except OSError as error:
            await _wait_for(_MISSING_FOLDER_SECONDS, stop)
            if known.set_folder_issue("folder", unreadable_folder(folder, error)):
                yield iter(())
            continue
        known.set_folder_issue("folder", None)
        async with aclosing(changed_paths(watching, stop)) as changes:
            async for paths in changes:
                on_event()
                if not await _is_same_folder(disk, folder, watched):
                    break
                async with known.scan_lock:
                    scan = await _scan_or_uncertain(disk, folder, known, paths)
                    yield known.apply_steps(scan)
                    pause.note(known, paths)


async def _is_same_folder(disk: FolderReader, folder: Path, watched: FolderIdentity) -> bool:
    try:
        return await disk.identity(folder) == watched
    except OSError:
        return False


async def _scan_or_uncertain(
    disk: FolderReader, folder: Path, known: ManifestIndex, paths: frozenset[Path] | None
) -> FolderScan:
    """Scan files; uncertain where the folder is gone."""
    try:
        return await disk.scan(folder, known, paths)
    except (OSError, UsageError):
        return FolderScan(uncertain=True)


async def _wait_for(seconds: float, event: asyncio.Event) -> None:
    with suppress(TimeoutError):
        async with asyncio.timeout(seconds):
            await event.wait()
