"""A burst of events: applied in slices, few transactions, the newest state wins, no needless wait."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager, suppress

import msgspec
import pytest

from nfagent.controllers.event_applier import EventApplier
from nfagent.controllers.reconciler import Reconciler
from nfagent.desired.state import DesiredState
from nfagent.errors import KernelError
from nfagent.model.gvk import Item
from nfagent.model.objects import ObjectRef, Pod
from nfagent.nftables.diff import diff
from nfagent.nftables.objects import ABSENT, Ruleset
from nfagent.nftables.transaction import Transaction
from tests.support.fake_nftables import FakeNftables, Refused
from tests.support.two_node_cluster import decoded, labelled, pod, policy

COMMIT_TURNS = 10
"""Turns of the event loop that a commit takes."""
EVENTS = 1000
PODS = 50
QUIET_TURNS = 100 * COMMIT_TURNS
"""Turns after which all callbacks have run: a hundred commits."""
DEADLINE = 60.0

RULES = {"ingress": [{"from": [{"podSelector": labelled(app="db")}]}]}
SCENE = [pod("shop/web", "a", 10, app="web"), policy("shop/p", labelled(app="web"), **RULES)]


class TurnKernel:
    """A fake kernel whose commits take turns of the event loop."""

    def __init__(self, told: list[str]) -> None:
        self.fake = FakeNftables()
        self.commits: list[Transaction] = []
        self._told = told

    async def difference(self, wanted: Ruleset, *, anew: bool = False) -> Transaction:  # noqa: ARG002
        return diff(await self.read(), wanted)

    async def read(self) -> Ruleset:
        return self.fake.ruleset

    async def accept_variants(self, wanted: Ruleset, repair: Transaction) -> tuple[str, ...]:  # noqa: ARG002
        return ()

    async def apply(self, transaction: Transaction) -> None:
        self._told.append("apply")
        self.commits.append(transaction)
        for _ in range(COMMIT_TURNS):
            await asyncio.sleep(0)
        try:
            self.fake.apply(transaction)
        except Refused as refusal:
            raise KernelError(str(refusal)) from None


class TurnClock:
    """A clock that stands still, except that a short pause ends in a turn, and each reading adds `step`."""

    def __init__(self, told: list[str], step: float = 0.0) -> None:
        self.now = 1000.0
        self.step = step
        self._told = told

    def monotonic(self) -> float:
        self.now += self.step
        return self.now

    async def wait(self, event: asyncio.Event, seconds: float) -> bool:
        self._told.append("wait")
        if seconds > 1:
            return await event.wait()
        await asyncio.sleep(0)
        self.now += seconds
        return event.is_set()


class StormSetup:
    """Events, the desired state, a reconciler and a kernel, connected as in the agent."""

    def __init__(self) -> None:
        self.told: list[str] = []
        self.turns = 0
        self.desired = DesiredState("a")
        self.kernel = TurnKernel(self.told)
        self.clock = TurnClock(self.told)
        self.reconciler = Reconciler(self.kernel, self.clock, self.desired)
        self.applier = EventApplier(self.desired, self.clock, self.reconciler.wake)

    async def count(self) -> None:
        while True:
            await asyncio.sleep(0)
            self.turns += 1

    async def quiet(self) -> None:
        for _ in range(QUIET_TURNS):
            await asyncio.sleep(0)


@asynccontextmanager
async def running() -> AsyncIterator[StormSetup]:
    stage = StormSetup()
    tasks = [asyncio.create_task(stage.reconciler.run()), asyncio.create_task(stage.count())]
    try:
        async with asyncio.timeout(DEADLINE):
            await stage.applier.apply([decoded(document) for document in SCENE])
            await stage.quiet()
            assert stage.kernel.fake.ruleset == ABSENT
            stage.applier.open()
            await stage.quiet()
            assert stage.kernel.fake.ruleset == stage.desired.ruleset()
            yield stage
        assert not tasks[0].done(), "the reconciler ended"
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


def churn() -> Iterator[Item | ObjectRef]:
    """Return events of Pods that become peers, change their address and are deleted; half of them stay."""
    for number in range(EVENTS):
        name, round_ = number % PODS, number // PODS
        peer = Pod("shop", f"db{name}", (("app", "db"),), "b", (f"10.64.1.{name}",), workload_name=f"db{name}")
        match round_ % 3:
            case 0:
                yield peer
            case 1:
                yield msgspec.structs.replace(peer, addresses=(f"10.65.{round_}.{name}",))
            case _ if name % 2:
                yield peer.ref
            case _:
                yield msgspec.structs.replace(peer, addresses=(f"10.66.{round_}.{name}",))


async def in_one_batch(stage: StormSetup) -> None:
    await stage.applier.apply(churn())


async def in_a_thousand_batches(stage: StormSetup) -> None:
    for event in churn():
        await stage.applier.apply([event])
        await asyncio.sleep(0)


async def by_many_at_once(stage: StormSetup) -> None:
    """Apply the events in several tasks, as a source for each kind would."""
    events = list(churn())
    await asyncio.gather(*(stage.applier.apply(events[start : start + 10]) for start in range(0, EVENTS, 10)))


@pytest.mark.parametrize(
    "storm", [in_one_batch, in_a_thousand_batches, by_many_at_once], ids=lambda storm: storm.__name__
)
def test_a_burst_causes_few_transactions_and_its_newest_state_wins(
    storm: Callable[[StormSetup], Awaitable[None]],
) -> None:
    async def body() -> None:
        async with running() as stage:
            before, turns = len(stage.kernel.commits), stage.turns
            await storm(stage)
            lasted = stage.turns - turns
            await stage.quiet()
            # One transaction at a time during the burst, one for the last change, one that was under way.
            assert 1 <= len(stage.kernel.commits) - before <= lasted // COMMIT_TURNS + 2
            # There is no revoker here: the test clears the addresses that the burst put under re-check.
            stage.desired.clear_recheck(stage.desired.recheck_addresses)
            stage.reconciler.wake()
            await stage.quiet()
            expected = DesiredState("a")
            for event in [*map(decoded, SCENE), *churn()]:
                expected.remove(event) if isinstance(event, ObjectRef) else expected.put(event)
            assert stage.kernel.fake.ruleset == expected.ruleset()
            assert not stage.desired.dirty
            assert (stage.reconciler.status.in_sync, stage.reconciler.status.failures) == (True, 0)

    asyncio.run(body())


def test_events_of_a_burst_are_committed_before_its_end() -> None:
    async def body() -> None:
        async with running() as stage:
            before = len(stage.kernel.commits)
            for number, event in enumerate(churn()):
                await stage.applier.apply([event])
                await asyncio.sleep(0)
                if number == 10 * COMMIT_TURNS:
                    assert len(stage.kernel.commits) > before

    asyncio.run(body())


def test_an_idle_reconciler_commits_an_event_without_any_pause() -> None:
    async def body() -> None:
        async with running() as stage:
            for event in list(churn())[:5]:
                stage.clock.now += 1
                stage.told.clear()
                await stage.applier.apply([event])
                await stage.quiet()
                assert stage.told == ["apply", "wait"]

    asyncio.run(body())


class Listed:
    """Records events. Implements event_applier.EventTarget."""

    def __init__(self) -> None:
        self.taken: list[Item | ObjectRef] = []

    def put(self, item: Item) -> bool:
        self.taken.append(item)
        return True

    def remove(self, ref: ObjectRef) -> bool:
        self.taken.append(ref)
        return True


class Bystander:
    """Another task, which counts the applied events at each of its turns."""

    def __init__(self, listed: Listed) -> None:
        self.seen: list[int] = []
        self._listed = listed

    @property
    def longest(self) -> int:
        """The largest number of events applied between two of its turns, without the last ones."""
        return max(after - before for before, after in zip(self.seen, self.seen[1:], strict=False))

    async def run(self) -> None:
        while True:
            self.seen.append(len(self._listed.taken))
            await asyncio.sleep(0)


async def taking(
    *batches: list[Item | ObjectRef], step: float, whole: bool = True
) -> tuple[Listed, Bystander, list[int]]:
    """Apply batches concurrently, with a clock that adds `step` at each reading; also return when `wake` was called."""
    listed, woken = Listed(), list[int]()
    applier = EventApplier(listed, TurnClock([], step), lambda: woken.append(len(listed.taken)))
    if whole:
        applier.open()
        woken.clear()
    bystander = Bystander(listed)
    task = asyncio.create_task(bystander.run())
    try:
        await asyncio.sleep(0)
        await asyncio.gather(*map(applier.apply, batches))
        bystander.seen.append(len(listed.taken))
    finally:
        task.cancel()
        with suppress(asyncio.CancelledError):
            await task
    return listed, bystander, woken


MANY: list[Item | ObjectRef] = [Pod("shop", f"p{number}") for number in range(10_000)]


@pytest.mark.parametrize(("step", "most"), [(0.001, 11), (0.005, 3), (0.02, 1)])
def test_other_tasks_run_while_ten_thousand_events_are_applied(step: float, most: int) -> None:
    listed, bystander, woken = asyncio.run(taking(MANY, step=step))
    assert listed.taken == MANY
    assert bystander.longest <= most
    assert max(after - before for before, after in zip([0, *woken], woken, strict=False)) <= most
    assert woken[-1] == len(MANY)


def test_a_batch_that_takes_no_time_is_applied_in_one_slice() -> None:
    listed, _, woken = asyncio.run(taking(MANY, step=0.0))
    assert (listed.taken, woken) == (MANY, [len(MANY)])


def test_before_the_state_is_complete_wake_is_not_called() -> None:
    _, bystander, woken = asyncio.run(taking(MANY, step=0.001, whole=False))
    assert (bystander.longest <= 11, woken) == (True, [])


def test_when_the_state_is_complete_wake_is_called() -> None:
    woken: list[bool] = []
    EventApplier(Listed(), TurnClock([]), lambda: woken.append(True)).open()
    assert woken == [True]


def test_a_batch_is_fully_applied_before_the_next_one() -> None:
    first, second = MANY[:1000], [item.ref for item in MANY[:1000] if isinstance(item, Pod)]
    listed, _, _ = asyncio.run(taking(first, [*second], step=0.02))
    assert listed.taken == [*first, *second]


def test_nothing_is_committed_before_the_first_events_are_applied() -> None:
    async def body() -> None:
        stage = StormSetup()
        task = asyncio.create_task(stage.reconciler.run())
        try:
            await stage.quiet()
            assert (stage.kernel.fake.ruleset, stage.told) == (ABSENT, [])
        finally:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)

    asyncio.run(body())
