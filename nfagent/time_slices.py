"""Turns of long answers: the event loop has other things to do, of which policy comes first.

Of all answers that are being made one works at a time, for some milliseconds; then everybody else has a turn.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Generator, Iterator
from time import monotonic
from typing import TypeVar

TURN_SECONDS = 0.003
"""How long the event loop is held at most, but for the step that ends a turn. A policy that is written meanwhile needs
the loop some ten times on its way to the kernel, and waits for such a turn each time.
"""

_T = TypeVar("_T")


class TimeSlices:
    """Shares the event loop among all that is done in steps."""

    def __init__(self, seconds: float = TURN_SECONDS, clock: Callable[[], float] = monotonic) -> None:
        """Give turns of so many seconds, by that clock."""
        self._seconds = seconds
        self._clock = clock
        self._turn = asyncio.Lock()

    async def taken(self, steps: Iterator[_T]) -> AsyncIterator[list[_T]]:
        """Give what steps give, as much as a turn makes at a time. Raises what they raise."""
        ended = False
        while not ended:
            async with self._turn:
                made, ended = self._one(steps)
                # With the turn still ours: who waits for one comes after everybody who doesn't.
                await asyncio.sleep(0)
            yield made

    async def result(self, steps: Generator[object, None, _T]) -> _T:
        """Take all steps, and give what they return. Raises what they raise."""
        found: list[_T] = []

        def kept() -> Iterator[object]:
            found.append((yield from steps))

        async for _ in self.taken(kept()):
            pass
        return found[0]

    def _one(self, steps: Iterator[_T]) -> tuple[list[_T], bool]:
        """Take steps for one turn; tell also whether there are no more."""
        made: list[_T] = []
        start = self._clock()
        for step in steps:
            made.append(step)
            if self._clock() - start > self._seconds:
                return made, False
        return made, True
