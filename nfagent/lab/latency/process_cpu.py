"""CPU time of other processes, and waiting until they rest."""

from __future__ import annotations

import time
from collections.abc import Iterable

# include/linux/posix-timers_types.h: the id of a process's clock, as clock_getcpuclockid(3) returns it.
_CPUCLOCK_SCHED = 2
_LOOK_SECONDS = 0.001
_QUIET_CPU_SECONDS = 0.0002
_TIMEOUT_SECONDS = 3.0


def cpu_seconds(pid: int) -> float:
    """Return the CPU seconds of a process, also of threads that have ended, to the nanosecond."""
    return time.clock_gettime((~pid << 3) | _CPUCLOCK_SCHED)


def wait_until_quiet(pids: Iterable[int], seconds: float) -> None:
    """Wait until processes use no CPU for so many seconds; at most three seconds in all."""
    watched = list(pids)
    end = time.monotonic() + _TIMEOUT_SECONDS
    since, used = time.monotonic(), sum(map(cpu_seconds, watched))
    while (now := time.monotonic()) < end and now - since < seconds:
        time.sleep(_LOOK_SECONDS)
        found = sum(map(cpu_seconds, watched))
        if found - used > _QUIET_CPU_SECONDS:
            since, used = now, found
