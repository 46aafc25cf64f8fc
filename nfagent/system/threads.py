"""Starts threads where their number may be limited: by TasksMax of the service, pids.max of a container, or pid_max.

The agent starts those that its work always needs when it starts. So a limit that is reached later, as by a Pod that
forks without end, stops none of it.
"""

from __future__ import annotations

import asyncio
import errno
import os
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress

from nfagent.errors import HostError
from nfagent.system.background_task import note_failed_callback

POOL_THREADS = min(32, (os.cpu_count() or 1) + 4)
"""Of the event loop's executor, for calls that block: as many as asyncio would start one by one."""

_REFUSED = "cannot start a thread; see TasksMax, pid_max"


def start_daemon(call: Callable[[], object], name: str) -> threading.Thread:
    """Start a daemon thread. Raises OSError where the limit is reached: Python's own error is a RuntimeError."""
    thread = threading.Thread(target=call, name=name, daemon=True)
    try:
        thread.start()
    except RuntimeError:
        raise OSError(errno.EAGAIN, _REFUSED) from None
    return thread


def started_executor(threads: int, name: str) -> ThreadPoolExecutor:
    """Return an executor that has started its threads; by itself it would start each when it is needed.

    Raises HostError where the limit is reached.
    """
    executor = ThreadPoolExecutor(max_workers=threads, thread_name_prefix=name)
    begin = threading.Barrier(threads + 1)
    try:
        for _ in range(threads):
            executor.submit(begin.wait)  # each waits, so the next call needs another thread
    except RuntimeError:
        begin.abort()
        executor.shutdown(cancel_futures=True)
        raise HostError(_REFUSED) from None
    begin.wait()
    return executor


class AgentLoop(asyncio.SelectorEventLoop):
    """An event loop that remembers which callbacks failed, and ends without a thread more."""

    def __init__(self) -> None:
        """Make an event loop."""
        super().__init__()
        self.set_exception_handler(note_failed_callback)

    async def shutdown_default_executor(self, *arguments: float) -> None:
        """Wait for the calls in threads, where the thread that waits for them can be started."""
        with suppress(RuntimeError):
            await super().shutdown_default_executor(*arguments)
