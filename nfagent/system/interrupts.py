"""Interrupts of a block of a command: SIGTERM and SIGHUP as Ctrl-C, or all of them deferred to its end."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

_INTERRUPTS = (signal.SIGINT, signal.SIGTERM)
_ENDS = (signal.SIGTERM, signal.SIGHUP)


@contextmanager
def interrupting() -> Iterator[None]:
    """Raise KeyboardInterrupt on SIGTERM and SIGHUP too, so that a block cleans up as after Ctrl-C."""
    before = {number: signal.signal(number, _interrupt) for number in _ENDS}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _interrupt(_number: int, _frame: FrameType | None) -> None:
    raise KeyboardInterrupt


@contextmanager
def deferred_interrupts() -> Iterator[None]:
    """Defer SIGINT and SIGTERM, within `interrupting` SIGHUP too, to the end of the block; then their handlers run.

    Signal handlers run in the main thread only; in every other thread this does nothing. Processes that are started in
    the block have the default handlers.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    deferred: list[int] = []
    # Elsewhere SIGHUP may be ignored, as by nohup; a process that is started in the block has to inherit that.
    hangup = (signal.SIGHUP,) if signal.getsignal(signal.SIGHUP) is _interrupt else ()
    numbers = (*_INTERRUPTS, *hangup)
    before = {number: signal.signal(number, lambda seen, _frame: deferred.append(seen)) for number in numbers}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
        if deferred:
            signal.raise_signal(deferred[0])
