"""What the reconciler and the event applier measure of an event's way to its commit."""

from __future__ import annotations

import asyncio

from nfagent.controllers.event_applier import EventApplier
from nfagent.controllers.reconciler import Reconciler
from nfagent.controllers.sync_latency import SyncLatency
from nfagent.model.gvk import Item
from nfagent.model.objects import ObjectRef, Pod
from tests.unit.controllers.test_reconciler import FakeClock, FakeRuleset, SlowKernel, holding


class Node:
    """A reconciler whose kernel and clock a test controls."""

    def __init__(self) -> None:
        self.clock = FakeClock()
        self.kernel = SlowKernel()
        self.wanted = FakeRuleset(holding("10.0.0.1"))
        self.reconciler = Reconciler(self.kernel, self.clock, self.wanted)

    def total(self, stage: str = "total") -> tuple[int, float]:
        """Return the number of durations of a stage, and their sum."""
        found = self.reconciler.latency.stages[stage]
        return found.cumulative()[-1], found.total

    async def change(self, *addresses: str, waiting: float = 0.0) -> None:
        """Change the desired ruleset, and reconcile so many seconds later."""
        self.wanted.wanted = holding(*addresses)
        self.reconciler.wake()
        self.clock.now += waiting
        await self.reconciler.round()


def test_the_time_counts_from_the_first_event_to_the_commit() -> None:
    async def body() -> None:
        node = Node()
        await node.change("10.0.0.1", waiting=2.0)
        assert (node.total(), node.total("compare")) == ((1, 2.0), (1, 0.0))
        await node.change("10.0.0.1", "10.0.0.2", waiting=3.0)
        assert (node.total(), node.total("compare")) == ((2, 5.0), (1, 0.0))

    asyncio.run(body())


def test_a_refused_transaction_counts_once_with_its_retry() -> None:
    async def body() -> None:
        node = Node()
        await node.change("10.0.0.1")
        node.kernel.faults = 1
        await node.change("10.0.0.2", waiting=1.0)
        assert node.total() == (1, 0.0)
        node.clock.now += 4.0
        await node.reconciler.round()
        assert node.total() == (2, 5.0)
        assert (node.reconciler.status.failed, node.reconciler.status.failures) == (1, 0)

    asyncio.run(body())


def test_an_event_that_changes_nothing_in_the_kernel_does_not_count() -> None:
    async def body() -> None:
        node = Node()
        await node.change("10.0.0.1")
        await node.change("10.0.0.1", waiting=100.0)
        await node.change("10.0.0.2", waiting=1.0)
        assert node.total() == (2, 1.0)

    asyncio.run(body())


class ChangingState:
    """Implements event_applier.EventTarget: every event changes something and takes a second."""

    def __init__(self, clock: FakeClock) -> None:
        self._clock = clock

    def put(self, item: Item) -> bool:  # noqa: ARG002 - of the protocol
        self._clock.now += 1.0
        return True

    def remove(self, ref: ObjectRef) -> bool:  # noqa: ARG002 - of the protocol
        return False


def test_an_event_counts_from_its_arrival_also_behind_another_batch() -> None:
    async def body() -> None:
        clock, latency = FakeClock(), SyncLatency()
        covered: list[float] = []

        def commit() -> None:
            latency.cover(clock.now)
            latency.committed(clock.now)
            covered.append(latency.stages["total"].total - sum(covered))

        applier = EventApplier(ChangingState(clock), clock, commit, latency=latency)
        applier.open()
        first, second, third = (Pod(namespace="shop", name=name, node="node-a") for name in ("a", "b", "c"))
        await asyncio.gather(applier.apply([first, second]), applier.apply([third]))
        # The last batch came while the first one was applied, after a second, and was applied after it.
        assert covered[1:] == [1.0, 2.0, 2.0]

    asyncio.run(body())
