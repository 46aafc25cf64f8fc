"""Logs what happens to policies, and what the agent waits for.

A change has its line within a fraction of a second; in a storm there is one look a second, and one line for many. What
the agent waits for is logged every minute, for as long as it waits.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable

from nfagent.clock import Clock
from nfagent.controllers.policy_changes import PolicyChanges
from nfagent.model.plurals import counted
from nfagent.time_slices import TimeSlices

log = logging.getLogger(__name__)
_SETTLE_SECONDS = 0.2
"""After a change, what comes with it is awaited for so long, and its commit: a few milliseconds mostly."""

_PAUSE_SECONDS = 0.8
_WAIT_SECONDS = 60.0


class PolicyChangeLog:
    """Writes a line for each change of a policy."""

    def __init__(
        self,
        changes: PolicyChanges,
        clock: Clock,
        policies: Callable[[], int],
        in_force: Callable[[], bool],
        time_slices: TimeSlices,
    ) -> None:
        """Store the arguments.

        policies: returns the number of policies
        in_force: returns whether the kernel has all changes
        time_slices: in which many changes are looked through
        """
        self._changes = changes
        self._time_slices = time_slices
        self._clock = clock
        self._policies = policies
        self._in_force = in_force
        self._changed = asyncio.Event()
        self.idle = asyncio.Event()
        """Set while nothing waits to be written."""
        self.idle.set()
        self._known = 0

    def begin(self) -> None:
        """Write changes from now on: everything was read once."""
        self._known = self._policies()
        self._changes.begin()

    def note(self) -> None:
        """Write what changed soon; to be called after changes."""
        if self._changes.pending:
            self._changed.set()
            self.idle.clear()

    async def run(self) -> None:
        """Write lines until cancelled."""
        while True:
            await self._changed.wait()
            await self._clock.wait(asyncio.Event(), _SETTLE_SECONDS)
            self._changed.clear()
            await self.write()
            self.idle.set()
            await self._clock.wait(asyncio.Event(), _PAUSE_SECONDS)

    async def write(self) -> None:
        """Write what changed since the last call."""
        lines = await self._time_slices.result(self._changes.lines())
        pending = "" if self._in_force() else "; not in force yet"
        for line in lines:
            log.info("%s%s", line, pending)
        before, self._known = self._known, self._policies()
        if before and not self._known:
            log.warning("no policy is left, of %d before: none isolates a Pod of this node%s", before, pending)


class WaitLog:
    """Writes every minute what the agent waits for, and since when."""

    def __init__(self, clock: Clock, waiting_for: Callable[[], str]) -> None:
        """Store the arguments. waiting_for: returns what the agent waits for; '' for nothing."""
        self._clock = clock
        self._waiting_for = waiting_for
        self._since: float | None = clock.monotonic()

    async def run(self) -> None:
        """Write until cancelled."""
        while True:
            await self._clock.wait(asyncio.Event(), _WAIT_SECONDS)
            self.look()

    def look(self) -> None:
        """Write what the agent waits for now."""
        found, now = self._waiting_for(), self._clock.monotonic()
        if not found:
            self._since = None
            return
        if self._since is None:
            # Something that began since the last look: a wait is one that lasts from one look to the next.
            self._since = now
            return
        log.warning("still waiting for %s; for %s now", found, _duration(now - self._since))


def _duration(seconds: float) -> str:
    minutes = max(1, round(seconds / 60))
    return counted(minutes, "minute") if minutes < 120 else counted(minutes // 60, "hour")
