"""Full garbage collections at intervals, which empty CPython's free lists.

Memory of tuples, lists and frames that are gone is kept for the next ones: of tuples alone 2,000 for each length up to
20. Only a full collection gives it back. The interpreter makes one after millions of new objects (gc_tuning), and until
then the blocks between which these lie can't be used for anything else.
"""

from __future__ import annotations

import asyncio
import gc
import time
from collections.abc import Callable

from nfagent.clock import Clock

SECONDS = 60.0
_MOST_COLLECTIONS = 10
"""Collections of the young generations since the last full one, 10,000 new objects each, beyond which a full one could
take more than 20 ms: then the interpreter's own has to come."""

_LONG_SECONDS = 0.005
"""CPU seconds of a collection after which the objects that are left are taken out of later ones."""


class GarbageCollections:
    """Collects in the event loop, for milliseconds."""

    def __init__(self, clock: Clock, cpu_seconds: Callable[[], float] = time.thread_time) -> None:
        """Set the clock; cpu_seconds: returns the CPU time of this thread."""
        self._clock = clock
        self._cpu_seconds = cpu_seconds
        self._young = _young_collections()

    async def run(self) -> None:
        """Collect until it is cancelled."""
        never = asyncio.Event()
        while True:
            await self._clock.wait(never, SECONDS)
            self.collect()

    def collect(self) -> bool:
        """Collect, unless there may be too much new; return whether it was done."""
        before, self._young = self._young, _young_collections()
        if self._young - before > _MOST_COLLECTIONS:
            return False
        began = self._cpu_seconds()
        gc.collect()
        if self._cpu_seconds() - began > _LONG_SECONDS:
            gc.freeze()
        return True


def _young_collections() -> int:
    return sum(generation["collections"] for generation in gc.get_stats()[:2])
