"""Shares the event loop's time among long computations, so that policy changes are never delayed for long.

One computation runs at a time, for some milliseconds; then other tasks of the event loop run.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Generator, Iterator
from time import monotonic
from typing import TypeVar

SLICE_SECONDS = 0.003
"""The time for which a slice holds the event loop; its last step may exceed it. A policy change needs the loop some ten
times on its path to the kernel, and waits for a slice each time.
"""

_T = TypeVar("_T")


class TimeSlices:
    """Runs computations that are split into steps, one slice at a time."""

    def __init__(self, seconds: float = SLICE_SECONDS, clock: Callable[[], float] = monotonic) -> None:
        """Use slices of so many seconds of a monotonic clock."""
        self._seconds = seconds
        self._clock = clock
        self._lock = asyncio.Lock()

    async def slices(self, steps: Iterator[_T]) -> AsyncIterator[list[_T]]:
        """Run steps; yield the values of each slice as a list. Raises what the steps raise."""
        ended = False
        while not ended:
            async with self._lock:
                made, ended = self._one(steps)
                # While holding the lock: tasks that don't wait for a slice run first.
                await asyncio.sleep(0)
            yield made

    async def result(self, steps: Generator[object, None, _T]) -> _T:
        """Run all steps; return the generator's return value. Raises what the steps raise."""
        found: list[_T] = []

        def kept() -> Iterator[object]:
            found.append((yield from steps))

        async for _ in self.slices(kept()):
            pass
        return found[0]

    def _one(self, steps: Iterator[_T]) -> tuple[list[_T], bool]:
        """Run steps for one slice; return their values, and whether the steps have ended."""
        made: list[_T] = []
        start = self._clock()
        for step in steps:
            made.append(step)
            if self._clock() - start > self._seconds:
                return made, False
        return made, True
