"""Keeps the kernel's ruleset equal to the desired ruleset.

A change is committed at once. Changes during a transaction, or in a burst, are committed together in the next one, so
the newest state wins. After a refusal the kernel is read again: nothing is patched from memory. Changes by other
programs are repaired on notification (`mark_changed`), by a full comparison. A comparison every `resync` seconds finds
changes without a notification. Where a program changes the table again and again, `drift_backoff` spaces the repairs.

`reconciler_protocols` declares what it needs; the module imports no implementation of them.
"""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from collections.abc import Callable

from nfagent.clock import Clock
from nfagent.controllers.comparison_budget import ComparisonBudget
from nfagent.controllers.drift_backoff import MAX_SPACING, DriftBackoff, DriftTotals, TableContest
from nfagent.controllers.reconcile_status import ReconcileStatus
from nfagent.controllers.reconciler_protocols import ChangeGuard, CommitObserver, DesiredRuleset, RulesetKernel
from nfagent.controllers.sync_latency import SyncLatency
from nfagent.errors import HostError, KernelError, WireError
from nfagent.model.plurals import counted
from nfagent.nftables.objects import Ruleset
from nfagent.nftables.transaction import AddTable, ChangeElements, Transaction
from nfagent.system.watchdog import RoundProgress

log = logging.getLogger(__name__)
_DEBOUNCE_SECONDS = 0.005
"""Changes of a burst are collected for so long: far below the latency limit of an event, far above a commit's time."""
_SLICE_SECONDS = 0.01
"""The time for which computing changes holds the event loop."""
_PREPARE_SECONDS = 1.0
"""After so much time the rest is computed without a break: an endless stream of events must not delay all commits."""
_FIRST_RETRY = 0.1
_DOUBLINGS = 32
"""Keeps the backoff within the range of a float."""


class Reconciler:
    """Keeps the ruleset of one kernel equal to the desired one."""

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
        """Connect a kernel with the desired ruleset.

        resync:    seconds between two full comparisons
        retry_max: the longest pause after a failure, in seconds
        on_sync:   called after each round that ends in sync
        on_hold:   called after each round in which `guard` forbids changes
        guard:     decides whether the table may be changed; None for always
        """
        self.undivided = asyncio.Event()
        """Set while the desired ruleset is consistent: no batch of events is half applied."""
        self.undivided.set()
        self._kernel = kernel
        self._clock = clock
        self._wanted = wanted
        self._resync = resync
        self.retry_max = retry_max
        self._on_sync = on_sync
        self._on_hold = on_hold
        self._guard = guard
        self.rules = "table inet nfagent"  # what is reconciled, for messages
        self.unjudged = False  # an earlier process may have changed rules, and judged no connection by them
        self._observer: CommitObserver | None = None
        self._woken = asyncio.Event()
        self._begun = False
        self._trusted = False
        self._agreed = False  # in sync since the last failure: a difference is then another program's change
        self._budget = ComparisonBudget()
        self.spent, self._spent_then = clock.monotonic, 0.0  # by which comparisons are paid; when the last one ended
        self._drifted = False  # changed by another program, `_changer` where it is known
        self._drifted_at = 0.0  # when that was heard first
        self._changer = self._changer_unit = ""
        self.backoff = DriftBackoff()  # of table bridge nfagent too
        self._refused = False  # the last round was; the table may be repaired no sooner than `backoff` says
        self._anew = False  # the kernel refused a repair while another program changed the table
        self._commits = deque([-_DEBOUNCE_SECONDS] * 2, maxlen=2)
        self.status = ReconcileStatus()
        self.latency = SyncLatency()
        self.progress = RoundProgress()

    def wake(self) -> None:
        """Reconcile soon: the desired ruleset may have changed. The first call starts the reconciler."""
        self.latency.event(self._clock.monotonic())
        self._begun = True
        self._wake()

    def observe_commits(self, observer: CommitObserver) -> None:
        """Report every round that may change the kernel's table to an observer, at its begin and after its commit."""
        self._observer = observer

    def invalidate(self) -> None:
        """Mark the last comparison as outdated: the kernel is read before the next transaction."""
        self._trusted = False
        self._wake()

    def mark_changed(self, by: str = "", unit: str = "") -> None:
        """Report a change of the table by another program: it is compared at once, or when there is credit again.

        by:   the name of the program, '' for an unknown one
        unit: its systemd unit or cgroup, '' for an unknown one
        """
        if not self._drifted:
            self._drifted_at = self._clock.monotonic()
        self._drifted = True
        if by and not self._changer:
            self._changer, self._changer_unit = by, unit
        self._wake()

    @property
    def is_marked(self) -> bool:
        """Return whether a change by another program was reported and not compared yet."""
        return self._drifted

    @property
    def contest(self) -> TableContest | None:
        """Return which program keeps changing the table, None where none does."""
        return self.backoff.contest(self._clock.monotonic())

    @property
    def drift_totals(self) -> DriftTotals:
        """Return what happened by other programs' changes since the start."""
        return self.backoff.totals(self._clock.monotonic())

    @property
    def next_repair_in(self) -> float:
        """Return the seconds after which the table may be repaired again; 0 for at once."""
        now = self._clock.monotonic()
        return max(0.0, self._repairable_at() - now)

    def log_contest(self) -> None:
        """Log a contest that goes on, and the end of one; to be called about once a minute."""
        now = self._clock.monotonic()
        ended, goes_on = self.backoff.ended(now), self.backoff.contest(now)
        if ended is not None:
            log.info("resolved: no program contests %s any more; at last %s", self.rules, ended)
        if goes_on is not None:
            log.warning("%s; repairs are spaced by %g s or more", goes_on, goes_on.spacing)

    def compare_every(self, seconds: float) -> None:
        """Set the seconds between two full comparisons without a notification."""
        if seconds != self._resync:
            self._resync = seconds
            self._wake()

    async def run(self) -> None:
        """Reconcile until cancelled; the first round follows the first `wake`."""
        await self._woken.wait()
        while True:
            self.progress.begin(self._clock.monotonic())
            await self._debounce()
            await self._prepare()
            self._woken.clear()
            pause = await self.round()
            self.progress.end()
            await self._clock.wait(self._woken, pause)

    def _wake(self) -> None:
        self.status.in_sync = False
        if self._begun:
            self._woken.set()

    async def _debounce(self) -> None:
        """Delay a burst: two transactions in five milliseconds are committed at once, the next one waits."""
        pause = self._commits[0] + _DEBOUNCE_SECONDS - self._clock.monotonic()
        if pause > 0:
            await self._clock.wait(asyncio.Event(), pause)

    async def _prepare(self) -> None:
        """Compute pending changes in slices; return while the desired ruleset is consistent."""
        await self.undivided.wait()
        spent, began = 0.0, self._clock.monotonic()
        self.latency.begin(began)
        for _ in self._wanted.prepare():
            now = self._clock.monotonic()
            if now - began > _SLICE_SECONDS:
                spent += now - began
                await asyncio.sleep(0)
                await self.undivided.wait()
                if spent > _PREPARE_SECONDS:
                    return
                began = self._clock.monotonic()

    async def round(self) -> float:
        """Reconcile once; return the seconds until the next round without an event."""
        if self._refused and self.contest is not None and (wait := self.next_repair_in) > 0:
            self.status.in_sync = False
            return wait
        try:
            await self._reconcile()
        except (KernelError, HostError, WireError) as error:
            self._anew = not self._anew and (self._drifted or self.contest is not None)
            self._trusted = self._agreed = False
            self._refused = True
            self.status.failures += 1
            self.status.failed += 1
            self.status.in_sync = False
            known, self.status.last_error = self.status.last_error, str(error)
            contested = self.contest is not None
            longest = min(MAX_SPACING, self.retry_max) if contested else self.retry_max
            pause: float = min(_FIRST_RETRY * 2.0 ** min(self.status.failures - 1, _DOUBLINGS), longest)
            level = logging.DEBUG if contested or known == str(error) else logging.ERROR
            words = "cannot reconcile %s (failures=%d): %s; retrying in %.1f s"
            log.log(level, words, self.rules, self.status.failures, error, pause)
            return pause
        if self.status.failures:
            level = logging.INFO if self.contest is None else logging.DEBUG
            log.log(level, "resolved: %s is reconciled again", self.rules)
        if self.status.failures or self.status.applied_at > self.status.in_sync_at or not self.status.in_sync_at:
            self.status.in_sync_at = self._clock.monotonic()
        self._refused = self._anew = False
        self.status.failures = 0
        self.status.last_error = ""
        self.status.in_sync = not (self.status.held or self._woken.is_set() or self._drifted)
        if self.status.held:
            self._on_hold()
        else:
            self._on_sync()
        return max(0.0, self._due() - self._clock.monotonic())

    def _due(self) -> float:
        """Return the monotonic time of the next comparison."""
        return self._repairable_at() if self._drifted else self._budget.compared_at + self._resync

    def _repairable_at(self) -> float:
        """Return the monotonic time from which changes by other programs may be compared and repaired."""
        return max(self._budget.next_comparison(), self.backoff.next_repair(self._clock.monotonic()))

    def _compared(self, began: float, spent: float) -> None:
        """Record the end of a comparison. spent: what was spent at its begin."""
        self._spent_then = self.spent()
        self._budget.compared(began, self._clock.monotonic(), self._spent_then - spent)
        self.status.comparisons += 1

    @property
    def compared(self) -> bool:
        """Return whether the kernel was compared since the last `invalidate`."""
        return self._trusted

    async def _is_held(self) -> bool:
        """Return whether the guard forbids changes; the table is read for it, as often as it would be compared.

        Changes meanwhile stay pending; the comparison that ends the hold includes them.
        """
        was = self.status.held
        if self._guard is None or not self._guard.must_check:
            self.status.held = ""
            self._trusted = self._trusted and not was
            return False
        if was and self._trusted and self._clock.monotonic() < self._due():
            return True
        self._trusted, self._drifted = True, False
        began, spent = self._clock.monotonic(), self.spent()
        held = self.status.held = self._guard.hold_reason(await self._kernel.read(), self._wanted.ruleset())
        self._compared(began, spent)
        if not held:
            self._trusted = False
        elif held != was:
            log.error("%s stays unchanged: %s", self.rules, held)
        return bool(held)

    async def _reconcile(self) -> None:
        if await self._is_held():
            self._agreed = False
            self.latency.discard()
            return
        self._cover()
        if self._trusted and self._clock.monotonic() < self._due():
            changes = self._wanted.drain_changes()
            self.latency.computed(self._clock.monotonic())
            await self._commit(changes)
            return
        refused = await self._commit_before_comparison()
        # Before the kernel is read: a change during the reading causes another comparison.
        self._trusted, drifted, self._drifted = True, self._drifted, False
        changer, unit = self._changer, self._changer_unit
        self._changer = self._changer_unit = ""
        drifted_at, began, spent = self._drifted_at, self._clock.monotonic(), self.spent()
        # The current desired ruleset is compared; later changes stay pending for the next transaction.
        agreed, pending = self._agreed, refused or self._wanted.dirty
        wanted = self._wanted.ruleset()
        self.latency.computed(self._clock.monotonic())
        self._wanted.mark_synced()
        reading = self._clock.monotonic()
        # A listing starts over at each commit of another program: while one commits all the time, it takes seconds.
        contest = self.contest
        anew = self._anew or (drifted and contest is not None and contest.spacing > 0)
        transaction = await self._kernel.difference(wanted, anew=anew)
        self._compared(began, spent)
        self.latency.measured("compare", self._budget.compared_at - reading)
        # Without a pending change a difference is a drift. An absent or dormant table is one in any case.
        is_table_gone = bool(transaction) and isinstance(transaction[0], AddTable)
        is_drift = bool(transaction) and (
            (agreed and (is_table_gone or not pending)) or (is_table_gone and bool(changer or contest))
        )
        if is_drift and changer:
            self._note_drift(changer, len(transaction))
        recheck = self._wanted.recheck_all() if transaction or self.unjudged else ()
        await self._commit(transaction + recheck)
        self._agreed, self.unjudged = True, False
        if not is_drift:
            return
        repaired = self._clock.monotonic()
        self._budget.repaired(self.spent() - self._spent_then)
        if not changer:
            # A table that was changed once more, or that was gone, is no listing variant.
            if not (self._drifted or is_table_gone) and await self._is_variant(wanted, transaction, recheck):
                return
            self._note_drift("", len(transaction))
        exposed = repaired - drifted_at if drifted else 0.0
        if self.backoff.repaired(repaired, program=changer, unit=unit, exposed=exposed):
            log.warning("%s; from now on repairs are spaced by up to %g s", self.contest, MAX_SPACING)

    def _cover(self) -> None:
        """Note that what is committed next has all changes until now."""
        self.latency.cover(self._clock.monotonic())
        if self._observer is not None:
            self._observer.cover()

    async def _commit_before_comparison(self) -> bool:
        """Commit pending changes where another program's change was reported: what differs then is that change alone.

        Return whether the kernel refuses them, as it may by that change. The comparison has them, too.
        """
        if not (self._drifted and self._trusted and self._agreed and self._wanted.dirty):
            return False
        changes = self._wanted.drain_changes()
        self.latency.computed(self._clock.monotonic())
        refused = False
        try:
            await self._commit(changes)
        except (KernelError, WireError):
            refused = True
        self._cover()
        return refused

    async def _is_variant(self, wanted: Ruleset, repair: Transaction, recheck: Transaction) -> bool:
        """Return whether what was written is only listed differently (a listing variant); it is logged and accepted."""
        variants = await self._kernel.accept_variants(wanted, _without(repair, recheck))
        if variants:
            self.status.variants = variants
            log.warning(
                "%s: listed differently than they were written: %s; accepted as equal until they change",
                self.rules,
                ", ".join(variants),
            )
        return bool(variants)

    def _note_drift(self, changer: str, commands: int) -> None:
        self.status.drifts += 1
        self.status.drift_by = changer
        log.log(
            logging.WARNING if self.contest is None else logging.DEBUG,
            "%s changed by %s; repairing it with %s",
            self.rules,
            changer or "another program",
            counted(commands, "command"),
        )

    async def _commit(self, transaction: Transaction) -> None:
        await self._apply(transaction)
        if self._observer is not None:
            self._observer.committed()

    async def _apply(self, transaction: Transaction) -> None:
        if not transaction:
            self.latency.discard()
            return
        began = self._clock.monotonic()
        await self._kernel.apply(transaction)
        self.status.transactions += 1
        self.status.commands += len(transaction)
        self.status.applied_at = self._clock.monotonic()
        self._commits.append(self.status.applied_at)
        self.latency.measured("commit", self.status.applied_at - began)
        self.latency.committed(self.status.applied_at)


def _without(repair: Transaction, recheck: Transaction) -> Transaction:
    """Return a repair without the sets that `recheck` changes: these differ from `wanted` on purpose."""
    rechecked = {command.set for command in recheck if isinstance(command, ChangeElements)}
    return tuple(item for item in repair if not (isinstance(item, ChangeElements) and item.set in rechecked))
