"""Reading a rotated log whole, and following it: no line twice, none left out, however the names move meanwhile.

Files are told apart by their inode, never by their name. They are opened from the youngest to the oldest: a rotation
between two opens shows a file a second time, which is seen, instead of hiding one.
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

_POLL_SECONDS = 0.2
_BATCH = 1000

_Inode = tuple[int, int]


class NoFileError(OSError):
    """What stands in the log's place is no file that could be read to its end."""


class LogFollower:
    """The log at `path`, and its older files beside it: `path.1` is the youngest of them."""

    def __init__(self, path: Path) -> None:
        """Keep the path; nothing is opened yet."""
        self._path = path
        self._file: BinaryIO | None = None
        self._partial = b""

    def exists(self) -> bool:
        """Tell whether there is anything to read."""
        return bool(self._names())

    def batches(self, *, follow: bool) -> Iterator[list[bytes]]:
        """Give lines, oldest first, some at a time; with `follow` endlessly, as they are written.

        Raises OSError for a file that may not be read.
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

    def _names(self) -> list[Path]:
        """Name the files there are, youngest first."""
        numbered = re.compile(re.escape(self._path.name) + r"\.(\d+)")
        older = [
            (int(found[1]), path)
            for path in self._path.parent.glob(f"{self._path.name}.*")
            if (found := numbered.fullmatch(path.name))
        ]
        return [*([self._path] if self._path.exists() else []), *(path for _, path in sorted(older))]

    def _advance(self) -> Iterator[list[bytes]]:
        """Read what is younger than the file at hand, which is read to its end first."""
        with ExitStack() as unread:
            younger = self._younger(unread)
            # Its last lines may have been written after we looked, and before it was rotated.
            yield from self._lines()
            for file in reversed(younger):
                if self._file is not None:
                    self._file.close()
                if self._partial:
                    yield [self._partial]
                    self._partial = b""
                self._file = file
                yield from self._lines()
            unread.pop_all()

    def _younger(self, unread: ExitStack) -> list[BinaryIO]:
        """Open the files that are younger than the one at hand, youngest first."""
        seen = set() if self._file is None else {_inode(self._file)}
        found: list[BinaryIO] = []
        for path in self._names():
            try:
                file = _opened(path)
            except FileNotFoundError:
                continue
            inode = _inode(file)
            if self._file is not None and inode == _inode(self._file):
                file.close()
                break
            if inode in seen:
                file.close()
                continue
            seen.add(inode)
            found.append(unread.enter_context(file))
        return found

    def _lines(self) -> Iterator[list[bytes]]:
        """Read the file at hand to its end; a line that isn't finished waits for its rest."""
        if self._file is None:
            return
        if self._file.tell() > os.fstat(self._file.fileno()).st_size:
            self._file.seek(0)  # it was cut off and begun anew, as `copytruncate` does
            self._partial = b""
        batch: list[bytes] = []
        for line in self._file:
            whole = self._partial + line
            self._partial = b""
            if not whole.endswith(b"\n"):
                self._partial = whole
                break
            batch.append(whole)
            if len(batch) >= _BATCH:
                yield batch
                batch = []
        if batch:
            yield batch

    def _has_moved(self) -> bool:
        try:
            named = self._path.stat()
        except FileNotFoundError:
            return False
        return self._file is None or (named.st_dev, named.st_ino) != _inode(self._file)


def _opened(path: Path) -> BinaryIO:
    """Open a file; a FIFO that nobody writes to, and a device, hold nobody up. Raises OSError."""
    file = os.fdopen(os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK), "rb")
    if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
        file.close()
        raise NoFileError(errno.EINVAL, "it is no regular file", str(path))
    return file


def _inode(file: BinaryIO) -> _Inode:
    status = os.fstat(file.fileno())
    return status.st_dev, status.st_ino
