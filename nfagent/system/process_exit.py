"""The end of a process that something hangs in: threads that wait for a disk are joined by nobody.

Python waits for the threads of its executors when it ends, and a thread that reads a file of a server that doesn't
answer stays in the kernel for as long.
"""

from __future__ import annotations

import logging
import os
import threading
import time
from contextlib import suppress

log = logging.getLogger(__name__)
STOP_SECONDS = 10.0
"""Less than the unit's TimeoutStopSec: what comes then is SIGKILL, and a unit that failed."""


def end_within(seconds: float = STOP_SECONDS) -> None:
    """Have this process end by then, whatever it waits for; it ends earlier where nothing hangs.

    Where no thread can be started, it ends when nothing hangs.
    """
    with suppress(RuntimeError):
        threading.Thread(target=_end_after, args=(seconds,), name="end-within", daemon=True).start()


def _end_after(seconds: float) -> None:
    time.sleep(seconds)
    log.error("stopped without waiting any longer for threads that don't end; the rules stay in force")
    for found in logging.getLogger().handlers:
        found.flush()
    os._exit(0)
