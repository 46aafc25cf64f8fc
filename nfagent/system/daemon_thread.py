"""A thread for calls that block: a daemon, so that a disk that never answers doesn't hold up the agent's end."""

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
    """One thread, which is started with the first call."""

    def __init__(self, name: str) -> None:
        """Name it; nothing is started yet."""
        self._name = name
        self._calls: queue.SimpleQueue[Callable[[], None]] = queue.SimpleQueue()
        self._started = False

    def run(self, call: Callable[[], _T]) -> asyncio.Future[_T]:
        """Have something called in the thread, after what was asked before."""
        loop = asyncio.get_running_loop()
        result: asyncio.Future[_T] = loop.create_future()

        def answer(setter: Callable[[], None]) -> None:
            if not result.done():
                setter()

        def work() -> None:
            setter: Callable[[], None]
            try:
                setter = partial(result.set_result, call())
            except Exception as error:  # noqa: BLE001 - the caller's, whatever it is
                setter = partial(result.set_exception, error)
            with suppress(RuntimeError):  # the loop has ended meanwhile: nobody waits
                loop.call_soon_threadsafe(answer, setter)

        if not self._started:
            threading.Thread(target=self._work, name=self._name, daemon=True).start()
            self._started = True
        self._calls.put(work)
        return result

    def _work(self) -> None:
        while True:
            self._calls.get()()
