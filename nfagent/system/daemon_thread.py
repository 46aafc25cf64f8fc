"""A daemon thread for blocking calls, so that a disk that never responds doesn't delay the agent's exit."""

from __future__ import annotations

import asyncio
import queue
import threading
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from typing import TypeVar

_T = TypeVar("_T")


class DaemonThread:
    """One thread, started with the first call."""

    def __init__(self, name: str) -> None:
        """Store the thread's name; the first call starts it."""
        self._name = name
        self._calls: queue.SimpleQueue[Callable[[], None]] = queue.SimpleQueue()
        self._started = False

    def run(self, call: Callable[[], _T]) -> asyncio.Future[_T]:
        """Queue a call for the thread; return a future with its result."""
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

        if not self._started:
            threading.Thread(target=self._work, name=self._name, daemon=True).start()
            self._started = True
        self._calls.put(work)
        return result

    def _work(self) -> None:
        while True:
            self._calls.get()()
