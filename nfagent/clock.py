"""The machine's clocks. Satisfies reconcile.Clock."""

from __future__ import annotations

import asyncio
import time


class SystemClock:
    """Real time."""

    def monotonic(self) -> float:
        """Give seconds from an arbitrary start."""
        return time.monotonic()

    def now_ns(self) -> int:
        """Give nanoseconds since the epoch."""
        return time.time_ns()

    async def wait(self, event: asyncio.Event, seconds: float) -> bool:
        """Wait for an event; tell whether it came in time."""
        try:
            async with asyncio.timeout(seconds):
                return await event.wait()
        except TimeoutError:
            return False
