"""The archive of `nfagent bundle`: tar, compressed by zstd, of mode 0600, which exists whole or not at all.

A member is compressed while it is read, since tar has its size before its content: so memory has the compressed form
of one member at a time, and no disk a second copy.
"""

from __future__ import annotations

import errno
import io
import os
import sys
import tarfile
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO, cast

from backports import zstd

from nfagent.errors import HostError

MOST_BYTES = 64 << 20
"""Bytes of a member, before it is compressed; what comes behind them is left out."""
_CHUNK = 1 << 20
_NO_UNNAMED_FILES = {errno.EOPNOTSUPP, errno.EISDIR, errno.ENOENT, errno.EINVAL}


class BundleArchive:
    """Adds members to a stream."""

    def __init__(self, stream: IO[bytes], when: int) -> None:
        """Write to a stream. when: the time of all members, in seconds since the epoch."""
        self._compressed = zstd.ZstdFile(stream, "wb")
        self._tar = tarfile.open(  # noqa: SIM115 - `close` ends it
            fileobj=cast("IO[bytes]", self._compressed), mode="w", format=tarfile.PAX_FORMAT
        )
        self._when = when

    def add(self, name: str, content: Iterable[bytes]) -> tuple[int, bool]:
        """Add a member; return its size, and whether it was cut at MOST_BYTES."""
        held, size, cut = io.BytesIO(), 0, False
        with zstd.ZstdFile(held, "wb") as compressed:
            for part in content:
                if size + len(part) > MOST_BYTES:
                    cut = True
                    break
                size += len(part)
                compressed.write(part)
        held.seek(0)
        member = tarfile.TarInfo(name)
        member.size, member.mtime, member.mode = size, self._when, 0o600
        with zstd.ZstdFile(held) as again:
            self._tar.addfile(member, io.BufferedReader(cast("io.RawIOBase", again), _CHUNK))
        return size, cut

    def close(self) -> None:
        """Write the end."""
        self._tar.close()
        self._compressed.close()


@contextmanager
def new_file(path: Path) -> Iterator[IO[bytes]]:
    """Yield a file without a name; it gets its own at the end, unless there was an error. Raises HostError.

    Where the file system has no such files, it has another name until then, which is removed after an error.
    """
    if os.path.lexists(path):
        raise HostError(f"{path} exists; name another file, or remove it")
    with _written(path):
        try:
            number, name = os.open(path.parent, os.O_TMPFILE | os.O_RDWR | os.O_CLOEXEC, 0o600), None
        except OSError as error:
            if error.errno not in _NO_UNNAMED_FILES or not path.parent.is_dir():
                raise
            name = path.with_name(f".{path.name}.{os.getpid()}")
            number = os.open(name, os.O_CREAT | os.O_EXCL | os.O_RDWR | os.O_CLOEXEC, 0o600)
        try:
            with os.fdopen(number, "wb") as file:
                yield file
                file.flush()
                os.fsync(file.fileno())
                if name is not None:
                    name.rename(path)
                else:
                    # With src_dir_fd it is linkat(2), which follows the link of /proc; it refuses a name that exists.
                    os.link(f"/proc/self/fd/{file.fileno()}", path, src_dir_fd=file.fileno())
        finally:
            if name is not None:
                name.unlink(missing_ok=True)


@contextmanager
def standard_output() -> Iterator[IO[bytes]]:
    """Yield stdout. Raises HostError where that is a terminal."""
    if sys.stdout.isatty():
        raise HostError(
            "stdout is a terminal, which can't show an archive; write it to a file: nfagent bundle - > FILE"
        )
    yield sys.stdout.buffer
    with suppress(BrokenPipeError):
        sys.stdout.buffer.flush()


@contextmanager
def _written(path: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        if isinstance(error, BrokenPipeError):
            raise
        raise HostError(
            f"{path} can't be written: {error.strerror or error}", hint="name a FILE in a folder with room for it"
        ) from None
