"""Events into the wanted state, in turns: however many come at once, the event loop is never held for long.

A batch that takes longer than a turn is taken in several. What was taken by the end of a turn goes to the kernel
while the rest is still being taken: no event waits for the end of a storm.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable
from typing import Protocol

from nfagent.cluster.model import Ref
from nfagent.ruleset.desired import Item

TURN_SECONDS = 0.01
"""How long the event loop is held at most, but for the event that ends a turn."""


class Clock(Protocol):
    """What time is."""

    def monotonic(self) -> float:
        """Give seconds from an arbitrary start."""
        ...


class Takes(Protocol):
    """What events go into."""

    def put(self, item: Item) -> bool:
        """Take in an object, new or changed."""
        ...

    def remove(self, ref: Ref) -> bool:
        """Drop an object."""
        ...


class Intake:
    """Takes batches of events, one batch after the other, in the order in which they were handed in.

    Until `open`, what was taken is part of something, and nobody is told of it.
    """

    def __init__(self, wanted: Takes, clock: Clock, wake: Callable[[], None]) -> None:
        """Join what events go into and who is told that some came."""
        self._wanted = wanted
        self._clock = clock
        self._wake = wake
        self._taking = asyncio.Lock()
        self._whole = False

    def open(self) -> None:
        """Say that everything was taken once: from now on each change is told at once."""
        self._whole = True
        self._wake()

    @property
    def busy(self) -> bool:
        """Tell whether some of what was handed in isn't taken yet."""
        return self._taking.locked()

    async def take(self, events: Iterable[Item | Ref]) -> None:
        """Take in a batch, and let everybody else have a turn now and then."""
        async with self._taking:
            turn, changed = self._clock.monotonic(), False
            try:
                for event in events:
                    # Most events are about what no rule looks at: nobody needs to be told of those.
                    changed |= self._wanted.remove(event) if isinstance(event, Ref) else self._wanted.put(event)
                    if self._clock.monotonic() - turn > TURN_SECONDS:
                        self._tell(changed=changed)
                        changed = False
                        await asyncio.sleep(0)
                        turn = self._clock.monotonic()
            finally:
                self._tell(changed=changed)

    def _tell(self, *, changed: bool) -> None:
        if self._whole and changed:
            self._wake()
