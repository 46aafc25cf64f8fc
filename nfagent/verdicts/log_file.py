"""The verdict log's file: rotated by size, and reopened after another program moved it.

Other programs read and move it (log shippers, logrotate), so each batch checks which file the path names. Disk errors
are counted and never raised: the caller has packets to process.
"""

from __future__ import annotations

import errno
import fcntl
import os
import stat
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path

CUT_SHORT = "cut short by a crash"
_RECORD_START = b'{"connection":'
"""What every record begins with: only a line of ours is overwritten."""
_MAX_CUT = 4 * 1024 * 1024
_MODE = 0o640
_OTHERS_WRITE = stat.S_IWGRP | stat.S_IWOTH
_FLAGS = os.O_RDWR | os.O_APPEND | os.O_CLOEXEC | os.O_NOCTTY | os.O_NONBLOCK  # opening a FIFO must not block
_KINDS = (
    (stat.S_ISDIR, "a folder"),
    (stat.S_ISFIFO, "a FIFO"),
    (stat.S_ISSOCK, "a socket"),
    (stat.S_ISCHR, "a device"),
    (stat.S_ISBLK, "a device"),
)
_DETECTABLE = frozenset(
    {errno.ENOSPC, errno.EROFS, errno.ENOENT, errno.ENOTDIR, errno.ELOOP, errno.EACCES, errno.EISDIR, errno.EEXIST}
)
"""Errors that `check` detects too: once it no longer does, such a write error is outdated."""


class RotatingFile:
    """A file of lines at `path`, with up to `backups` older files beside it: `path.1` is the newest of them.

    A file has at most `max_bytes`, except where one line is longer. The folder and the file (mode 0640) are created
    with the first line.

    errors:     number of batches that could not be written completely
    lost:       their lines that are in no file, by the operating system's error
    last_error: the last error of the operating system; '' without one
    """

    label = "verdict log"
    target = "the disk"

    def __init__(self, path: Path, max_bytes: int = 10_000_000, backups: int = 5) -> None:
        """Keep the settings; the file is opened by the first `write`."""
        self.errors = 0
        self.lost: Counter[str] = Counter()
        self.last_error = ""
        self._write_error: OSError | None = None  # why the last batch was not written completely
        self._obstacle = ""  # found by the last `check`
        self._path = path
        self._max_bytes = max_bytes
        self._backups = backups
        self._descriptor: int | None = None
        self._counted_cut = False  # the line that may be cut short now was counted when it was

    def limit(self, max_bytes: int, backups: int) -> None:
        """Change size and number of the files, from the next rotation on; files beyond the new number stay."""
        self._max_bytes, self._backups = max_bytes, backups

    @property
    def problem(self) -> str:
        """Why the last batch was not written completely, or the next can't be; '' without a problem."""
        return self._obstacle or ("" if self._write_error is None else str(self._write_error))

    @property
    def lost_lines(self) -> int:
        """Number of lines that are in no file."""
        return self.lost.total()

    def write(self, lines: Sequence[bytes]) -> None:
        """Append lines, each with its newline at its end, rotating as needed; never raises OSError.

        Blocks as long as the disk does: `LogWriter` calls it in its thread. A line that a full disk or a crash cut
        short doesn't damage the next one.
        """
        written = 0
        try:
            for chunk in _chunks(lines, self._max_bytes):
                length = sum(map(len, chunk))
                descriptor, size = self._current()
                if size and os.pread(descriptor, 1, size - 1) != b"\n":
                    self._end_cut_line(descriptor, size)
                if size and size + length > self._max_bytes:
                    self._rotate()
                    descriptor, size = self._current()
                for ended in _write_all(descriptor, b"".join(chunk)):
                    written += ended
        except OSError as error:
            self.errors += 1
            self.lost[error.strerror or str(error)] += len(lines) - written
            self.last_error = str(error)
            self._write_error = error
            self._counted_cut = True
            self.close()
            self.check()  # its messages are clearer
        else:
            self._write_error = None
            if self._obstacle:
                self.check()

    def check(self) -> None:
        """Check whether a line could be written, without writing one; blocks as long as the disk does.

        So a disk that is full, read-only or gone is a `problem` before a line is lost, and no longer one once it is
        back.
        """
        self._obstacle = find_obstacle(self._path)
        if not self._obstacle and self._write_error is not None and self._write_error.errno in _DETECTABLE:
            self._write_error = None

    def reopen(self) -> None:
        """Close the file; the next batch opens the file that the path then names."""
        self.close()

    def close(self) -> None:
        """Close the file; a later write opens it again."""
        descriptor, self._descriptor = self._descriptor, None
        if descriptor is not None:
            os.close(descriptor)

    def _current(self) -> tuple[int, int]:
        # the descriptor and the size of the file that the path names now
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

    def _end_cut_line(self, descriptor: int, size: int) -> None:
        """End the last line: of a record that a crash or a full disk cut short only spaces are left, and it is counted.

        A file system that lost power may leave NULs in place of what was written last: a record too. A line of another
        program is kept. The file never shrinks: a log shipper would read it again from its start.
        """
        begin = max(0, size - _MAX_CUT)
        cut = os.pread(descriptor, size - begin, begin).rpartition(b"\n")[2]
        text = cut.rstrip(b"\0")
        is_record = text.startswith(_RECORD_START) or _RECORD_START.startswith(text)
        blank = len(cut) if is_record else len(cut) - len(text)
        if blank:
            flags = fcntl.fcntl(descriptor, fcntl.F_GETFL)
            fcntl.fcntl(descriptor, fcntl.F_SETFL, flags & ~os.O_APPEND)  # with it, pwrite appends
            try:
                os.pwrite(descriptor, b" " * blank, size - blank)
            finally:
                fcntl.fcntl(descriptor, fcntl.F_SETFL, flags)
        os.write(descriptor, b"\n")
        if blank and not self._counted_cut:
            self.lost[CUT_SHORT] += 1
        self._counted_cut = False

    def _rotate(self) -> None:
        self.close()
        if self._backups == 0:
            self._path.unlink(missing_ok=True)
            return
        names = [self._path, *(self._path.with_name(f"{self._path.name}.{n}") for n in range(1, self._backups + 1))]
        for older, newer in reversed(list(zip(names[1:], names, strict=False))):
            try:
                newer.replace(older)
            except FileNotFoundError:
                continue


def find_obstacle(path: Path) -> str:
    """Return why lines can't be written to a path; '' where they can. Creates and changes nothing."""
    try:
        there = _nearest(path)
        if there == path:
            _check_owner(path, there.lstat())
            _check_kind(path, there.stat())
        code = _disk_refusal(there, is_new=there != path)
    except OSError as error:
        return str(error)
    return str(OSError(code, os.strerror(code), str(there))) if code else ""


def _disk_refusal(there: Path, *, is_new: bool) -> int:
    """Return the error number that prevents a line, or a new file in a folder; 0 without one."""
    if is_new and not there.is_dir():
        return errno.ENOTDIR
    disk = os.statvfs(there)
    if disk.f_flag & os.ST_RDONLY:
        return errno.EROFS
    # File systems that don't count blocks or inodes report a total of 0.
    if (disk.f_blocks and not disk.f_bfree) or (is_new and disk.f_files and not disk.f_ffree):
        return errno.ENOSPC
    return 0 if os.access(there, os.W_OK) else errno.EACCES


def _nearest(path: Path) -> Path:
    """Return the path, or its nearest existing parent: missing folders are created when they are needed."""
    for there in (path, *path.absolute().parents):
        if os.path.lexists(there):
            return there
    return path


def _check_kind(path: Path, found: os.stat_result) -> None:
    """Raise OSError for a file that isn't regular: a FIFO or a device accepts lines, but stores none."""
    if stat.S_ISREG(found.st_mode):
        return
    kind = next((name for is_kind, name in _KINDS if is_kind(found.st_mode)), "something else")
    code = errno.EISDIR if kind == "a folder" else errno.EEXIST
    raise OSError(code, f"there is {kind} in place of the log", str(path))


def _check_owner(path: Path, found: os.stat_result) -> None:
    """Raise OSError for a file that a user who may write to its folder has put there.

    A link would lead root's writes to any file; a file of another user is read, and changed, by that user. Where only
    root writes to the folder, both are root's choice, such as a link to another disk.
    """
    if not path.parent.stat().st_mode & _OTHERS_WRITE:
        return
    if stat.S_ISLNK(found.st_mode):
        kind = "a symbolic link"
    elif found.st_uid not in {0, os.geteuid()}:
        kind = f"a file of user {found.st_uid}"
    elif found.st_nlink > 1:
        kind = "a file with several names"
    else:
        return
    raise OSError(errno.EEXIST, f"there is {kind} in place of the log, in a folder that others may write to", str(path))


def _open(path: Path) -> int:
    path.parent.mkdir(mode=0o755, parents=True, exist_ok=True)
    try:
        descriptor = os.open(path, _FLAGS | os.O_CREAT | os.O_EXCL, _MODE)
    except FileExistsError:
        is_shared = bool(path.parent.stat().st_mode & _OTHERS_WRITE)
        _check_owner(path, path.lstat())
        _check_kind(path, path.stat())  # before open(): opening some devices has side effects
        descriptor = os.open(path, _FLAGS | (os.O_NOFOLLOW if is_shared else 0))
        try:
            _check_owner(path, os.fstat(descriptor))  # another file may be there by now
            _check_kind(path, os.fstat(descriptor))
        except OSError:
            os.close(descriptor)
            raise
        return descriptor
    os.fchmod(descriptor, _MODE)  # regardless of the umask; an existing file keeps its mode
    return descriptor


def _chunks(lines: Sequence[bytes], limit: int) -> Iterator[list[bytes]]:
    # in order; each chunk fits into one file
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


def _write_all(descriptor: int, content: bytes) -> Iterator[int]:
    # number of lines completed by each write: a disk that fills up accepts a part, then refuses the rest
    offset = 0
    while offset < len(content):
        end = offset + os.write(descriptor, content[offset:] if offset else content)
        yield content.count(b"\n", offset, end)
        offset = end
