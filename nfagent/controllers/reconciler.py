"""Newest state to transaction: what is wanted becomes what the kernel holds, and stays so.

A change acts at once; changes that come while a transaction is under way, or in a storm, go together into the
next one, so the newest state wins. After any refusal the kernel is read again: nothing is ever patched from memory.
What others change is put right as soon as it is told (`changed`), by a full comparison; there is one every `resync`
seconds besides, for what nobody can tell.

This module declares what a Kernel and a Clock must do, and knows no implementation of either.
"""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from collections.abc import Callable, Iterator
from typing import Protocol

import msgspec

from nfagent.clock import Clock
from nfagent.errors import HostError, KernelError, WireError
from nfagent.nftables.objects import Ruleset
from nfagent.nftables.transaction import AddTable, ChangeElements, Transaction

log = logging.getLogger(__name__)
_GATHER_SECONDS = 0.005
"""A storm's changes are gathered this long: far below what an event may wait, far above what a commit takes."""
_TURN_SECONDS = 0.01
"""How long the event loop is held while changes are worked out."""
_PREPARE_SECONDS = 1.0
"""After so much work the rest is done in one piece: events that come without end must not keep all of them back."""
_FIRST_RETRY = 0.1
_SHARE, _CREDIT = 0.05, 3.0
"""Others who change the table again and again have it compared for this share of the time, after so many seconds."""
_DOUBLINGS = 32
"""No float grows out of its range, however long a kernel refuses."""


class RulesetKernel(Protocol):
    """What holds rulesets."""

    async def read(self) -> Ruleset:
        """Read what is there now. Raises KernelError."""
        ...

    async def difference(self, wanted: Ruleset) -> Transaction:
        """Read what is there now, and give what would make it equal to `wanted`. Raises KernelError, MachineError."""
        ...

    async def apply(self, transaction: Transaction) -> None:
        """Take all of a transaction, or refuse all of it with a KernelError or a MachineError."""
        ...

    async def listed_otherwise(self, wanted: Ruleset, repair: Transaction) -> tuple[str, ...]:
        """Name what a repair, just committed, has written and is listed otherwise, where nobody else can have done it.

        From then on that listing counts as `wanted`, until either changes. Raises KernelError, MachineError.
        """
        ...


class DesiredRuleset(Protocol):
    """What says what the kernel must hold."""

    def prepare(self) -> Iterator[None]:
        """Work out in steps what `take` and `ruleset` would work out in one."""
        ...

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


class ChangeGuard(Protocol):
    """What says whether the kernel's table may be changed at all."""

    @property
    def doubts(self) -> bool:
        """Tell whether it has to see what the table holds."""
        ...

    def objection(self, held: Ruleset, wanted: Ruleset) -> str:
        """Say why the table must stay as it is; '' where it may be changed."""
        ...


class ReconcileStatus(msgspec.Struct):
    """How it stands.

    in_sync:      everything that was asked for is in the kernel
    transactions: committed so far       commands: in all of them
    failures:     in a row, since the last success; `last_error` is the latest of them, '' after success
    comparisons:  of the whole table with what is wanted
    drifts:       those of them that found what others had changed
    drift_by:     who the latest of these others was, '' where nobody knows
    worded:       objects that the kernel's listing words otherwise than they were written, as the last repair showed
    held:         why the table stays as it is, whatever changes; '' where it doesn't
    applied_at:   monotonic time of the last commit
    """

    in_sync: bool = False
    transactions: int = 0
    commands: int = 0
    failures: int = 0
    comparisons: int = 0
    drifts: int = 0
    drift_by: str = ""
    worded: tuple[str, ...] = ()
    held: str = ""
    last_error: str = ""
    applied_at: float = 0.0


class Reconciler:
    """Keeps one kernel equal to what is wanted."""

    def __init__(
        self,
        kernel: RulesetKernel,
        clock: Clock,
        wanted: DesiredRuleset,
        *,
        resync: float = 3600.0,
        retry_max: float = 30.0,
        on_sync: Callable[[], None] = lambda: None,
        on_hold: Callable[[], None] = lambda: None,
        guard: ChangeGuard | None = None,
    ) -> None:
        """Join a kernel and what says what it must hold.

        on_sync: called whenever they agree
        on_hold: called whenever `guard` has the table stay as it is
        """
        self.undivided = asyncio.Event()
        """Set at moments at which what is wanted may be taken: no batch of events is half in it."""
        self.undivided.set()
        self._kernel = kernel
        self._clock = clock
        self._wanted = wanted
        self._resync = resync
        self._retry_max = retry_max
        self._on_sync = on_sync
        self._on_hold = on_hold
        self._guard = guard
        self._woken = asyncio.Event()
        self._begun = False
        self._trusted = False
        self._agreed = False  # once, and since then no refusal: what differs then is somebody else's doing
        self._compared_at = 0.0
        self._credit = _CREDIT  # seconds, at `_compared_at`
        self._suspected = False  # of having been changed by somebody, by `_changer` where that is known
        self._changer = ""
        self._commits = deque([-_GATHER_SECONDS] * 2, maxlen=2)
        self.status = ReconcileStatus()

    def wake(self) -> None:
        """Say that what is wanted may have changed; the first time: that it is known what is wanted."""
        self._begun = True
        self._stir()

    def distrust(self) -> None:
        """Say that the kernel may hold something else than we think: read it before the next transaction."""
        self._trusted = False
        self._stir()

    def changed(self, by: str = "") -> None:
        """Say that somebody else changed the table: it is compared at once, or once it has credit again.

        by: who, in words, where that is known
        """
        self._suspected = True
        self._changer = by or self._changer
        self._stir()

    def compare_every(self, seconds: float) -> None:
        """Set the time between two full comparisons that nothing asks for."""
        if seconds != self._resync:
            self._resync = seconds
            self._stir()

    async def run(self) -> None:
        """Reconcile until cancelled; the first round waits for the first `wake`."""
        await self._woken.wait()
        while True:
            await self._breathe()
            await self._prepare()
            self._woken.clear()
            pause = await self.round()
            await self._clock.wait(self._woken, pause)

    def _stir(self) -> None:
        self.status.in_sync = False
        if self._begun:
            self._woken.set()

    async def _breathe(self) -> None:
        """Let a storm gather: the first two transactions of every five milliseconds go at once, what follows waits."""
        earlier = self._commits[0] + _GATHER_SECONDS - self._clock.monotonic()
        if earlier > 0:
            await self._clock.wait(asyncio.Event(), earlier)

    async def _prepare(self) -> None:
        """Work out in turns what is to be taken; return at a moment at which it may be taken."""
        await self.undivided.wait()
        spent, turn = 0.0, self._clock.monotonic()
        for _ in self._wanted.prepare():
            now = self._clock.monotonic()
            if now - turn > _TURN_SECONDS:
                spent += now - turn
                await asyncio.sleep(0)
                await self.undivided.wait()
                if spent > _PREPARE_SECONDS:
                    return
                turn = self._clock.monotonic()

    async def round(self) -> float:
        """Make the kernel equal to what is wanted now; give how long to wait when nothing else happens."""
        try:
            await self._reconcile()
        except (KernelError, HostError, WireError) as error:
            self._trusted = self._agreed = False
            self.status.failures += 1
            self.status.in_sync = False
            known, self.status.last_error = self.status.last_error, str(error)
            pause: float = min(_FIRST_RETRY * 2.0 ** min(self.status.failures - 1, _DOUBLINGS), self._retry_max)
            log.log(
                logging.DEBUG if known == str(error) else logging.ERROR,
                "the kernel refused (%d in a row), trying again in %.1f s, later each time: %s",
                self.status.failures,
                pause,
                error,
            )
            return pause
        if self.status.failures:
            log.info("mended: the kernel takes the rules again")
        self.status.failures = 0
        self.status.last_error = ""
        self.status.in_sync = not (self.status.held or self._woken.is_set() or self._suspected)
        if self.status.held:
            self._on_hold()
        else:
            self._on_sync()
        return max(0.0, self._due() - self._clock.monotonic())

    def _due(self) -> float:
        """Give the time of the next comparison."""
        return self._compared_at + (-self._credit / _SHARE if self._suspected else self._resync)

    def _compared(self, began: float) -> None:
        """Note that a comparison ended, and take what it took from the credit."""
        now = self._clock.monotonic()
        self._credit = min(_CREDIT, self._credit + (began - self._compared_at) * _SHARE) - (now - began)
        self._compared_at = now
        self.status.comparisons += 1

    @property
    def trusted(self) -> bool:
        """Tell whether the kernel was compared since somebody last distrusted it."""
        return self._trusted

    async def _is_held(self) -> bool:
        """Tell whether the table stays as it is; it is read to find out, once, and then as often as it is compared.

        What changes meanwhile gathers in what is wanted, and is part of the comparison that ends this.
        """
        was = self.status.held
        if self._guard is None or not self._guard.doubts:
            self.status.held = ""
            self._trusted = self._trusted and not was
            return False
        if was and self._trusted and self._clock.monotonic() < self._due():
            return True
        self._trusted, self._suspected = True, False
        began = self._clock.monotonic()
        held = self.status.held = self._guard.objection(await self._kernel.read(), self._wanted.ruleset())
        self._compared(began)
        if not held:
            self._trusted = False
        elif held != was:
            log.error("nothing is changed in the kernel: %s", held)
        return bool(held)

    async def _reconcile(self) -> None:
        if await self._is_held():
            self._agreed = False
            return
        if self._trusted and self._clock.monotonic() < self._due():
            await self._commit(self._wanted.take())
            return
        # Before the kernel is asked: who distrusts or changes it meanwhile has it asked once more.
        self._trusted, self._suspected = True, False
        changer, self._changer = self._changer, ""
        began = self._clock.monotonic()
        # What is wanted now is compared; what changes meanwhile is a change to it, and taken next.
        untouched = self._agreed and not self._wanted.touched
        wanted = self._wanted.ruleset()
        self._wanted.settle()
        transaction = await self._kernel.difference(wanted)
        self._compared(began)
        if transaction and untouched and changer:
            self._note_drift(changer, len(transaction))
        doubts = self._wanted.distrusted() if transaction else ()
        await self._commit(transaction + doubts)
        self._agreed = True
        if transaction and untouched and not changer:
            if self._suspected or isinstance(transaction[0], AddTable):
                # No wording: the table was gone or asleep, or somebody has just changed it again, which can't wait.
                self._note_drift("", len(transaction))
            else:
                await self._look_for_words(wanted, transaction, doubts)

    async def _look_for_words(self, wanted: Ruleset, repair: Transaction, doubts: Transaction) -> None:
        """Blame somebody unknown for a difference only where it isn't nft's own way to list what was written."""
        wording = await self._kernel.listed_otherwise(wanted, _without(repair, doubts))
        if wording:
            self.status.worded = wording
            log.warning(
                "listed otherwise than written, though nobody else changed it: %s; taken as equal until that changes",
                ", ".join(wording),
            )
        else:
            self._note_drift("", len(repair))

    def _note_drift(self, changer: str, commands: int) -> None:
        self.status.drifts += 1
        self.status.drift_by = changer
        words = "1 command" if commands == 1 else f"{commands} commands"
        log.warning("the table was changed by %s; putting it right with %s", changer or "somebody else", words)

    async def _commit(self, transaction: Transaction) -> None:
        if transaction:
            await self._kernel.apply(transaction)
            self.status.transactions += 1
            self.status.commands += len(transaction)
            self.status.applied_at = self._clock.monotonic()
            self._commits.append(self.status.applied_at)


def _without(repair: Transaction, doubts: Transaction) -> Transaction:
    """Leave out what writes to a set that `doubts` writes to as well: that isn't as it was wanted before."""
    doubted = {command.set for command in doubts if isinstance(command, ChangeElements)}
    return tuple(command for command in repair if not (isinstance(command, ChangeElements) and command.set in doubted))
