"""A cgroup with a limit of memory or of threads, of either version; skips where none can be made."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, suppress
from pathlib import Path
from uuid import uuid4

import pytest

_ROOT = Path("/sys/fs/cgroup")
_END_SECONDS = 10.0


class LimitedCgroup:
    """One cgroup. What a process allocates, or starts, after it was moved in counts, and what its children do."""

    def __init__(self, folder: Path, limit: str) -> None:
        self.folder = folder
        self._limit = limit

    @property
    def join(self) -> list[str]:
        """The command line before one that runs in the cgroup."""
        return ["sh", "-c", f'echo $$ >"{self.folder}/cgroup.procs" && exec "$0" "$@"']

    def move(self, process: int) -> None:
        """Move a process into the cgroup."""
        (self.folder / "cgroup.procs").write_text(str(process))

    def limit(self, most: int) -> None:
        """Limit what its processes have: bytes, or threads. Those that are there already stay."""
        (self.folder / self._limit).write_text(str(most))


def memory_cgroup() -> AbstractContextManager[LimitedCgroup]:
    """Make a cgroup whose limit is one of bytes, and remove it with its processes."""
    return _cgroup("memory", "memory.limit_in_bytes", "memory.max")


def thread_cgroup() -> AbstractContextManager[LimitedCgroup]:
    """Make a cgroup whose limit is one of threads, and remove it with its processes."""
    return _cgroup("pids", "pids.max", "pids.max")


@contextmanager
def _cgroup(controller: str, limit_1: str, limit_2: str) -> Iterator[LimitedCgroup]:
    version_1 = (_ROOT / controller / "cgroup.procs").exists()
    if not (version_1 or controller in _readable(_ROOT / "cgroup.subtree_control").split()):
        pytest.skip(f"no cgroup with the controller {controller} can be made here")
    folder = (_ROOT / controller if version_1 else _ROOT) / f"nfagent-test-{uuid4().hex[:8]}"
    try:
        folder.mkdir()
    except OSError as error:
        pytest.skip(f"no cgroup with the controller {controller} can be made here: {error}")
    try:
        yield LimitedCgroup(folder, limit_1 if version_1 else limit_2)
    finally:
        _end(folder)


def _readable(path: Path) -> str:
    return path.read_text() if path.exists() else ""


def _end(folder: Path) -> None:
    """Kill what is left in a cgroup, and remove it; the kernel takes a moment to let go of ended processes."""
    end = time.monotonic() + _END_SECONDS
    while True:
        for process in (folder / "cgroup.procs").read_text().split():
            with suppress(ProcessLookupError):
                os.kill(int(process), signal.SIGKILL)
        try:
            folder.rmdir()
        except OSError:
            if time.monotonic() > end:
                raise
        else:
            return
