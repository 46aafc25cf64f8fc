"""CPU time that work has taken, with the programs that were run for it."""

from __future__ import annotations

import resource
import time


def process_cpu_seconds() -> float:
    """Return the CPU time of this process, and of the programs that it ran."""
    return time.process_time() + _programs()


def thread_cpu_seconds() -> float:
    """Return the CPU time of this thread, and of the programs that the process ran."""
    return time.thread_time() + _programs()


def _programs() -> float:
    found = resource.getrusage(resource.RUSAGE_CHILDREN)
    return found.ru_utime + found.ru_stime
