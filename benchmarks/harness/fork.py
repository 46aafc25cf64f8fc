"""Calls a function in a forked process, whose memory isn't the caller's."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable


def in_fork(work: Callable[[], None], problem: str) -> None:
    """Call a function in a fork of this process, and wait for its end. Raises SystemExit(problem) where it fails."""
    child = os.fork()
    if child == 0:
        try:
            work()
        except BaseException:  # noqa: BLE001 - the exit status reports it to the parent
            sys.excepthook(*sys.exc_info())
            os._exit(1)
        os._exit(0)
    _, status = os.waitpid(child, 0)
    if status:
        raise SystemExit(problem)
