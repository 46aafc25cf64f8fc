"""Reads a rotated log completely, and follows it: each line once, also while the files are rotated.

Files are identified by inode, never by name. They are opened from the newest to the oldest: a rotation between two
opens then shows a file twice, which is detected, instead of hiding one. Several rotations may hide one, and so they are
opened anew where another file is the newest one in the end.
"""

from __future__ import annotations

import errno
import os
import re
import stat
import time
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import BinaryIO

from nfagent.cli.log_backwards import newest_first, split_end

_POLL_SECONDS = 0.2
_BATCH = 1000
_ABSENT = {errno.ENOENT, errno.ENOTDIR, errno.ELOOP}
"""As Path.exists has it."""

_Inode = tuple[int, int]


class NoFileError(OSError):
    """The path of the log is no regular file."""


class LogFollower:
    """Reads the log at `path` and its older files beside it: `path.1` is the newest of them."""

    def __init__(self, path: Path) -> None:
        """Keep the path; nothing is opened yet."""
        self._path = path
        self._file: BinaryIO | None = None
        self._partial = b""

    def exists(self) -> bool:
        """Return whether any file exists."""
        return bool(self._names())

    def batches(self, *, follow: bool) -> Iterator[list[bytes]]:
        """Yield lines in batches, oldest first; with `follow` endlessly, as they are written.

        Raises OSError for a file that can't be read.
        """
        try:
            yield from self._advance()
            while follow:
                time.sleep(_POLL_SECONDS)
                yield from self._lines()
                if self._has_moved():
                    yield from self._advance()
            if self._partial:
                yield [self._partial]
        finally:
            if self._file is not None:
                self._file.close()

    def newest_first(self, *, follow: bool) -> Iterator[list[bytes]]:
        """Yield lines in batches, the last one first.

        follow: `batches` goes on behind them, whether all were taken or not

        Raises OSError for a file that can't be read.
        """
        with ExitStack() as opened:
            for number, file in enumerate(self._newer(opened)):
                end, unfinished = split_end(file)
                if follow and number == 0:
                    self._file, self._partial = os.fdopen(os.dup(file.fileno()), "rb"), unfinished
                    self._file.seek(end + len(unfinished))
                elif unfinished:
                    yield [unfinished]
                yield from newest_first(file, end)

    def _names(self) -> list[Path]:
        """Return the existing files, newest first."""
        numbered = re.compile(re.escape(self._path.name) + r"\.(\d+)")
        older = [
            (int(found[1]), path)
            for path in self._path.parent.glob(f"{self._path.name}.*")
            if (found := numbered.fullmatch(path.name))
        ]
        return [*([self._path] if self._path.exists() else []), *(path for _, path in sorted(older))]

    def _advance(self) -> Iterator[list[bytes]]:
        """Read the current file to its end, then all newer ones."""
        with ExitStack() as unread:
            newer = self._newer(unread)
            # Lines may have been added between the last read and the rotation.
            yield from self._lines()
            for file in reversed(newer):
                if self._file is not None:
                    self._file.close()
                if self._partial:
                    yield [self._partial]
                    self._partial = b""
                self._file = file
                yield from self._lines()
            unread.pop_all()

    def _newer(self, unread: ExitStack) -> list[BinaryIO]:
        """Open the files that are newer than the current one, newest first."""
        while True:
            with ExitStack() as opened:
                newest, names = self._newest(), self._names()
                found, reached = self._opened_newer(names, opened)
                # A rotation that has begun only may have moved the oldest file to a name that there wasn't before.
                if newest == self._newest() and (reached or names == self._names()):
                    unread.push(opened.pop_all())
                    return found

    def _opened_newer(self, names: list[Path], opened: ExitStack) -> tuple[list[BinaryIO], bool]:
        """Open files up to the current one; return those before it, and whether it is there."""
        current = None if self._file is None else _inode(self._file)
        seen = set[_Inode]()
        found: list[BinaryIO] = []
        for path in names:
            try:
                file = _opened(path)
            except FileNotFoundError:
                continue
            inode = _inode(file)
            if inode == current or inode in seen:
                file.close()
                if inode == current:
                    return found, True
                continue
            seen.add(inode)
            found.append(opened.enter_context(file))
        return found, False

    def _newest(self) -> _Inode | None:
        try:
            named = self._path.stat()
        except OSError as error:
            if error.errno in _ABSENT:
                return None
            raise
        return named.st_dev, named.st_ino

    def _lines(self) -> Iterator[list[bytes]]:
        """Read the current file to its end; an unfinished line is kept until its rest is written."""
        if self._file is None:
            return
        if self._file.tell() > os.fstat(self._file.fileno()).st_size:
            self._file.seek(0)  # truncated, as by logrotate's `copytruncate`
            self._partial = b""
        batch: list[bytes] = []
        for line in self._file:
            whole = self._partial + line
            self._partial = b""
            if not whole.endswith(b"\n"):
                self._partial = whole
                break
            if whole.isspace():
                continue  # what is left of a line that a crash cut short
            batch.append(whole)
            if len(batch) >= _BATCH:
                yield batch
                batch = []
        if batch:
            yield batch

    def _has_moved(self) -> bool:
        newest = self._newest()
        return newest is not None and (self._file is None or newest != _inode(self._file))


def _opened(path: Path) -> BinaryIO:
    """Open a regular file, without blocking on a FIFO or a device. Raises OSError."""
    try:
        file = os.fdopen(os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK), "rb")
    except OSError as error:
        if error.errno == errno.ENXIO:  # a socket
            raise NoFileError(errno.EINVAL, "not a regular file", str(path)) from None
        raise
    if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
        file.close()
        raise NoFileError(errno.EINVAL, "not a regular file", str(path))
    return file


def _inode(file: BinaryIO) -> _Inode:
    status = os.fstat(file.fileno())
    return status.st_dev, status.st_ino
