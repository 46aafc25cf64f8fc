"""Reports which manifests of a folder may have changed, by inotify(7), or by polling where inotify is unavailable.

No CPU time is used while nothing changes. A file counts as changed when its writer has closed it or renamed it into
place, so its content is mostly complete.
"""

from __future__ import annotations

import asyncio
import errno
import os
import sys
from collections import deque
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import aclosing
from functools import partial
from pathlib import Path
from typing import Any, Protocol

import msgspec
from asyncinotify import Event, Inotify, Mask

from nfagent.manifests.folder_listing import folder_state, list_folders
from nfagent.system.bounded_calls import BoundedCalls

_BATCH_SECONDS = 0.002
"""How long further events are collected after the first, unless all files were renamed into place.

A writer may delete a file and write it again at once, as git does: its objects must not be removed in between.
"""
_EMACS_LOCK = ".#"
"""Prefix of the dangling links that Emacs creates while a file is edited."""

_MAX_LINKS = 40
"""The kernel's own limit (MAXSYMLINKS)."""

_LIMITS = {errno.ENOSPC, errno.ENOMEM, errno.EMFILE, errno.ENFILE}
"""Errors of a machine or process at its limit."""

_NO_FOLDER = {errno.ENOENT, errno.ENOTDIR, errno.ELOOP}
"""Errors of a path that doesn't exist, leads to a file, or in a circle."""

_POLL_SECONDS = 2.0
"""Interval at which times and sizes of files are compared without inotify."""

_SYSCTL = Path("/proc/sys/fs/inotify")
_MAX_BATCH_WAITS = 5
"""Waits for further events at most: a writer may never stop."""

_MOST_NAMES = 1024
"""Names of files that are held interned, those of the latest events."""

_MASK = Mask.CLOSE_WRITE | Mask.CREATE | Mask.DELETE | Mask.MOVE | Mask.DELETE_SELF | Mask.MOVE_SELF | Mask.ONLYDIR
_PATH_MASK = Mask.DELETE_SELF | Mask.MOVE_SELF | Mask.DONT_FOLLOW
"""Events of a link or folder in the path: a replacement deletes or moves the previous one."""

_RESCAN_MASK = Mask.ISDIR | Mask.DELETE_SELF | Mask.MOVE_SELF | Mask.Q_OVERFLOW | Mask.IGNORED | Mask.UNMOUNT
"""Events about folders, or lost events: files in a new folder have no events of their own."""


class RunInThread(Protocol):
    """Calls a function in a thread."""

    def __call__(self, call: Callable[[], Any], /) -> Awaitable[Any]:
        """Return the function's result."""
        ...


class FolderWatch(msgspec.Struct, frozen=True):
    """Parameters of a watch.

    is_relevant: whether a path is a manifest
    pause:       returns the seconds without an event after which the whole folder is scanned
    run:         calls functions that access the disk, in a thread
    on_fallback: called with the reason why inotify is unavailable, '' where it is available
    """

    folder: Path
    is_relevant: Callable[[Path], bool]
    pause: Callable[[], float]
    run: RunInThread
    calls: BoundedCalls
    on_fallback: Callable[[str], None]


async def changed_paths(watching: FolderWatch, stop: asyncio.Event) -> AsyncGenerator[frozenset[Path] | None]:
    """Yield the files that may have changed; None for a scan of the whole folder.

    None comes first, after changes of folders, and after a time without events. The path to the folder may contain
    symbolic links; one that is replaced, as by git-sync, makes a scan of the whole folder. Ends when `stop` is set, or
    the folder is gone.
    """
    stopping: asyncio.Future[bool] = asyncio.ensure_future(stop.wait())
    try:
        while not stop.is_set():
            try:
                inotify, watched = await _open_watches(watching)
            except OSError as error:
                if error.errno in _NO_FOLDER:
                    return
                # Of a folder that can't be read the scan reports it.
                watching.on_fallback(_fallback_reason(error) if error.errno in _LIMITS else "")
                changes = _polled_changes(watching, stopping)
            else:
                changes = _inotify_changes(watching, inotify, watched, stopping)
            async with aclosing(changes):
                async for paths in changes:
                    yield paths
    finally:
        stopping.cancel()


async def _open_watches(watching: FolderWatch) -> tuple[Inotify, frozenset[Path]]:
    """Watch a folder, its subfolders and the folders and links in its path; return all of them. Raises OSError."""
    inotify = Inotify()
    watch = partial(_watch, inotify, watching.folder, watching.calls)
    try:
        return inotify, await watching.run(watch)
    except BaseException:
        inotify.close()
        raise


async def _inotify_changes(
    watching: FolderWatch, inotify: Inotify, watched: frozenset[Path], stopping: asyncio.Future[bool]
) -> AsyncGenerator[frozenset[Path] | None]:
    """Yield None, then changed files, until an event requires a scan of the whole folder.

    Where events can't be read, it is polled until then.
    """
    is_relevant = watching.is_relevant
    with inotify:

        def unclear(event: Event) -> bool:
            return event.path in watched or _needs_rescan(event, is_relevant)

        batcher = _EventBatcher(
            inotify, stopping, lambda event: not unclear(event) and _is_complete(event, is_relevant)
        )
        try:
            await batcher.begin()
            watching.on_fallback("")
            # Watches exist: a scan now finds earlier changes, and events report later ones.
            yield None
            while not stopping.done():
                events = await batcher.next_batch(watching.pause())
                if not events or any(map(unclear, events)):
                    return
                paths = frozenset(event.path for event in events if event.path is not None and is_relevant(event.path))
                if paths:
                    yield paths
        except OSError as error:
            watching.on_fallback(_unread_reason(error))
        else:
            return
        finally:
            await batcher.close()
    async with aclosing(_polled_changes(watching, stopping)) as changes:
        async for polled in changes:
            yield polled


async def _polled_changes(
    watching: FolderWatch, stopping: asyncio.Future[bool]
) -> AsyncGenerator[frozenset[Path] | None]:
    """Yield None; end when a file may have changed, or after the time without events."""
    loop = asyncio.get_running_loop()
    state = partial(folder_state, watching.folder, watching.calls)
    before = await watching.run(state)
    yield None
    until = loop.time() + watching.pause()
    while (left := until - loop.time()) > 0 and not stopping.done():
        await asyncio.wait([stopping], timeout=min(left, _POLL_SECONDS))
        if await watching.run(state) != before:
            return


def _unread_reason(error: OSError) -> str:
    """Return why events of inotify can't be read, and the remedy."""
    limit = "; see fs.epoll.max_user_watches" if error.errno == errno.ENOSPC else ""
    said = f"events of inotify can't be read: {error.strerror or error}"
    return f"{said}; the folder is polled every {_POLL_SECONDS:g} s instead{limit}"


def _fallback_reason(error: OSError) -> str:
    """Return why inotify is unavailable, and the remedy."""
    setting, lacks = "", f"inotify is unavailable: {error.strerror}"
    if error.errno == errno.ENOSPC:
        setting, lacks = "max_user_watches", "inotify has no watches left"
    elif error.errno == errno.EMFILE and _descriptors_left():
        setting, lacks = "max_user_instances", "inotify has no instances left"
    elif error.errno == errno.EMFILE:
        lacks = "no file descriptors are left for inotify; raise LimitNOFILE of the service"
    said = f"{lacks}; the folder is polled every {_POLL_SECONDS:g} s instead"
    if not setting:
        return said
    try:
        limit = (_SYSCTL / setting).read_text().strip()
    except OSError:
        limit = "?"
    return f"{said}; raise the limit, which is {limit}: sysctl -w fs.inotify.{setting}=N"


def _descriptors_left() -> bool:
    try:
        os.close(os.open("/", os.O_PATH | os.O_CLOEXEC))
    except OSError:
        return False
    return True


def _needs_rescan(event: Event, is_relevant: Callable[[Path], bool]) -> bool:
    """Return whether an event is about a folder, a link to one (`..data` of a mounted ConfigMap), or lost events."""
    path = event.path
    return path is None or bool(event.mask & _RESCAN_MASK) or (not is_relevant(path) and _is_link(path))


def _is_link(path: Path) -> bool:
    """Return whether it is a link, which may lead to a folder. The target isn't read, which could block."""
    return not path.name.startswith(_EMACS_LOCK) and path.is_symlink()


def _is_complete(event: Event, is_relevant: Callable[[Path], bool]) -> bool:
    """Return whether no further event follows: the file was renamed into place, or isn't a manifest."""
    return Mask.MOVED_TO in event.mask or event.path is None or not is_relevant(event.path)


class _EventBatcher:
    """Collects inotify events into batches. One read is always pending and kept: cancelling it could lose events."""

    def __init__(self, inotify: Inotify, stopping: asyncio.Future[bool], complete: Callable[[Event], bool]) -> None:
        self._inotify = inotify
        self._stopping = stopping
        self._is_complete = complete
        # pathlib interns each name. One that nothing holds is interned anew by each event, and uses up a place in the
        # interpreter's table, which grows for it; writers use the same names again and again.
        self._names: deque[str] = deque(maxlen=_MOST_NAMES)
        self._next = asyncio.ensure_future(inotify.get())

    async def begin(self) -> None:
        """Begin to read. Raises OSError where the event loop can't watch one descriptor more."""
        await asyncio.sleep(0)
        if self._next.done():
            self._next.result()

    async def next_batch(self, seconds: float) -> list[Event]:
        """Return the events of a batch: waits so long for the first, then briefly for further ones; [] without events.

        There is no further wait where all files were renamed into place: those are complete. Raises OSError.
        """
        events: list[Event] = []
        for _ in range(_MAX_BATCH_WAITS):
            await asyncio.wait((self._next, self._stopping), timeout=seconds, return_when=asyncio.FIRST_COMPLETED)
            if not self._next.done():
                break
            while self._next.done():
                events.append(event := self._next.result())
                if event.name is not None:
                    self._names.append(sys.intern(event.name.name))
                self._next = asyncio.ensure_future(self._inotify.get())
                await asyncio.sleep(0)
            if all(map(self._is_complete, events)):
                break
            seconds = _BATCH_SECONDS
        return events

    async def close(self) -> None:
        """Stop reading."""
        self._next.cancel()
        await asyncio.gather(self._next, return_exceptions=True)


def lookup_path(folder: Path) -> list[Path]:
    """Return every folder and symbolic link that the kernel resolves in a folder's path, the folder itself excluded.

    Raises OSError where one doesn't exist, or links lead in a circle.
    """
    place, rest, found = Path("/"), list(folder.absolute().parts[1:]), list[Path]()
    links = 0
    while rest:
        name = rest.pop(0)
        step = place / name if name != ".." else place.parent
        if not step.is_symlink():
            place = step
            found += [step] if rest else []
            continue
        links += 1
        if links > _MAX_LINKS:
            raise OSError(errno.ELOOP, os.strerror(errno.ELOOP), str(folder))
        found.append(step)
        target = step.readlink()
        place = Path("/") if target.is_absolute() else place
        rest = [part for part in target.parts if part != "/"] + rest
    return found


def _watch(inotify: Inotify, folder: Path, calls: BoundedCalls) -> frozenset[Path]:
    """Watch a folder, its subfolders, and its path; return all these folders. Raises OSError where it doesn't exist.

    A folder that can't be read can't be watched either: it is scanned at an interval.
    """

    def watch(path: Path, mask: Mask) -> None:
        try:
            inotify.add_watch(path, mask)
        except OSError as error:
            if error.errno in _LIMITS or path == folder:
                raise

    def watch_path() -> None:
        for step in lookup_path(folder):
            watch(step, _PATH_MASK)
        watch(folder, _MASK)

    calls.ask(watch_path, ("watch", folder))
    places = frozenset(list_folders(folder, calls).paths.values())
    for _, answer in calls.each(lambda place: watch(place, _MASK), places - {folder}):
        if isinstance(answer, OSError) and answer.errno in _LIMITS:
            raise answer
    return places
