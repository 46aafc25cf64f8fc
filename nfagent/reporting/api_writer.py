"""Writes what is due to the API server, one piece after the other: the loop that all writers share."""

from __future__ import annotations

import asyncio
from abc import ABC, abstractmethod
from collections.abc import Callable

from nfagent.clock import WallClock
from nfagent.reporting.request_retrier import RequestRetrier

MAX_WAIT = 3600.0
"""Longest time between two looks at what is due, in seconds."""


class ApiWriter(ABC):
    """A writer of one purpose; after a failed request it waits as its retrier says."""

    def __init__(
        self, retrier: RequestRetrier, clock: WallClock, jitter: Callable[[], float], is_leader: Callable[[], bool]
    ) -> None:
        """Start with nothing to write.

        jitter:    returns a random number, 0 to 1
        is_leader: whether this agent is leader now
        """
        self.retrier = retrier
        self._clock = clock
        self._jitter = jitter
        self._is_leader = is_leader
        self._wakeup = asyncio.Event()

    @property
    def problem(self) -> str:
        """Why what is to be written can't be; '' where it can, or nothing is."""
        return self.retrier.problem if self._has_work else ""

    def wake(self) -> None:
        """Look at once what is due: it, or the leader, may have changed."""
        self._wakeup.set()

    async def run(self) -> None:
        """Write what is due, until cancelled."""
        while True:
            self._wakeup.clear()
            pause = self.retrier.delay()
            if pause <= 0.0:
                pause = await self._write_next()
            if pause > 0.0:
                await self._clock.wait(self._wakeup, min(pause, MAX_WAIT))

    @property
    @abstractmethod
    def _has_work(self) -> bool:
        """Whether this agent has anything to write, now or later."""

    @abstractmethod
    async def _write_next(self) -> float:
        """Write the next piece, if one is due, and return 0 or less; otherwise return the seconds until one may be."""
