"""Interrupts that wait for the end of a block: a process that is being started is noted before anybody ends it."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager

_INTERRUPTS = (signal.SIGINT, signal.SIGTERM)


@contextmanager
def held_back() -> Iterator[None]:
    """Have Ctrl-C and SIGTERM take effect at the end of the block, as they would have before.

    Only the main thread is interrupted at all; in every other one this does nothing. Programs that are started in the
    block have the usual handlers.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    came: list[int] = []
    before = {number: signal.signal(number, lambda seen, _frame: came.append(seen)) for number in _INTERRUPTS}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
        if came:
            signal.raise_signal(came[0])
