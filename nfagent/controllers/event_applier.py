"""Events into the wanted state, in turns: however many come at once, the event loop is never held for long.

A batch that takes longer than a turn is taken in several. Pods that were taken by the end of a turn go to the kernel
while the rest is still being taken: no event waits for the end of a storm, and each Pod is judged for itself.

Anything else of a batch takes effect at once, in one transaction: policies that came together, in a file or a list,
are meant together, and the last may allow what the others deny. That holds other changes up for as long as it takes to
note the batch, well below a second for 10,000 policies; what they mean is worked out once, at its end.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable
from typing import Protocol

from nfagent.clock import MonotonicClock
from nfagent.model.gvk import Item
from nfagent.model.objects import ObjectRef, Pod

TURN_SECONDS = 0.01
"""How long the event loop is held at most, but for the event that ends a turn."""

TOGETHER_SECONDS = 0.1
"""How long Pods wait for the rest of a batch that holds other objects too; a folder may hold 150,000 of them."""


class EventSlices(Protocol):
    """What events go into."""

    def put(self, item: Item) -> bool:
        """Take in an object, new or changed."""
        ...

    def remove(self, ref: ObjectRef) -> bool:
        """Drop an object."""
        ...


class EventApplier:
    """Takes batches of events, one batch after the other, in the order in which they were handed in.

    Until `open`, what was taken is part of something, and nobody is told of it.
    """

    def __init__(
        self,
        wanted: EventSlices,
        clock: MonotonicClock,
        wake: Callable[[], None],
        undivided: asyncio.Event | None = None,
    ) -> None:
        """Join what events go into and who is told that some came.

        undivided: set but while a batch is taken in part that takes effect as a whole
        """
        self._wanted = wanted
        self._undivided = undivided or asyncio.Event()
        self._undivided.set()
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

    async def take(self, events: Iterable[Item | ObjectRef]) -> None:
        """Take in a batch, and let everybody else have a turn now and then."""
        async with self._taking:
            began = turn = self._clock.monotonic()
            changed = False
            try:
                for event in events:
                    alone = _is_pod(event)
                    if not alone:
                        self._undivided.clear()
                    # Most events are about what no rule looks at: nobody needs to be told of those.
                    changed |= self._wanted.remove(event) if isinstance(event, ObjectRef) else self._wanted.put(event)
                    now = self._clock.monotonic()
                    if now - turn <= TURN_SECONDS:
                        continue
                    if alone and (self._undivided.is_set() or now - began > TOGETHER_SECONDS):
                        self._tell(changed=changed)
                        changed = False
                    await asyncio.sleep(0)
                    turn = self._clock.monotonic()
            finally:
                self._tell(changed=changed)

    def _tell(self, *, changed: bool) -> None:
        self._undivided.set()
        if self._whole and changed:
            self._wake()


def _is_pod(event: Item | ObjectRef) -> bool:
    """Tell whether an event is about a Pod."""
    return event.kind == "Pod" if isinstance(event, ObjectRef) else isinstance(event, Pod)
