"""Applies events to the desired state in 10 ms slices, so that a large batch never holds the event loop.

A batch that takes longer is applied in several slices. Pods of a finished slice are committed while the rest is being
applied: no event waits for the end of a burst, and a Pod takes effect independently of others.

Other objects of a batch take effect in one transaction: policies in one file or list belong together, and the last may
allow what the others deny. Meanwhile other commits wait, well below a second for 10,000 policies; the rules are
computed once, at the end of the batch.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable
from typing import Protocol

from nfagent.clock import MonotonicClock
from nfagent.controllers.sync_latency import SyncLatency
from nfagent.model.gvk import Item
from nfagent.model.objects import ObjectRef, Pod

SLICE_SECONDS = 0.01
"""The time for which a slice holds the event loop; its last event may exceed it."""

ATOMIC_SECONDS = 0.1
"""How long Pods wait for the rest of a batch with other objects; a folder may have 150,000 Pods."""


class EventTarget(Protocol):
    """The state that events change."""

    def put(self, item: Item) -> bool:
        """Add or replace an object; return whether the desired ruleset may have changed."""
        ...

    def remove(self, ref: ObjectRef) -> bool:
        """Remove an object; return whether the desired ruleset may have changed."""
        ...


class EventApplier:
    """Applies batches of events one after the other, in order of arrival.

    Before `open` the state is incomplete, and `wake` isn't called.
    """

    def __init__(
        self,
        wanted: EventTarget,
        clock: MonotonicClock,
        wake: Callable[[], None],
        undivided: asyncio.Event | None = None,
        latency: SyncLatency | None = None,
    ) -> None:
        """Connect the state with the callback for changes.

        undivided: cleared while a batch that must take effect as a whole is half applied
        latency:   learns when the events of a change came
        """
        self._wanted = wanted
        self._undivided = undivided or asyncio.Event()
        self._undivided.set()
        self._clock = clock
        self._wake = wake
        self._latency = latency or SyncLatency()
        self._lock = asyncio.Lock()
        self._complete = False

    def open(self) -> None:
        """Mark the state as complete and call `wake`; from now on each change calls it."""
        self._complete = True
        self._wake()

    @property
    def busy(self) -> bool:
        """Return whether a batch is not fully applied."""
        return self._lock.locked()

    async def apply(self, events: Iterable[Item | ObjectRef], received: float | None = None) -> None:
        """Apply a batch, and yield to the event loop after each slice.

        received: monotonic seconds at which the source was told of the changes; now where None
        """
        arrived = self._clock.monotonic()
        received = arrived if received is None else received
        async with self._lock:
            began = slice_began = self._clock.monotonic()
            changed = False
            try:
                for event in events:
                    alone = _is_pod(event)
                    if not alone:
                        self._undivided.clear()
                    # Most events change nothing that a rule matches: no commit for those.
                    changed |= self._wanted.remove(event) if isinstance(event, ObjectRef) else self._wanted.put(event)
                    now = self._clock.monotonic()
                    if now - slice_began <= SLICE_SECONDS:
                        continue
                    if alone and (self._undivided.is_set() or now - began > ATOMIC_SECONDS):
                        self._notify(arrived, received, changed=changed)
                        changed = False
                    await asyncio.sleep(0)
                    slice_began = self._clock.monotonic()
            finally:
                self._notify(arrived, received, changed=changed)

    def _notify(self, arrived: float, received: float, *, changed: bool) -> None:
        self._undivided.set()
        if self._complete and changed:
            self._latency.event(arrived)
            self._latency.trace.decoded(received, self._clock.monotonic())
            self._wake()


def _is_pod(event: Item | ObjectRef) -> bool:
    """Return whether an event is about a Pod."""
    return event.kind == "Pod" if isinstance(event, ObjectRef) else isinstance(event, Pod)
