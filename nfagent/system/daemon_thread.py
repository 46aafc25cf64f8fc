"""A daemon thread for blocking calls, so that a disk that never responds doesn't delay the agent's exit."""

from __future__ import annotations

import asyncio
import queue
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from typing import TypeVar

from nfagent.system.threads import start_daemon

_T = TypeVar("_T")


class DaemonThread:
    """One thread, started with the first call."""

    def __init__(self, name: str) -> None:
        """Store the thread's name; the first call starts it."""
        self._name = name
        self._calls: queue.SimpleQueue[Callable[[], None]] = queue.SimpleQueue()
        self._started = False

    def run(self, call: Callable[[], _T]) -> asyncio.Future[_T]:
        """Queue a call for the thread; return a future with its result, OSError where the thread can't be started."""
        loop = asyncio.get_running_loop()
        result: asyncio.Future[_T] = loop.create_future()

        def answer(setter: Callable[[], None]) -> None:
            if not result.done():
                setter()

        def work() -> None:
            setter: Callable[[], None]
            try:
                setter = partial(result.set_result, call())
            except Exception as error:  # noqa: BLE001 - raised in the caller
                setter = partial(result.set_exception, error)
            with suppress(RuntimeError):  # the event loop has ended meanwhile
                loop.call_soon_threadsafe(answer, setter)

        try:
            if not self._started:
                start_daemon(self._work, self._name)
                self._started = True
            self._calls.put(work)
        except OSError as error:
            result.set_exception(error)
        return result

    def _work(self) -> None:
        while True:
            self._calls.get()()
