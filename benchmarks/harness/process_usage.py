"""Measures CPU seconds and resident memory of a process, from /proc, and times calls one by one."""

from __future__ import annotations

import gc
import os
import re
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TypeVar

import msgspec

_T = TypeVar("_T")
_TICKS = os.sysconf("SC_CLK_TCK")


class Usage(msgspec.Struct):
    """Usage between two moments: seconds of wall time and of CPU time."""

    seconds: float = 0.0
    cpu_seconds: float = 0.0

    @property
    def cores(self) -> float:
        """CPU seconds per second."""
        return self.cpu_seconds / self.seconds if self.seconds else 0.0


@contextmanager
def metered(pid: int | None = None) -> Iterator[Usage]:
    """Yield a usage that is filled when the block ends: of this process, or another (to a hundredth of a second)."""
    usage = Usage()
    began, cpu = time.perf_counter(), _cpu_seconds(pid)
    try:
        yield usage
    finally:
        usage.seconds, usage.cpu_seconds = time.perf_counter() - began, _cpu_seconds(pid) - cpu


def rss_mib(pid: int | None = None) -> float:
    """Return the resident memory of this process or another, in MiB."""
    return _memory("VmRSS", pid)


def peak_rss_mib(pid: int | None = None) -> float:
    """Return the peak of resident memory since the process began, in MiB."""
    return _memory("VmHWM", pid)


def each(function: Callable[[_T], object], items: Iterable[_T], scale: float = 1e3) -> list[float]:
    """Call a function for every item; return how long each call took: in ms, or in seconds times `scale`.

    Python's garbage collector runs before, and not between calls.
    """
    clock = time.perf_counter
    taken: list[float] = []
    gc.collect()
    enabled = gc.isenabled()
    gc.disable()
    try:
        for item in items:
            began = clock()
            function(item)
            taken.append((clock() - began) * scale)
    finally:
        if enabled:
            gc.enable()
    return taken


def _cpu_seconds(pid: int | None) -> float:
    if pid is None:
        return time.process_time()
    # proc(5): fields 14 and 15 are utime and stime; the second field may hold blanks, but ends in the last bracket.
    fields = Path(f"/proc/{pid}/stat").read_text("ascii").rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / _TICKS


def _memory(field: str, pid: int | None) -> float:
    text = Path(f"/proc/{'self' if pid is None else pid}/status").read_text("utf-8")
    found = re.search(rf"^{field}:\s+(\d+) kB$", text, re.MULTILINE)
    return int(found[1]) / 1024 if found else 0.0
