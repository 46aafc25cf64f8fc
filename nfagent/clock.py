"""Clock protocols for code that depends on time, and the system clock, which the agent passes in."""

from __future__ import annotations

import asyncio
import time
from typing import Protocol


class MonotonicClock(Protocol):
    """Measures durations."""

    def monotonic(self) -> float:
        """Return seconds since an arbitrary start."""
        ...


class Clock(MonotonicClock, Protocol):
    """Measures durations and waits."""

    async def wait(self, event: asyncio.Event, seconds: float) -> bool:
        """Wait for an event, at most so many seconds; return whether it was set in time."""
        ...


class WallClock(Clock, Protocol):
    """Knows the time of day too."""

    def now_ns(self) -> int:
        """Return nanoseconds since the epoch."""
        ...


class SystemClock:
    """The clocks of this machine. Implements `WallClock`."""

    def monotonic(self) -> float:
        """Return seconds since an arbitrary start (CLOCK_MONOTONIC)."""
        return time.monotonic()

    def now_ns(self) -> int:
        """Return nanoseconds since the epoch (CLOCK_REALTIME)."""
        return time.time_ns()

    async def wait(self, event: asyncio.Event, seconds: float) -> bool:
        """Wait for an event, at most so many seconds; return whether it was set in time."""
        try:
            async with asyncio.timeout(seconds):
                return await event.wait()
        except TimeoutError:
            return False
