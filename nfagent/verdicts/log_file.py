"""A file of lines that rotates by size and outlives those who move it: the verdict log.

Several programs tail or move such a file (log shippers, logrotate), so every batch looks again at what the path
names. Nothing that the disk does is raised into the caller, who has packets to attend to: it is counted.
"""

from __future__ import annotations

import errno
import os
import stat
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path

_MODE = 0o640
_FLAGS = os.O_RDWR | os.O_APPEND | os.O_CLOEXEC | os.O_NOCTTY | os.O_NONBLOCK  # a FIFO in its place holds nobody up
_KINDS = (
    (stat.S_ISDIR, "a folder"),
    (stat.S_ISFIFO, "a FIFO"),
    (stat.S_ISSOCK, "a socket"),
    (stat.S_ISCHR, "a device"),
    (stat.S_ISBLK, "a device"),
)
_SEEN = frozenset(
    {errno.ENOSPC, errno.EROFS, errno.ENOENT, errno.ENOTDIR, errno.ELOOP, errno.EACCES, errno.EISDIR, errno.EEXIST}
)
"""What `look` would see too: where it no longer does, a write that failed so says nothing about the next."""


class RotatingFile:
    """The file at `path`, and `backups` older ones beside it: `path.1` is the youngest.

    A file is at most `max_bytes` long, except where one line alone is longer. `backups` 0 keeps none. Folder and
    file (mode 0640) are made when there is something to write.

    errors:     batches that could not be written whole
    lost:       lines of these that are not in the file, by what the operating system said
    last_error: what the operating system said last, '' if nothing
    """

    def __init__(self, path: Path, max_bytes: int = 10_000_000, backups: int = 5) -> None:
        """Keep the settings; nothing is opened yet."""
        self.errors = 0
        self.lost: Counter[str] = Counter()
        self.last_error = ""
        self._refusal: OSError | None = None  # why the last batch could not be written whole
        self._seen = ""  # what the last look found
        self._path = path
        self._max_bytes = max_bytes
        self._backups = backups
        self._descriptor: int | None = None

    @property
    def problem(self) -> str:
        """Say why the last batch could not be written whole, or the next can't be; '' where all is well."""
        return self._seen or ("" if self._refusal is None else str(self._refusal))

    @property
    def lost_lines(self) -> int:
        """Count the lines that are not in the file."""
        return self.lost.total()

    def write(self, lines: Sequence[bytes]) -> None:
        """Append lines, each with its newline at its end, rotating as needed; never raises OSError.

        Blocks as long as the disk does: `logwriter` calls it in a thread. Whole lines only: a line that the disk
        could not take leaves no other line damaged.
        """
        written = 0
        try:
            for chunk in _chunks(lines, self._max_bytes):
                length = sum(map(len, chunk))
                descriptor, size = self._current()
                if size and size + length > self._max_bytes:
                    self._rotate()
                    descriptor, size = self._current()
                if size and os.pread(descriptor, 1, size - 1) != b"\n":
                    os.write(descriptor, b"\n")  # a crash or a full disk has cut the last line short
                for ended in _write_whole(descriptor, b"".join(chunk)):
                    written += ended
        except OSError as error:
            self.errors += 1
            self.lost[error.strerror or str(error)] += len(lines) - written
            self.last_error = str(error)
            self._refusal = error
            self.close()
            self.look()  # which has clearer words for most of what is in the way
        else:
            self._refusal = None
            if self._seen:
                self.look()

    def look(self) -> None:
        """Look whether the path and its disk would take a line, and write none; blocks as long as the disk does.

        A disk that is full, read-only or gone is so a `problem` before it costs a line, and no longer one as soon as
        it is back.
        """
        self._seen = find_obstacle(self._path)
        if not self._seen and self._refusal is not None and self._refusal.errno in _SEEN:
            self._refusal = None

    def reopen(self) -> None:
        """Let go of the file, so that the next batch opens what the path names by then."""
        self.close()

    def close(self) -> None:
        """Close the file; a later write opens it again."""
        descriptor, self._descriptor = self._descriptor, None
        if descriptor is not None:
            os.close(descriptor)

    def _current(self) -> tuple[int, int]:
        # the descriptor of the file that the path names now, and its size
        if self._descriptor is not None:
            ours = os.fstat(self._descriptor)
            try:
                named = self._path.stat()
            except FileNotFoundError:
                named = None
            if named is not None and (named.st_dev, named.st_ino) == (ours.st_dev, ours.st_ino):
                return self._descriptor, named.st_size
            self.close()
        self._descriptor = _open(self._path)
        return self._descriptor, os.fstat(self._descriptor).st_size

    def _rotate(self) -> None:
        self.close()
        if self._backups == 0:
            self._path.unlink(missing_ok=True)
            return
        names = [self._path, *(self._path.with_name(f"{self._path.name}.{n}") for n in range(1, self._backups + 1))]
        for older, younger in reversed(list(zip(names[1:], names, strict=False))):
            try:
                younger.replace(older)
            except FileNotFoundError:
                continue


def find_obstacle(path: Path) -> str:
    """Say why lines can't be written to a path, '' where nothing stands in their way; makes and changes nothing."""
    try:
        there = _nearest(path)
        if there == path:
            _check_kind(path, there.stat())
        code = _disk_refusal(there, is_new=there != path)
    except OSError as error:
        return str(error)
    return str(OSError(code, os.strerror(code), str(there))) if code else ""


def _disk_refusal(there: Path, *, is_new: bool) -> int:
    """Give the error number of what is in the way of a line, or of a new file in a folder; 0 where nothing is."""
    if is_new and not there.is_dir():
        return errno.ENOTDIR
    disk = os.statvfs(there)
    if disk.f_flag & os.ST_RDONLY:
        return errno.EROFS
    # Disks that don't count blocks, or inodes, have none in all.
    if (disk.f_blocks and not disk.f_bfree) or (is_new and disk.f_files and not disk.f_ffree):
        return errno.ENOSPC
    return 0 if os.access(there, os.W_OK) else errno.EACCES


def _nearest(path: Path) -> Path:
    """Give the path, or the nearest folder above it that exists: what is missing is made when it is needed."""
    for there in (path, *path.absolute().parents):
        if os.path.lexists(there):
            return there
    return path


def _check_kind(path: Path, found: os.stat_result) -> None:
    """Raise OSError for what is no regular file: a FIFO or a device takes lines, and keeps none."""
    if stat.S_ISREG(found.st_mode):
        return
    kind = next((name for is_kind, name in _KINDS if is_kind(found.st_mode)), "no file")
    code = errno.EISDIR if kind == "a folder" else errno.EEXIST
    raise OSError(code, f"there is {kind} in place of the log", str(path))


def _open(path: Path) -> int:
    path.parent.mkdir(mode=0o755, parents=True, exist_ok=True)
    try:
        descriptor = os.open(path, _FLAGS | os.O_CREAT | os.O_EXCL, _MODE)
    except FileExistsError:
        _check_kind(path, path.stat())  # first: some devices do something when they are opened
        descriptor = os.open(path, _FLAGS)
        try:
            _check_kind(path, os.fstat(descriptor))
        except OSError:
            os.close(descriptor)
            raise
        return descriptor
    os.fchmod(descriptor, _MODE)  # whatever the umask; the mode of a file that was there is its owner's choice
    return descriptor


def _chunks(lines: Sequence[bytes], limit: int) -> Iterator[list[bytes]]:
    # in order, each as long as fits into one file
    chunk: list[bytes] = []
    size = 0
    for line in lines:
        if chunk and size + len(line) > limit:
            yield chunk
            chunk, size = [], 0
        chunk.append(line)
        size += len(line)
    if chunk:
        yield chunk


def _write_whole(descriptor: int, content: bytes) -> Iterator[int]:
    # how many lines ended with each write: a disk that fills up takes a part first, and refuses the next
    offset = 0
    while offset < len(content):
        end = offset + os.write(descriptor, content[offset:] if offset else content)
        yield content.count(b"\n", offset, end)
        offset = end
