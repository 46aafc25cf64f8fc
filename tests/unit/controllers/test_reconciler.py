"""The reconciler with a desired ruleset, a kernel that may be slow or refuse, and other programs' changes."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Iterator
from contextlib import asynccontextmanager
from typing import Any, TypeAlias

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nfagent.controllers.drift_backoff import MAX_SPACING
from nfagent.controllers.reconcile_status import ReconcileStatus
from nfagent.controllers.reconciler import Reconciler
from nfagent.errors import KernelError, WireError
from nfagent.nftables.diff import diff
from nfagent.nftables.objects import ABSENT, Chain, Goto, NamedSet, Rule, Ruleset
from nfagent.nftables.transaction import AddTable, ChangeElements, Delete, Transaction
from tests.support.fake_nftables import FakeNftables, Refused

TURNS = 30
"""Turns of the event loop after which all callbacks have run."""
RESYNC = 60.0
RETRY_MAX = 1.0


def holding(*addresses: str) -> Ruleset:
    return Ruleset({"peers4/x": NamedSet("address", 4, frozenset(addresses))})


IMPOSSIBLE = Ruleset(holding("10.0.0.9").sets, chains={"egress/shop/db": Chain((Rule(verdict=Goto("nowhere")),))})
"""A set that the kernel accepts, and a rule that it refuses."""


class SlowKernel:
    """A fake of the RulesetKernel protocol. `gate` delays calls; `faults` refuses the next ones."""

    def __init__(self, ruleset: Ruleset = ABSENT) -> None:
        self.fake = FakeNftables(ruleset)
        self.gate = asyncio.Event()
        self.gate.set()
        self.faults = 0
        self.fault: Exception = KernelError("netlink: Device or resource busy")
        self.reads = 0
        self.replacements = 0
        self.worded = 0
        self.reading: Callable[[], None] = lambda: None
        self.applying: Callable[[], None] = lambda: None
        self.tried: list[Transaction] = []

    async def read(self) -> Ruleset:
        self.reads += 1
        await self.gate.wait()
        self.reading()
        self._fail()
        return self.fake.ruleset

    async def difference(self, wanted: Ruleset, *, anew: bool = False) -> Transaction:
        current = await self.read()
        if anew:
            self.replacements += 1
            return (AddTable(), Delete("table"), *diff(ABSENT, wanted))
        return diff(current, wanted)

    async def apply(self, transaction: Transaction) -> None:
        self.tried.append(transaction)
        await self.gate.wait()
        self.applying()
        self._fail()
        try:
            self.fake.apply(transaction)
        except Refused as refusal:
            raise KernelError(str(refusal)) from None

    async def accept_variants(self, wanted: Ruleset, repair: Transaction) -> tuple[str, ...]:  # noqa: ARG002
        self.worded += 1
        return ()

    def _fail(self) -> None:
        if self.faults:
            self.faults -= 1
            raise self.fault


class FakeClock:
    """A clock that a test advances; by `tick` at each look too."""

    def __init__(self) -> None:
        self.now = 1000.0
        self.tick = 0.0
        self.pauses: list[float] = []

    def monotonic(self) -> float:
        self.now += self.tick
        return self.now

    async def wait(self, event: asyncio.Event, seconds: float) -> bool:
        self.pauses.append(seconds)
        deadline = self.now + seconds
        while not event.is_set() and self.now < deadline:  # noqa: ASYNC110 - the test moves the clock
            await asyncio.sleep(0)
        return event.is_set()


class FakeRuleset:
    """Implements reconciler.DesiredRuleset. `recheck` is the transaction that re-checks all connections."""

    def __init__(self, wanted: Ruleset) -> None:
        self.wanted = wanted
        self.asked = 0
        self.rechecks = 0
        self.recheck: Transaction = ()
        self._synced = ABSENT

    def prepare(self) -> Iterator[None]:
        yield from ()

    def drain_changes(self) -> Transaction:
        self.asked += 1
        before, self._synced = self._synced, self.wanted
        return diff(before, self.wanted)

    def mark_synced(self) -> None:
        self._synced = self.wanted

    def ruleset(self) -> Ruleset:
        self.asked += 1
        return self.wanted

    def recheck_all(self) -> Transaction:
        self.rechecks += 1
        return self.recheck

    @property
    def dirty(self) -> bool:
        return self._synced != self.wanted


class FakeGuard:
    """Implements reconciler.ChangeGuard: objects while a test sets a reason."""

    def __init__(self) -> None:
        self.must_check = False
        self.reason = ""

    def hold_reason(self, held: Ruleset, wanted: Ruleset) -> str:
        self.must_check = bool(self.reason)
        return self.reason if held != wanted else ""


class ReconcilerSetup:
    """A running reconciler with its fakes."""

    def __init__(self, kernel: SlowKernel, wanted: Ruleset) -> None:
        self.kernel = kernel
        self.clock = FakeClock()
        self.desired = FakeRuleset(wanted)
        self.syncs: list[bool] = []
        self.holds = 0
        self.guard = FakeGuard()
        self.reconciler = Reconciler(
            kernel,
            self.clock,
            self.desired,
            resync=RESYNC,
            retry_max=RETRY_MAX,
            on_sync=self._sync,
            on_hold=self._hold,
            guard=self.guard,
        )

    @property
    def current(self) -> Ruleset:
        return self.kernel.fake.ruleset

    async def turn(self) -> None:
        for _ in range(TURNS):
            await asyncio.sleep(0)

    @property
    def wanted(self) -> Ruleset:
        return self.desired.wanted

    async def want(self, wanted: Ruleset) -> None:
        self.desired.wanted = wanted
        self.reconciler.wake()
        await self.turn()

    async def others_write(self, ruleset: Ruleset, by: str = "") -> None:
        """Change the table as another program, with a notification."""
        self.kernel.fake.ruleset = ruleset
        self.reconciler.mark_changed(by)
        await self.turn()

    async def passes(self, seconds: float) -> None:
        self.clock.now += seconds
        await self.turn()

    def object(self, reason: str) -> None:
        """Set the guard's reason; '' for none."""
        self.guard.reason, self.guard.must_check = reason, bool(reason)

    def _hold(self) -> None:
        self.holds += 1

    def _sync(self) -> None:
        self.syncs.append(self.reconciler.status.in_sync)


@asynccontextmanager
async def running(wanted: Ruleset, current: Ruleset = ABSENT, *, wake: bool = True) -> AsyncIterator[ReconcilerSetup]:
    stage = ReconcilerSetup(SlowKernel(current), wanted)
    task = asyncio.create_task(stage.reconciler.run())
    if wake:
        stage.reconciler.wake()
    await stage.turn()
    try:
        yield stage
        assert not task.done(), "the reconciler ended"
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


Scenario: TypeAlias = Callable[[], Coroutine[Any, Any, None]]


def scenario(body: Scenario) -> Callable[[], None]:
    """Return a test that runs a coroutine in an event loop."""

    def test() -> None:
        asyncio.run(body())

    test.__name__ = body.__name__
    return test


@scenario
async def test_nothing_is_read_or_written_before_the_first_wake() -> None:
    async with running(holding("10.0.0.1"), wake=False) as stage:
        await stage.passes(2 * RESYNC)
        assert (stage.kernel.reads, stage.desired.asked, stage.current) == (0, 0, ABSENT)
        stage.reconciler.wake()
        await stage.turn()
        assert stage.current == stage.wanted


@scenario
async def test_a_change_is_committed_at_once_and_alone() -> None:
    async with running(holding("10.0.0.1")) as stage:
        await stage.want(holding("10.0.0.1", "10.0.0.2"))
        assert stage.kernel.tried[1:] == [(ChangeElements("add", "peers4/x", ("10.0.0.2",)),)]
        assert stage.kernel.reads == 1, "the kernel is read at the start alone"


@scenario
async def test_changes_during_a_slow_commit_go_into_the_next_transaction_all_together() -> None:
    async with running(holding("10.0.0.1")) as stage:
        stage.kernel.gate.clear()
        await stage.want(holding("10.0.0.2"))
        await stage.want(holding("10.0.0.3"))
        await stage.want(holding("10.0.0.4", "10.0.0.5"))
        assert len(stage.kernel.tried) == 2, "one transaction at a time"
        assert not stage.reconciler.status.in_sync
        stage.kernel.gate.set()
        await stage.passes(0.05)
        assert len(stage.kernel.tried) == 3, "later changes are one transaction"
        assert stage.current == holding("10.0.0.4", "10.0.0.5"), "the newest state wins"
        assert stage.syncs == [True, False, True], "the commit in the middle was not of the newest"


@scenario
async def test_an_equal_state_commits_nothing_and_is_in_sync() -> None:
    async with running(holding("10.0.0.1"), current=holding("10.0.0.1")) as stage:
        await stage.want(holding("10.0.0.1"))
        assert stage.kernel.tried == []
        assert (stage.reconciler.status.in_sync, stage.reconciler.status.transactions, stage.syncs) == (
            True,
            0,
            [True, True],
        )


@scenario
async def test_the_first_round_changes_only_differences() -> None:
    async with running(holding("10.0.0.1", "10.0.0.2"), current=holding("10.0.0.1")) as stage:
        assert stage.kernel.tried == [(ChangeElements("add", "peers4/x", ("10.0.0.2",)),)]
        assert stage.reconciler.status.drifts == 0, "a difference left by an earlier agent is no drift"


@scenario
async def test_a_refused_transaction_changes_nothing_and_the_status_has_the_reason() -> None:
    async with running(IMPOSSIBLE) as stage:
        status = stage.reconciler.status
        assert stage.current == ABSENT
        assert (status.in_sync, status.failures, status.transactions, stage.syncs) == (False, 1, 0, [])
        assert status.last_error == "no chain nowhere for a rule of egress/shop/db"


@scenario
async def test_after_a_refusal_the_kernel_is_read_again_and_the_retry_succeeds() -> None:
    async with running(holding("10.0.0.1")) as stage:
        stage.kernel.faults = 1
        await stage.want(holding("10.0.0.2"))
        assert (stage.current, stage.reconciler.status.failures) == (holding("10.0.0.1"), 1)
        await stage.passes(stage.clock.pauses[-1])
        assert (stage.current, stage.kernel.reads) == (holding("10.0.0.2"), 2)
        assert (stage.reconciler.status.failures, stage.reconciler.status.last_error) == (0, "")


@scenario
async def test_pauses_between_tries_double_up_to_the_most_and_start_over_after_success() -> None:
    async with running(holding("10.0.0.1")) as stage:
        stage.clock.pauses.clear()
        stage.kernel.faults = 7
        await stage.want(holding("10.0.0.2"))
        for _ in range(7):
            await stage.passes(stage.clock.pauses[-1])
        assert stage.current == holding("10.0.0.2")
        stage.kernel.faults = 1
        await stage.want(holding("10.0.0.3"))
        assert stage.clock.pauses[:7] == pytest.approx([0.1, 0.2, 0.4, 0.8, 1.0, 1.0, 1.0])
        assert stage.clock.pauses[-1] == pytest.approx(0.1)


@scenario
async def test_a_change_does_not_wait_for_the_pause_after_a_refusal() -> None:
    async with running(IMPOSSIBLE) as stage:
        await stage.want(holding("10.0.0.1"))
        assert stage.current == holding("10.0.0.1")


@scenario
async def test_the_pause_stays_at_its_limit_after_a_thousand_refusals() -> None:
    stage = ReconcilerSetup(SlowKernel(), IMPOSSIBLE)
    for _ in range(1100):
        assert await stage.reconciler.round() <= RETRY_MAX
    stage.desired.wanted = holding("10.0.0.1")
    await stage.reconciler.round()
    assert stage.current == holding("10.0.0.1")


@scenario
async def test_drift_is_counted_and_repaired_at_the_next_comparison() -> None:
    async with running(holding("10.0.0.1")) as stage:
        stage.kernel.fake.ruleset = ABSENT
        await stage.passes(RESYNC - 1)
        assert (stage.current, stage.reconciler.status.drifts) == (ABSENT, 0)
        await stage.passes(1)
        assert (stage.current, stage.reconciler.status.drifts) == (holding("10.0.0.1"), 1)
        await stage.passes(RESYNC)
        assert stage.reconciler.status.drifts == 1, "a comparison that finds nothing counts nothing"
        assert stage.kernel.reads == 3


@scenario
async def test_a_reported_change_by_another_program_is_repaired_at_once_and_the_program_named() -> None:
    async with running(holding("10.0.0.1")) as stage:
        await stage.others_write(ABSENT, by="nft (process 4711)")
        status = stage.reconciler.status
        assert (stage.current, status.drifts, status.drift_by) == (holding("10.0.0.1"), 1, "nft (process 4711)")
        assert status.in_sync


@scenario
async def test_a_reported_change_is_repaired_at_once_on_a_clock_that_never_stands_still() -> None:
    async with running(holding("10.0.0.1")) as stage:
        stage.clock.tick = 1e-6
        await stage.others_write(ABSENT)
        await stage.passes(0.006)
        assert stage.current == holding("10.0.0.1")


@scenario
async def test_a_table_that_another_program_removed_is_a_drift_beside_pending_changes_too() -> None:
    async with running(holding("10.0.0.1")) as stage:
        stage.desired.wanted = holding("10.0.0.2")
        await stage.others_write(ABSENT, by="nft (process 4711)")
        status = stage.reconciler.status
        assert (stage.current, status.drifts, status.drift_by) == (holding("10.0.0.2"), 1, "nft (process 4711)")


@pytest.mark.parametrize(
    ("written", "drifts", "named"),
    [
        pytest.param(
            holding("10.0.0.9"), 1, "nft (process 4711)", id="that changes the table is a drift with its name"
        ),
        pytest.param(holding("10.0.0.1"), 0, "", id="without a difference is no drift"),
    ],
)
def test_a_commit_by_another_program_beside_pending_changes(written: Ruleset, drifts: int, named: str) -> None:
    async def body() -> None:
        async with running(holding("10.0.0.1")) as stage:
            stage.desired.wanted = holding("10.0.0.1", "10.0.0.2")
            await stage.others_write(written, by="nft (process 4711)")
            status = stage.reconciler.status
            assert (stage.current, status.drifts, status.drift_by) == (stage.desired.wanted, drifts, named)
            assert status.failures == 0

    asyncio.run(body())


@scenario
async def test_a_commit_by_another_program_without_a_difference_is_no_drift() -> None:
    async with running(holding("10.0.0.1")) as stage:
        await stage.others_write(holding("10.0.0.1"), by="nft (process 4711)")
        assert (stage.kernel.reads, stage.reconciler.status.drifts, stage.reconciler.status.drift_by) == (2, 0, "")


@pytest.mark.parametrize(
    ("current", "again", "classified"),
    [(holding("10.0.0.9"), False, 1), (ABSENT, False, 0), (holding("10.0.0.9"), True, 0)],
    ids=["another element", "no table at all", "changed once more meanwhile"],
)
def test_a_difference_is_checked_for_a_listing_variant_only_where_it_can_be_one(
    current: Ruleset, classified: int, *, again: bool
) -> None:
    async def body() -> None:
        async with running(holding("10.0.0.1")) as stage:

            def changed_again() -> None:
                stage.kernel.reading = lambda: None
                if again:
                    stage.reconciler.mark_changed("nft (process 4711)")

            stage.kernel.reading = changed_again
            await stage.others_write(current)
            assert (stage.current, stage.kernel.worded) == (holding("10.0.0.1"), classified)
            assert stage.reconciler.status.drifts == 1

    asyncio.run(body())


@scenario
async def test_an_earlier_program_is_not_named_for_a_later_drift_without_a_notification() -> None:
    async with running(holding("10.0.0.1")) as stage:
        await stage.others_write(ABSENT, by="nft (process 4711)")
        stage.kernel.fake.ruleset = ABSENT
        await stage.passes(RESYNC)
        assert (stage.reconciler.status.drifts, stage.reconciler.status.drift_by) == (2, "")


@scenario
async def test_a_reported_program_is_named_though_later_notifications_were_lost() -> None:
    async with running(holding("10.0.0.1")) as stage:
        stage.kernel.fake.ruleset = ABSENT
        stage.reconciler.mark_changed("nft (process 4711)")
        stage.reconciler.mark_changed()
        await stage.turn()
        assert stage.reconciler.status.drift_by == "nft (process 4711)"


def slow_to_read(stage: ReconcilerSetup, seconds: float) -> None:
    """Make each comparison take so many seconds."""
    stage.kernel.reading = lambda: setattr(stage.clock, "now", stage.clock.now + seconds)


@scenario
async def test_consecutive_changes_by_other_programs_are_each_repaired_at_once() -> None:
    async with running(holding("10.0.0.1")) as stage:
        slow_to_read(stage, 0.5)
        for reads in range(2, 8):
            await stage.others_write(ABSENT)
            assert (stage.current, stage.kernel.reads) == (holding("10.0.0.1"), reads)


@scenario
async def test_endless_changes_by_other_programs_cost_a_twentieth_of_the_time() -> None:
    async with running(holding("10.0.0.1")) as stage:
        slow_to_read(stage, 4.0)
        await stage.others_write(ABSENT)
        assert (stage.current, stage.kernel.reads) == (holding("10.0.0.1"), 2)
        for reads, pause in ((3, 20.0), (4, 80.0), (5, 80.0)):
            await stage.others_write(ABSENT)
            await stage.passes(pause - 1)
            assert (stage.current, stage.kernel.reads) == (ABSENT, reads - 1)
            assert not stage.reconciler.status.in_sync, "the table is known to differ"
            await stage.passes(1.1)
            assert (stage.current, stage.kernel.reads) == (holding("10.0.0.1"), reads)
            assert stage.reconciler.status.in_sync


async def contested(stage: ReconcilerSetup, times: int = 40) -> None:
    """Have another program delete the table again as soon as it was repaired, so many times."""
    for _ in range(times):
        await stage.others_write(ABSENT, by="nft (process 4711)")
        await stage.passes(max(0.006, stage.reconciler.next_repair_in))
        assert stage.current == stage.wanted


@scenario
async def test_a_program_that_never_rests_is_named_and_repaired_ten_times_a_second() -> None:
    async with running(holding("10.0.0.1")) as stage:
        await contested(stage)
        contest = stage.reconciler.contest
        assert contest is not None
        assert (contest.program, contest.repairs, contest.spacing) == ("nft (process 4711)", 40, 0.1)
        await stage.others_write(ABSENT)
        assert stage.current == stage.wanted, "0.1 s have passed since the repair before"
        await stage.others_write(ABSENT)
        await stage.passes(0.09)
        assert (stage.current, stage.reconciler.status.in_sync) == (ABSENT, False)
        await stage.passes(0.02)
        assert stage.current == stage.wanted
        assert stage.reconciler.drift_totals.exposed_seconds == pytest.approx(0.11)


@scenario
async def test_while_repairs_are_spaced_the_table_is_replaced_and_not_compared() -> None:
    async with running(holding("10.0.0.1")) as stage:
        for times in range(15):
            await stage.others_write(holding("10.0.0.9"), by="nft (process 4711)")
            await stage.passes(max(0.006, stage.reconciler.next_repair_in))
            assert (stage.current, stage.kernel.replacements) == (holding("10.0.0.1"), max(0, times - 9))


@scenario
async def test_after_a_contest_changes_are_repaired_at_once_again() -> None:
    async with running(holding("10.0.0.1")) as stage:
        await contested(stage)
        await stage.passes(200.0)
        assert stage.reconciler.contest is None
        for _ in range(4):
            await stage.others_write(ABSENT)
            assert stage.current == stage.wanted
            await stage.passes(0.006)


def test_a_contest_is_logged_when_it_begins_then_each_minute_and_at_its_end(caplog: pytest.LogCaptureFixture) -> None:
    async def body() -> None:
        async with running(holding("10.0.0.1")) as stage:
            await contested(stage, 60)
            stage.reconciler.log_contest()
            await stage.passes(200.0)
            stage.reconciler.log_contest()
            stage.reconciler.log_contest()

    with caplog.at_level("INFO"):
        asyncio.run(body())
    said = [message for message in caplog.messages if "repairing it" not in message]
    assert len(caplog.messages) - len(said) == 5, "no line for each repair of a contest"
    assert [words for message in said for words in ("spaced by up to", "or more", "resolved") if words in message] == [
        "spaced by up to",
        "or more",
        "resolved",
    ]


@scenario
async def test_our_own_changes_do_not_fight_a_program_that_deletes_the_table_at_full_speed() -> None:
    async with running(holding("10.0.0.1")) as stage:
        await contested(stage)
        reads, began = stage.kernel.reads, stage.clock.now
        for number in range(100):
            stage.kernel.fake.ruleset = ABSENT
            stage.reconciler.mark_changed()
            await stage.want(holding(f"10.0.0.{number}"))
            await stage.passes(0.02)
        assert stage.kernel.reads - reads <= 2 + (stage.clock.now - began) / MAX_SPACING
        await stage.passes(1.0)
        assert stage.current == holding("10.0.0.99")


@scenario
async def test_a_repair_that_another_program_s_commit_made_fail_is_followed_by_one_that_depends_on_nothing() -> None:
    async with running(holding("10.0.0.1")) as stage:

        def race() -> None:
            stage.kernel.applying = lambda: None
            stage.kernel.faults = 1
            stage.reconciler.mark_changed("nft (process 4711)")

        stage.kernel.applying = race
        await stage.others_write(holding("10.0.0.9"), by="nft (process 4711)")
        await stage.passes(0.1)
        status = stage.reconciler.status
        assert (status.failed, status.failures, stage.kernel.replacements) == (1, 0, 1)
        assert stage.current == holding("10.0.0.1")


@scenario
async def test_credit_is_restored_over_time_up_to_its_limit() -> None:
    async with running(holding("10.0.0.1")) as stage:
        slow_to_read(stage, 2.0)
        await stage.others_write(ABSENT)
        await stage.passes(RESYNC - 1)
        for reads in (3, 4):
            await stage.others_write(ABSENT)
            assert (stage.current, stage.kernel.reads) == (holding("10.0.0.1"), reads)
        await stage.others_write(ABSENT)
        assert (stage.current, stage.kernel.reads) == (ABSENT, 4)


@scenario
async def test_comparisons_after_refusals_delay_the_repair_of_another_program_s_change_by_the_last_one_only() -> None:
    async with running(holding("10.0.0.1")) as stage:
        slow_to_read(stage, 2.0)
        for number in range(20):
            stage.kernel.faults = 1
            await stage.want(holding(f"10.0.0.{number}"))
            await stage.passes(1.0)
        await stage.others_write(ABSENT)
        await stage.passes(2.0 / 0.05 + 0.1)
        assert stage.current == stage.wanted


@scenario
async def test_our_own_changes_do_not_wait_for_a_comparison_without_credit() -> None:
    async with running(holding("10.0.0.1")) as stage:
        slow_to_read(stage, 4.0)
        await stage.others_write(holding("10.0.0.1"))
        await stage.others_write(holding("10.0.0.1", "10.0.0.9"))
        await stage.want(holding("10.0.0.1", "10.0.0.2"))
        assert (stage.kernel.reads, stage.current) == (2, holding("10.0.0.1", "10.0.0.2", "10.0.0.9"))


@scenario
async def test_a_change_by_another_program_during_a_comparison_causes_another_one() -> None:
    async with running(holding("10.0.0.1")) as stage:
        stage.kernel.gate.clear()
        await stage.others_write(ABSENT)
        stage.reconciler.mark_changed()
        stage.kernel.gate.set()
        await stage.turn()
        await stage.passes(0.05)
        assert (stage.current, stage.kernel.reads) == (holding("10.0.0.1"), 3)


@pytest.mark.parametrize(
    "notify",
    [Reconciler.mark_changed, Reconciler.invalidate],
    ids=["another program changed the table", "the comparison is outdated"],
)
def test_nothing_is_written_before_the_first_wake_where(notify: Callable[[Reconciler], None]) -> None:
    async def body() -> None:
        async with running(ABSENT, current=holding("10.0.0.6"), wake=False) as stage:
            notify(stage.reconciler)
            await stage.passes(RESYNC)
            assert (stage.current, stage.kernel.reads) == (holding("10.0.0.6"), 0)
            await stage.want(holding("10.0.0.1"))
            assert (stage.current, stage.kernel.reads) == (holding("10.0.0.1"), 1)

    asyncio.run(body())


@scenario
async def test_a_shorter_interval_applies_at_once() -> None:
    async with running(holding("10.0.0.1")) as stage:
        stage.kernel.fake.ruleset = ABSENT
        stage.reconciler.compare_every(RESYNC / 2)
        await stage.passes(RESYNC / 2 - 1)
        assert (stage.current, stage.kernel.reads) == (ABSENT, 1)
        await stage.passes(1)
        assert (stage.current, stage.kernel.reads) == (holding("10.0.0.1"), 2)


@scenario
async def test_own_changes_do_not_postpone_a_due_comparison() -> None:
    async with running(holding("10.0.0.1")) as stage:
        stage.kernel.fake.ruleset = holding("10.0.0.1", "10.0.0.9")
        stage.clock.now += RESYNC
        await stage.want(holding("10.0.0.2"))
        assert (stage.current, stage.kernel.reads) == (holding("10.0.0.2"), 2)


@scenario
async def test_drift_that_makes_the_kernel_refuse_a_change_is_repaired_with_the_change() -> None:
    async with running(holding("10.0.0.1")) as stage:
        stage.kernel.fake.ruleset = ABSENT
        await stage.want(holding("10.0.0.2"))
        assert stage.reconciler.status.failures == 1
        stage.kernel.faults = 1
        await stage.passes(stage.clock.pauses[-1])
        await stage.passes(stage.clock.pauses[-1])
        assert (stage.current, stage.reconciler.status.failures) == (holding("10.0.0.2"), 0)


@scenario
async def test_an_element_that_cannot_be_encoded_does_not_end_the_reconciler() -> None:
    async with running(holding("10.0.0.1")) as stage:
        stage.kernel.fault, stage.kernel.faults = WireError("no element of a set"), 1
        await stage.want(holding("10.0.0.2"))
        assert stage.reconciler.status.failures == 1
        await stage.passes(stage.clock.pauses[-1])
        assert (stage.current, stage.reconciler.status.failures) == (holding("10.0.0.2"), 0)


@scenario
async def test_an_own_change_does_not_postpone_the_next_comparison() -> None:
    async with running(holding("10.0.0.1")) as stage:
        await stage.passes(RESYNC - 1)
        await stage.want(holding("10.0.0.2"))
        assert stage.clock.pauses[-1] == pytest.approx(1)


@scenario
async def test_after_invalidate_the_kernel_is_read_before_the_next_transaction() -> None:
    async with running(holding("10.0.0.1")) as stage:
        stage.kernel.fake.ruleset = holding("10.0.0.6")
        stage.reconciler.invalidate()
        await stage.turn()
        assert (stage.current, stage.kernel.reads) == (holding("10.0.0.1"), 2)
        assert stage.reconciler.status.drifts == 1


RECHECKED = NamedSet("address", 4, frozenset({"10.0.0.1"}))
RECHECK = ChangeElements("add", "recheck4", ("10.0.0.1",))


def with_recheck_set(wanted: Ruleset) -> Ruleset:
    """Add an empty set of addresses under re-check."""
    return Ruleset({**wanted.sets, "recheck4": NamedSet("address", 4)})


@scenario
async def test_a_repair_re_checks_every_connection_in_the_same_transaction() -> None:
    async with running(with_recheck_set(holding("10.0.0.1"))) as stage:
        assert stage.desired.rechecks == 1, "at the start the previous contents are unknown"
        stage.desired.recheck = (RECHECK,)
        stage.kernel.fake.ruleset = with_recheck_set(holding("10.0.0.6"))
        await stage.passes(RESYNC)
        assert stage.desired.rechecks == 2
        assert stage.kernel.tried[-1][-1] == RECHECK
        assert stage.current.sets["recheck4"] == RECHECKED


@scenario
async def test_a_comparison_without_a_difference_re_checks_no_connection() -> None:
    async with running(holding("10.0.0.1"), current=holding("10.0.0.1")) as stage:
        await stage.passes(RESYNC)
        assert (stage.kernel.reads, stage.desired.rechecks, stage.kernel.tried) == (2, 0, [])


@scenario
async def test_where_an_earlier_process_may_not_have_judged_connections_the_first_comparison_has_it_done() -> None:
    async with running(holding("10.0.0.1"), current=holding("10.0.0.1"), wake=False) as stage:
        stage.reconciler.unjudged = True
        stage.reconciler.wake()
        await stage.turn()
        await stage.passes(RESYNC)
        assert (stage.kernel.reads, stage.desired.rechecks) == (2, 1)


@scenario
async def test_a_change_re_checks_only_the_addresses_in_its_transaction() -> None:
    async with running(holding("10.0.0.1")) as stage:
        await stage.want(holding("10.0.0.2"))
        assert (len(stage.kernel.tried), stage.desired.rechecks) == (2, 1)


@scenario
async def test_after_a_refusal_every_connection_is_re_checked() -> None:
    async with running(holding("10.0.0.1")) as stage:
        stage.kernel.faults = 1
        await stage.want(holding("10.0.0.2"))
        await stage.passes(stage.clock.pauses[-1])
        assert (stage.current, stage.desired.rechecks) == (holding("10.0.0.2"), 2)


@pytest.mark.parametrize("moment", ["while a transaction is under way", "while the kernel is read"])
def test_invalidate_causes_another_comparison(moment: str) -> None:
    async def body() -> None:
        async with running(holding("10.0.0.1")) as stage:
            stage.kernel.gate.clear()
            if moment.endswith("read"):
                stage.reconciler.invalidate()
                await stage.turn()
            await stage.want(holding("10.0.0.2"))
            reads = stage.kernel.reads
            stage.reconciler.invalidate()
            stage.kernel.gate.set()
            await stage.passes(0.05)
            assert stage.kernel.reads == reads + 1

    asyncio.run(body())


@scenario
async def test_the_status_has_the_numbers_of_transactions_and_commands_and_the_time() -> None:
    async with running(holding("10.0.0.1")) as stage:
        await stage.passes(5)
        await stage.want(holding("10.0.0.2"))
        status = stage.reconciler.status
        assert (status.transactions, status.commands) == (2, sum(map(len, stage.kernel.tried)))
        assert (status.applied_at, status.in_sync, stage.syncs) == (1005.0, True, [True, True])


STEPS = st.one_of(
    st.tuples(st.just("want"), st.frozensets(st.integers(1, 6))),
    st.tuples(st.just("want"), st.frozensets(st.integers(1, 6))),
    st.tuples(st.just("others write"), st.frozensets(st.integers(1, 6))),
    st.tuples(st.just("others delete"), st.none()),
    st.tuples(st.just("others write, with a notification"), st.frozensets(st.integers(1, 6))),
    st.tuples(st.just("want the impossible"), st.none()),
    st.tuples(st.just("fail"), st.integers(1, 3)),
    st.tuples(st.just("hold back"), st.none()),
    st.tuples(st.just("let go"), st.none()),
    st.tuples(st.just("distrust"), st.none()),
    st.tuples(st.just("pass"), st.sampled_from([0.05, 0.5, 30.0, RESYNC])),
)


def numbered(numbers: frozenset[int]) -> Ruleset:
    return holding(*(f"10.0.0.{number}" for number in numbers))


async def step(stage: ReconcilerSetup, verb: str, what: Any) -> None:  # noqa: ANN401 - each verb's own
    actions: dict[str, Callable[[], Awaitable[None] | None]] = {
        "want": lambda: stage.want(numbered(what)),
        "want the impossible": lambda: stage.want(IMPOSSIBLE),
        "others write": lambda: setattr(stage.kernel.fake, "ruleset", numbered(what)),
        "others write, with a notification": lambda: stage.others_write(numbered(what)),
        "others delete": lambda: setattr(stage.kernel.fake, "ruleset", ABSENT),
        "fail": lambda: setattr(stage.kernel, "faults", what),
        "hold back": stage.kernel.gate.clear,
        "let go": stage.kernel.gate.set,
        "distrust": stage.reconciler.invalidate,
        "pass": lambda: stage.passes(what),
    }
    done = actions[verb]()
    if done is not None:
        await done


@settings(max_examples=200)
@given(st.lists(STEPS, max_size=12), st.frozensets(st.integers(1, 6)))
def test_after_any_history_the_kernel_has_the_desired_ruleset(
    steps: list[tuple[str, Any]], last: frozenset[int]
) -> None:
    async def body() -> None:
        async with running(holding("10.0.0.1")) as stage:
            began = stage.clock.now
            for verb, what in steps:
                await step(stage, verb, what)
            stage.kernel.gate.set()
            await stage.want(numbered(last))
            # Drift is found by the next comparison, after twenty times the duration of the delayed one; the remaining
            # faults refuse it three times at most.
            await stage.passes(RESYNC + 20 * (stage.clock.now - began))
            for _ in range(4):
                await stage.passes(RETRY_MAX)
            assert stage.current == numbered(last)
            status = stage.reconciler.status
            assert (status.in_sync, status.failures, status.last_error) == (True, 0, "")

    asyncio.run(body())


def test_while_the_guard_objects_nothing_is_changed_and_the_table_is_read_once() -> None:
    async def body() -> None:
        current = holding("10.0.0.1")
        async with running(ABSENT, current, wake=False) as stage:
            stage.object("no")
            stage.reconciler.wake()
            await stage.turn()
            for number in (2, 3):
                await stage.want(holding(f"10.0.0.{number}"))
            assert (stage.current, stage.kernel.tried, stage.kernel.reads) == (current, [], 1)
            assert (stage.reconciler.status.held, stage.reconciler.status.in_sync, stage.syncs) == ("no", False, [])
            assert stage.holds == 3

    asyncio.run(body())


def test_after_the_guard_s_objection_ends_pending_changes_take_effect() -> None:
    async def body() -> None:
        async with running(holding("10.0.0.1")) as stage:
            stage.object("no")
            await stage.want(holding("10.0.0.2"))
            assert stage.current == holding("10.0.0.1")
            stage.object("")
            await stage.want(holding("10.0.0.3"))
            status = stage.reconciler.status
            assert (stage.current, status.held, status.in_sync) == (holding("10.0.0.3"), "", True)
            assert status.drifts == 0, "no other program changed the table"

    asyncio.run(body())


def test_a_guard_without_an_objection_does_not_delay_the_round() -> None:
    async def body() -> None:
        async with running(holding("10.0.0.1")) as stage:
            stage.guard.must_check = True
            await stage.want(holding("10.0.0.2"))
            assert (stage.current, stage.guard.must_check) == (holding("10.0.0.2"), False)

    asyncio.run(body())


def test_the_guard_is_called_again_after_a_reported_change_or_when_a_comparison_is_due() -> None:
    async def body() -> None:
        async with running(holding("10.0.0.1")) as stage:
            stage.object("no")
            await stage.want(holding("10.0.0.2"))
            reads = stage.kernel.reads
            await stage.others_write(holding("10.0.0.7"))
            await stage.passes(RESYNC + 1)
            assert (stage.current, stage.kernel.reads) == (holding("10.0.0.7"), reads + 2)
            await stage.others_write(holding("10.0.0.2"))
            assert stage.reconciler.status.held == ""

    asyncio.run(body())


def test_a_failed_read_for_the_guard_is_retried_without_a_change() -> None:
    async def body() -> None:
        async with running(ABSENT, holding("10.0.0.1"), wake=False) as stage:
            stage.object("no")
            stage.kernel.faults = 1
            stage.reconciler.wake()
            await stage.turn()
            assert (stage.reconciler.status.failures, stage.kernel.tried) == (1, [])
            await stage.passes(RETRY_MAX)
            assert (stage.reconciler.status.held, stage.current) == ("no", holding("10.0.0.1"))

    asyncio.run(body())


def test_the_key_of_listing_variants_in_dump_state_is_that_of_earlier_versions() -> None:
    assert msgspec.to_builtins(ReconcileStatus(variants=("chain allow/a",)))["worded"] == ("chain allow/a",)


class SeenCommits:
    """Implements reconciler.CommitObserver."""

    def __init__(self) -> None:
        self.calls: list[str] = []

    def cover(self) -> None:
        self.calls.append("cover")

    def committed(self) -> None:
        self.calls.append("committed")


@pytest.mark.parametrize(
    ("refuses", "holds", "expected"),
    [
        pytest.param(False, False, ["cover", "committed"], id="a round covers what it commits"),
        pytest.param(True, False, ["cover"], id="what is refused is not in force"),
        pytest.param(False, True, [], id="where the table stays unchanged nothing is covered"),
    ],
)
def test_an_observer_learns_what_is_in_force(*, refuses: bool, holds: bool, expected: list[str]) -> None:
    kernel, guard, seen = SlowKernel(ABSENT), FakeGuard(), SeenCommits()
    kernel.faults = int(refuses)
    if holds:
        guard.must_check, guard.reason = True, "unknown Node"
    reconciler = Reconciler(kernel, FakeClock(), FakeRuleset(holding("10.0.0.1")), guard=guard)
    reconciler.observe_commits(seen)

    asyncio.run(reconciler.round())

    assert seen.calls == expected
