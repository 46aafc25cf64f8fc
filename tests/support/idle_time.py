"""An event loop whose time passes while nothing happens, or where a test says so.

What is ready is done first, however long a process waits for the processor: so no deadline of a server or client in the
loop passes before the bytes that would keep it were read.
"""

from __future__ import annotations

import asyncio
import selectors
from collections.abc import Coroutine
from typing import Any, TypeVar

_T = TypeVar("_T")


class _CountingSelector(selectors.EpollSelector):
    """Counts the seconds for which it waited in vain."""

    waited = 0.0

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        found = super().select(timeout)
        if not found and timeout is not None:
            self.waited += max(0.0, timeout)
        return found


class IdleTimeLoop(asyncio.SelectorEventLoop):
    """An event loop with such a time."""

    def __init__(self) -> None:
        self._counting = _CountingSelector()
        self._skipped = 0.0
        super().__init__(self._counting)

    def time(self) -> float:
        return self._counting.waited + self._skipped

    async def hurry(self) -> None:
        """Let a second pass in each turn, until cancelled."""
        while True:
            self._skipped += 1.0
            await asyncio.sleep(0)


def run_in_idle_time(body: Coroutine[Any, Any, _T]) -> _T:
    """Run a coroutine in such a loop, as asyncio.run does."""
    with asyncio.Runner(loop_factory=IdleTimeLoop) as runner:
        return runner.run(body)


async def hurrying(awaited: Coroutine[Any, Any, _T]) -> _T:
    """Return what a coroutine returns, while time passes for all that waits in the running loop."""
    loop = asyncio.get_running_loop()
    assert isinstance(loop, IdleTimeLoop)
    passing = asyncio.create_task(loop.hurry())
    try:
        return await awaited
    finally:
        passing.cancel()
        await asyncio.wait([passing])
