"""Which manifests of a folder may have changed, by inotify(7); by looking, where that can't be had.

Nothing runs while nothing happens. A file counts as changed when its writer has closed it or renamed it into
place, so what is read is mostly whole.
"""

from __future__ import annotations

import asyncio
import errno
import os
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import aclosing
from functools import partial
from pathlib import Path
from typing import Any, Protocol

import msgspec
from asyncinotify import Event, Inotify, Mask

from nfagent.manifests.folder_listing import list_folders, state_of
from nfagent.system.bounded_calls import BoundedCalls

_GATHER_SECONDS = 0.002
"""How long news is gathered after the first, but after files that were renamed into place.

Who deletes a file may be about to write it anew, as git does: what it holds must not be gone for that moment.
"""
_EMACS_LOCK = ".#"
"""Begins the names of links that lead nowhere, which Emacs makes while a file is edited."""

_MOST_LINKS = 40
"""As many as the kernel follows."""

_LIMITS = {errno.ENOSPC, errno.ENOMEM, errno.EMFILE, errno.ENFILE}
"""What is said where the machine has no more of them."""

_NO_FOLDER = {errno.ENOENT, errno.ENOTDIR, errno.ELOOP}
"""What is said of a path that leads to nothing, to a file, or in a circle."""

_POLL_SECONDS = 2.0
"""How often the files' times and sizes are compared where there is no inotify."""

_SYSCTL = Path("/proc/sys/fs/inotify")
_GATHER_MOST = 5
"""How many times; a writer that never stops is not waited for."""

_MASK = Mask.CLOSE_WRITE | Mask.CREATE | Mask.DELETE | Mask.MOVE | Mask.DELETE_SELF | Mask.MOVE_SELF | Mask.ONLYDIR
_WAY_MASK = Mask.DELETE_SELF | Mask.MOVE_SELF | Mask.DONT_FOLLOW
"""What becomes of a link, or a folder, on the way: who replaces it deletes or moves the one before."""

_WHOLE = Mask.ISDIR | Mask.DELETE_SELF | Mask.MOVE_SELF | Mask.Q_OVERFLOW | Mask.IGNORED | Mask.UNMOUNT
"""What tells of folders, or that events were lost: what lies in a folder makes no events of its own."""


class RunInThread(Protocol):
    """Calls something in a thread."""

    def __call__(self, call: Callable[[], Any], /) -> Awaitable[Any]:
        """Return what it gives."""
        ...


class FolderWatch(msgspec.Struct, frozen=True):
    """What is watched, and how.

    counts:    tells which paths are of interest
    pause:     gives the seconds without news after which everything is looked at
    run:       calls what touches the disk
    unwatched: is told why there is no inotify, '' where there is
    """

    folder: Path
    counts: Callable[[Path], bool]
    pause: Callable[[], float]
    run: RunInThread
    calls: BoundedCalls
    unwatched: Callable[[str], None]


async def changed_paths(watching: FolderWatch, stop: asyncio.Event) -> AsyncGenerator[frozenset[Path] | None]:
    """Give the files that may have changed, None for all: at first, after folders changed, after a time without news.

    The way to the folder may lead over symbolic links; one that is replaced, as git-sync does, is a change of all.
    Ends when `stop` is set, or the folder is gone.
    """
    stopping: asyncio.Future[bool] = asyncio.ensure_future(stop.wait())
    try:
        while not stop.is_set():
            try:
                inotify, watched = await _opened(watching)
            except OSError as error:
                if error.errno in _NO_FOLDER:
                    return
                # Of a folder that can't be read the look tells.
                watching.unwatched(_why_unwatched(error) if error.errno in _LIMITS else "")
                told = _polled(watching, stopping)
            else:
                watching.unwatched("")
                told = _until_unclear(watching, inotify, watched, stopping)
            async with aclosing(told):
                async for paths in told:
                    yield paths
    finally:
        stopping.cancel()


async def _opened(watching: FolderWatch) -> tuple[Inotify, frozenset[Path]]:
    """Watch a folder, its subfolders and the way to it; give all these folders. Raises OSError."""
    inotify = Inotify()
    watch = partial(_watch, inotify, watching.folder, watching.calls)
    try:
        return inotify, await watching.run(watch)
    except BaseException:
        inotify.close()
        raise


async def _until_unclear(
    watching: FolderWatch, inotify: Inotify, watched: frozenset[Path], stopping: asyncio.Future[bool]
) -> AsyncGenerator[frozenset[Path] | None]:
    """Give None, and then what inotify tells, until it tells of something that takes a look at everything."""
    counts = watching.counts
    with inotify:

        def unclear(event: Event) -> bool:
            return event.path in watched or _unclear(event, counts)

        news = _News(inotify, stopping, lambda event: not unclear(event) and _complete(event, counts))
        try:
            # The watches are there: what changed before is found by this look, everything later is told.
            yield None
            while not stopping.done():
                events = await news.gathered(watching.pause())
                if not events or any(map(unclear, events)):
                    return
                paths = frozenset(event.path for event in events if event.path is not None and counts(event.path))
                if paths:
                    yield paths
        finally:
            await news.close()


async def _polled(watching: FolderWatch, stopping: asyncio.Future[bool]) -> AsyncGenerator[frozenset[Path] | None]:
    """Give None, and end when a file may have changed, or after the time without news."""
    loop = asyncio.get_running_loop()
    state = partial(state_of, watching.folder, watching.calls)
    before = await watching.run(state)
    yield None
    until = loop.time() + watching.pause()
    while (left := until - loop.time()) > 0 and not stopping.done():
        await asyncio.wait([stopping], timeout=min(left, _POLL_SECONDS))
        if await watching.run(state) != before:
            return


def _why_unwatched(error: OSError) -> str:
    """Say why there is no inotify, and what to do."""
    setting, lacks = "", f"inotify can't be had: {error.strerror}"
    if error.errno == errno.ENOSPC:
        setting, lacks = "max_user_watches", "inotify has no watches left"
    elif error.errno == errno.EMFILE and _descriptors_left():
        setting, lacks = "max_user_instances", "inotify has no instances left"
    elif error.errno == errno.EMFILE:
        lacks = "no file descriptors are left for inotify; raise LimitNOFILE of the service"
    said = f"{lacks}; the folder is looked at every {_POLL_SECONDS:g} s instead"
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


def _unclear(event: Event, counts: Callable[[Path], bool]) -> bool:
    """Tell whether an event is about a folder, a link to one (the `..data` of a mounted ConfigMap), or lost news."""
    path = event.path
    return path is None or bool(event.mask & _WHOLE) or (not counts(path) and _is_link(path))


def _is_link(path: Path) -> bool:
    """Tell whether it is a link, which may lead to a folder. Whether it does isn't asked: that may take for ever."""
    return not path.name.startswith(_EMACS_LOCK) and path.is_symlink()


def _complete(event: Event, counts: Callable[[Path], bool]) -> bool:
    """Tell whether nothing more belongs to an event: the file was renamed into place, or nobody reads it."""
    return Mask.MOVED_TO in event.mask or event.path is None or not counts(event.path)


class _News:
    """Events as they come. One read is always under way and is kept from call to call: cancelling it may lose some."""

    def __init__(self, inotify: Inotify, stopping: asyncio.Future[bool], complete: Callable[[Event], bool]) -> None:
        self._inotify = inotify
        self._stopping = stopping
        self._complete = complete
        self._next = asyncio.ensure_future(inotify.get())

    async def gathered(self, seconds: float) -> list[Event]:
        """Wait so long for the first event, and then a moment for those that belong to it; none, where none comes.

        None is waited where all files that they are about were renamed into place: those are whole.
        """
        events: list[Event] = []
        for _ in range(_GATHER_MOST):
            await asyncio.wait((self._next, self._stopping), timeout=seconds, return_when=asyncio.FIRST_COMPLETED)
            if not self._next.done():
                break
            while self._next.done():
                events.append(self._next.result())
                self._next = asyncio.ensure_future(self._inotify.get())
                await asyncio.sleep(0)
            if all(map(self._complete, events)):
                break
            seconds = _GATHER_SECONDS
        return events

    async def close(self) -> None:
        """Stop reading."""
        self._next.cancel()
        await asyncio.gather(self._next, return_exceptions=True)


def way_to(folder: Path) -> list[Path]:
    """Return every folder and symbolic link that the kernel looks up on its way to a folder, but for that itself.

    Raises OSError where a step is gone, or links lead in a circle.
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
        if links > _MOST_LINKS:
            raise OSError(errno.ELOOP, os.strerror(errno.ELOOP), str(folder))
        found.append(step)
        target = step.readlink()
        place = Path("/") if target.is_absolute() else place
        rest = [part for part in target.parts if part != "/"] + rest
    return found


def _watch(inotify: Inotify, folder: Path, calls: BoundedCalls) -> frozenset[Path]:
    """Watch a folder, its subfolders, and the way to it; give all these folders. Raises OSError where it is gone.

    What can't be read can't be watched either: a timer looks at it.
    """

    def watch(path: Path, mask: Mask) -> None:
        try:
            inotify.add_watch(path, mask)
        except OSError as error:
            if error.errno in _LIMITS or path == folder:
                raise

    def watch_way() -> None:
        for step in way_to(folder):
            watch(step, _WAY_MASK)
        watch(folder, _MASK)

    calls.ask(watch_way, ("watch", folder))
    places = frozenset(list_folders(folder, calls).paths.values())
    for _, answer in calls.each(lambda place: watch(place, _MASK), places - {folder}):
        if isinstance(answer, OSError) and answer.errno in _LIMITS:
            raise answer
    return places
