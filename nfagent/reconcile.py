"""Newest state to transaction: what is wanted becomes what the kernel holds, and stays so.

A change acts at once; changes that come while a transaction is under way, or in a storm, go together into the
next one, so the newest state wins. After any refusal the kernel is read again: nothing is ever patched from memory. A
full comparison every `resync` seconds finds what others changed.

This module declares what a Kernel and a Clock must do, and knows no implementation of either.
"""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from collections.abc import Callable
from typing import Protocol

import msgspec

from nfagent.errors import KernelError, WireError
from nfagent.ruleset.objects import Ruleset
from nfagent.ruleset.transaction import Transaction

log = logging.getLogger(__name__)
_GATHER_SECONDS = 0.005
"""A storm's changes are gathered this long: far below what an event may wait, far above what a commit takes."""
_FIRST_RETRY = 0.1
_DOUBLINGS = 32
"""No float grows out of its range, however long a kernel refuses."""


class Kernel(Protocol):
    """What holds rulesets."""

    async def difference(self, wanted: Ruleset) -> Transaction:
        """Read what is there now, and give what would make it equal to `wanted`. Raises KernelError."""
        ...

    async def apply(self, transaction: Transaction) -> None:
        """Take all of a transaction, or refuse all of it with a KernelError."""
        ...


class Wanted(Protocol):
    """What says what the kernel must hold."""

    def take(self) -> Transaction:
        """Give what changed since the last `take` or `settle`."""
        ...

    def settle(self) -> None:
        """Consider everything told."""
        ...

    def ruleset(self) -> Ruleset:
        """Give all that the kernel must hold now."""
        ...

    def distrusted(self) -> Transaction:
        """Give what has every live connection judged again: for a kernel that let pass nobody knows what."""
        ...

    @property
    def touched(self) -> bool:
        """Tell whether `take` has something to give."""
        ...


class Clock(Protocol):
    """What time is."""

    def monotonic(self) -> float:
        """Give seconds from an arbitrary start."""
        ...

    async def wait(self, event: asyncio.Event, seconds: float) -> bool:
        """Wait for an event; tell whether it came in time."""
        ...


class ReconcileStatus(msgspec.Struct):
    """How it stands.

    in_sync:      everything that was asked for is in the kernel
    transactions: committed so far       commands: in all of them
    failures:     in a row, since the last success; `last_error` is the latest of them, '' after success
    drifts:       full comparisons that found what others had changed
    applied_at:   monotonic time of the last commit
    """

    in_sync: bool = False
    transactions: int = 0
    commands: int = 0
    failures: int = 0
    drifts: int = 0
    last_error: str = ""
    applied_at: float = 0.0


class Reconciler:
    """Keeps one kernel equal to what is wanted."""

    def __init__(
        self,
        kernel: Kernel,
        clock: Clock,
        wanted: Wanted,
        *,
        resync: float = 60.0,
        retry_max: float = 30.0,
        on_sync: Callable[[], None] = lambda: None,
    ) -> None:
        """Join a kernel and what says what it must hold; `on_sync` is called whenever they agree."""
        self._kernel = kernel
        self._clock = clock
        self._wanted = wanted
        self._resync = resync
        self._retry_max = retry_max
        self._on_sync = on_sync
        self._woken = asyncio.Event()
        self._trusted = False
        self._agreed = False  # once, and since then no refusal: what differs then is somebody else's doing
        self._read_at = 0.0
        self._commits = deque([-_GATHER_SECONDS] * 2, maxlen=2)
        self.status = ReconcileStatus()

    def wake(self) -> None:
        """Say that what is wanted may have changed."""
        self.status.in_sync = False
        self._woken.set()

    def distrust(self) -> None:
        """Say that the kernel may hold something else than we think: read it before the next transaction."""
        self._trusted = False
        self.wake()

    async def run(self) -> None:
        """Reconcile until cancelled; the first round waits for the first `wake`."""
        await self._woken.wait()
        while True:
            await self._breathe()
            self._woken.clear()
            pause = await self.round()
            if not await self._clock.wait(self._woken, pause) and not self.status.failures:
                self._trusted = False

    async def _breathe(self) -> None:
        """Let a storm gather: the first two transactions of every five milliseconds go at once, what follows waits."""
        earlier = self._commits[0] + _GATHER_SECONDS - self._clock.monotonic()
        if earlier > 0:
            await self._clock.wait(asyncio.Event(), earlier)

    async def round(self) -> float:
        """Make the kernel equal to what is wanted now; give how long to wait when nothing else happens."""
        try:
            await self._reconcile()
        except (KernelError, WireError) as error:
            self._trusted = self._agreed = False
            self.status.failures += 1
            self.status.in_sync = False
            self.status.last_error = str(error)
            pause: float = min(_FIRST_RETRY * 2.0 ** min(self.status.failures - 1, _DOUBLINGS), self._retry_max)
            log.error(
                "the kernel refused (%d in a row), trying again in %.1f s: %s", self.status.failures, pause, error
            )
            return pause
        self.status.failures = 0
        self.status.last_error = ""
        self.status.in_sync = not self._woken.is_set()
        self._on_sync()
        return max(0.0, self._read_at + self._resync - self._clock.monotonic())

    async def _reconcile(self) -> None:
        if self._trusted:
            await self._commit(self._wanted.take())
            return
        self._trusted = True  # before the kernel is asked: distrust that comes meanwhile asks once more
        # What is wanted now is compared; what changes meanwhile is a change to it, and taken next.
        untouched = self._agreed and not self._wanted.touched
        wanted = self._wanted.ruleset()
        self._wanted.settle()
        transaction = await self._kernel.difference(wanted)
        self._read_at = self._clock.monotonic()
        if untouched and transaction:
            self.status.drifts += 1
            log.warning("the table is not as nfagent left it; putting it right with %d commands", len(transaction))
        if transaction:
            transaction += self._wanted.distrusted()
        await self._commit(transaction)
        self._agreed = True

    async def _commit(self, transaction: Transaction) -> None:
        if transaction:
            await self._kernel.apply(transaction)
            self.status.transactions += 1
            self.status.commands += len(transaction)
            self.status.applied_at = self._clock.monotonic()
            self._commits.append(self.status.applied_at)
