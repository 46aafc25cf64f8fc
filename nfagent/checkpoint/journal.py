"""An append-only file of lines that survives crashes, in a folder with mode 0700. Blocking: to be run in a thread.

A damaged line affects no other line: each has its own checksum (`checkpoint.codec`). A line that a crash or a full disk
cut short is terminated before the next one. A file is replaced by renaming a complete one over it.
"""

from __future__ import annotations

import errno
import fcntl
import os
import stat
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path

from nfagent.errors import HostError

_FOLDER_MODE = 0o700
_FILE_MODE = 0o600
_OTHERS_WRITE = 0o022
_OPENED = os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK  # O_NONBLOCK: a FIFO in its place must not block
_FLAGS = os.O_RDWR | os.O_APPEND | _OPENED
_MOST_BYTES = 1 << 30


class Journal:
    """The file `name` in `folder`, locked for this process while it is open. Every method raises OSError."""

    def __init__(self, folder: Path, name: str) -> None:
        """Keep the path; `read` opens the file."""
        self.path = folder / name
        self._folder: int | None = None
        self._file: int | None = None

    def read(self) -> bytes:
        """Lock the folder, creating it if necessary, and return the file's content; b'' without a file.

        Raises HostError where another user can write the folder, or another process has locked it.
        """
        self._lock()
        try:
            descriptor = os.open(self.path, os.O_RDONLY | _OPENED)
        except FileNotFoundError:
            return b""
        with os.fdopen(descriptor, "rb") as file:
            if not stat.S_ISREG(os.fstat(descriptor).st_mode):
                raise OSError(errno.EINVAL, "not a regular file")
            content = file.read(_MOST_BYTES + 1)
        if len(content) > _MOST_BYTES:
            raise HostError(f"{self.path} is longer than {_MOST_BYTES >> 20} MiB")
        return content

    def append(self, lines: Iterable[bytes]) -> None:
        """Append lines and flush them to the disk."""
        if self._file is None:
            self._file = os.open(self.path, _FLAGS)
        found = os.fstat(self._file)
        if not found.st_nlink:
            raise FileNotFoundError(errno.ENOENT, "the file was deleted")
        size = found.st_size
        content = b"".join(lines)
        if size and os.pread(self._file, 1, size - 1) != b"\n":
            content = b"\n" + content
        try:
            _write(self._file, content)
            os.fdatasync(self._file)
        except OSError:
            with suppress(OSError):
                os.ftruncate(self._file, size)
            raise

    def replace(self, lines: Iterable[bytes]) -> None:
        """Replace the content with lines, atomically."""
        self._lock()
        beside = self.path.with_name(f"{self.path.name}.new")
        with suppress(FileNotFoundError):
            beside.unlink()
        descriptor = os.open(beside, _FLAGS | os.O_CREAT | os.O_EXCL, _FILE_MODE)
        try:
            _write(descriptor, b"".join(lines))
            os.fsync(descriptor)
            beside.replace(self.path)
        except BaseException:
            os.close(descriptor)
            with suppress(OSError):
                beside.unlink()
            raise
        self._close_file()
        self._file = descriptor
        if self._folder is not None:
            os.fsync(self._folder)

    def set_aside(self) -> Path:
        """Rename the file, to keep it for inspection; return its new path. The previous one is overwritten."""
        aside = self.path.with_name(f"{self.path.name}.unreadable")
        self._close_file()
        self.path.replace(aside)
        return aside

    def close(self) -> None:
        """Close the file and unlock the folder."""
        self._close_file()
        descriptor, self._folder = self._folder, None
        if descriptor is not None:
            os.close(descriptor)

    def _close_file(self) -> None:
        descriptor, self._file = self._file, None
        if descriptor is not None:
            os.close(descriptor)

    def _lock(self) -> None:
        if self._folder is not None:
            return
        folder = self.path.parent
        folder.mkdir(mode=_FOLDER_MODE, parents=True, exist_ok=True)
        descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            _lock_folder(descriptor, folder)
        except BaseException:
            os.close(descriptor)
            raise
        self._folder = descriptor


def _lock_folder(descriptor: int, folder: Path) -> None:
    """Lock a folder and set mode 0700. Raises OSError, HostError."""
    found = os.fstat(descriptor)
    if found.st_uid != os.geteuid() or found.st_mode & _OTHERS_WRITE:
        raise HostError(f"{folder} is writable by other users", hint="set its owner to root and its mode to 0700")
    os.fchmod(descriptor, _FOLDER_MODE)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        raise HostError(f"{folder} is in use by another agent", hint="set another state_dir for each agent") from None


def _write(descriptor: int, content: bytes) -> None:
    view = memoryview(content)
    while view:
        view = view[os.write(descriptor, view) :]
