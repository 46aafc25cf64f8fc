"""Ends a process whose threads hang.

Python joins the threads of its executors at exit, and a thread that reads a file of a server that doesn't respond
stays in the kernel.
"""

from __future__ import annotations

import logging
import os
import threading
import time
from contextlib import suppress

log = logging.getLogger(__name__)
STOP_SECONDS = 10.0
"""Less than the unit's TimeoutStopSec, after which systemd sends SIGKILL and reports a failed unit."""


def exit_within(seconds: float = STOP_SECONDS) -> None:
    """Start a thread that ends this process after so many seconds, if it still runs.

    Where no thread can be started, there is no time limit.
    """
    with suppress(RuntimeError):
        threading.Thread(target=_end_after, args=(seconds,), name="end-within", daemon=True).start()


def _end_after(seconds: float) -> None:
    time.sleep(seconds)
    log.error("stopped: threads did not end in time; the rules stay in force")
    for found in logging.getLogger().handlers:
        found.flush()
    os._exit(0)
