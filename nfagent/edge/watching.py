"""Which manifests of a folder may have changed, by inotify(7).

Nothing runs while nothing happens. A file counts as changed when its writer has closed it or renamed it into
place, so what is read is mostly whole.
"""

from __future__ import annotations

import asyncio
import errno
import os
from collections.abc import AsyncGenerator, Callable, Iterator
from contextlib import aclosing
from pathlib import Path

from asyncinotify import Event, Inotify, Mask

from nfagent.errors import MachineError

_GATHER_SECONDS = 0.002
"""How long news is gathered after the first, but after files that were renamed into place.

Who deletes a file may be about to write it anew, as git does: what it holds must not be gone for that moment.
"""
_MOST_LINKS = 40
"""As many as the kernel follows."""

_NO_FOLDER = {errno.ENOENT, errno.ENOTDIR, errno.ELOOP}
"""What is said of a path that leads to nothing, to a file, or in a circle."""

_GATHER_MOST = 5
"""How many times; a writer that never stops is not waited for."""

_MASK = Mask.CLOSE_WRITE | Mask.CREATE | Mask.DELETE | Mask.MOVE | Mask.DELETE_SELF | Mask.MOVE_SELF | Mask.ONLYDIR
_WAY_MASK = Mask.DELETE_SELF | Mask.MOVE_SELF | Mask.DONT_FOLLOW
"""What becomes of a link, or a folder, on the way: who replaces it deletes or moves the one before."""

_WHOLE = Mask.ISDIR | Mask.DELETE_SELF | Mask.MOVE_SELF | Mask.Q_OVERFLOW | Mask.IGNORED | Mask.UNMOUNT
"""What tells of folders, or that events were lost: what lies in a folder makes no events of its own."""


async def changed_paths(
    folder: Path, stop: asyncio.Event, look_seconds: float, counts: Callable[[Path], bool]
) -> AsyncGenerator[frozenset[Path] | None]:
    """Give the files that may have changed, None for all: at first, after folders changed, after a time without news.

    The way to the folder may lead over symbolic links; one that is replaced, as git-sync does, is a change of all.
    counts: tells which paths are of interest
    Ends when `stop` is set, or the folder is gone. Raises MachineError.
    """
    stopping: asyncio.Future[bool] = asyncio.ensure_future(stop.wait())
    try:
        while not stop.is_set():
            async with aclosing(_until_unclear(folder, stopping, look_seconds, counts)) as told:
                async for paths in told:
                    yield paths
    except OSError as error:
        if error.errno in _NO_FOLDER:
            return
        raise MachineError(
            f"{folder} can't be followed: {error}; see `sysctl fs.inotify` for this machine's limits"
        ) from None
    finally:
        stopping.cancel()


async def _until_unclear(
    folder: Path, stopping: asyncio.Future[bool], look_seconds: float, counts: Callable[[Path], bool]
) -> AsyncGenerator[frozenset[Path] | None]:
    """Give None, and then what inotify tells, until it tells of something that takes a look at everything."""
    with Inotify() as inotify:
        watched = _watch(inotify, folder)

        def unclear(event: Event) -> bool:
            return event.path in watched or _unclear(event, counts)

        news = _News(inotify, stopping, lambda event: not unclear(event) and _complete(event, counts))
        try:
            # The watches are there: what changed before is found by this look, everything later is told.
            yield None
            while not stopping.done():
                events = await news.gathered(look_seconds)
                if not events or any(map(unclear, events)):
                    return
                paths = frozenset(event.path for event in events if event.path is not None and counts(event.path))
                if paths:
                    yield paths
        finally:
            await news.close()


def _unclear(event: Event, counts: Callable[[Path], bool]) -> bool:
    """Tell whether an event is about a folder, a link to one (the `..data` of a mounted ConfigMap), or lost news."""
    path = event.path
    return path is None or bool(event.mask & _WHOLE) or (not counts(path) and path.is_dir())


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


def folders_of(folder: Path) -> Iterator[tuple[Path, list[str]]]:
    """Give a folder and its subfolders, each with its files' names: not hidden ones, and linked ones too, each once."""
    known: set[tuple[int, int]] = set()
    for place, folders, files in os.walk(folder, followlinks=True):
        try:
            found = Path(place).stat()
        except OSError:
            folders.clear()
            continue
        if (found.st_dev, found.st_ino) in known:
            folders.clear()
            continue
        known.add((found.st_dev, found.st_ino))
        # Who links to a folder beside it has it under its own name.
        folders[:] = sorted(
            (name for name in folders if not name.startswith(".")),
            key=lambda name: (Path(place, name).is_symlink(), name),
        )
        yield Path(place), files


def _watch(inotify: Inotify, folder: Path) -> frozenset[Path]:
    """Watch a folder, its subfolders, and the way to it; give all these folders. Raises OSError where it is gone."""
    for step in way_to(folder):
        inotify.add_watch(step, _WAY_MASK)
    inotify.add_watch(folder, _MASK)
    places = frozenset(place for place, _ in folders_of(folder))
    for place in places - {folder}:
        try:
            inotify.add_watch(place, _MASK)
        except (FileNotFoundError, NotADirectoryError):
            continue  # gone again: its parent's watch tells
    return places
