"""A cgroup with a memory limit, of either version; skips where the machine has none that can be made."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from uuid import uuid4

import pytest

_ROOT = Path("/sys/fs/cgroup")
_END_SECONDS = 10.0


class MemoryCgroup:
    """One cgroup. What a process allocates after it was moved in counts, and what its children do."""

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

    def limit(self, mebibytes: int) -> None:
        """Limit the memory of its processes."""
        (self.folder / self._limit).write_text(str(mebibytes << 20))


@contextmanager
def memory_cgroup() -> Iterator[MemoryCgroup]:
    """Make a cgroup, and remove it with its processes."""
    version_1 = (_ROOT / "memory" / "cgroup.procs").exists()
    if not (version_1 or "memory" in _readable(_ROOT / "cgroup.subtree_control").split()):
        pytest.skip("no cgroup with the memory controller can be made here")
    folder = (_ROOT / "memory" if version_1 else _ROOT) / f"nfagent-test-{uuid4().hex[:8]}"
    try:
        folder.mkdir()
    except OSError as error:
        pytest.skip(f"no cgroup with the memory controller can be made here: {error}")
    try:
        yield MemoryCgroup(folder, "memory.limit_in_bytes" if version_1 else "memory.max")
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
