"""Which syncs the trace keeps, with which times."""

from __future__ import annotations

import asyncio

from nfagent.controllers.event_applier import EventApplier
from nfagent.controllers.reconciler import Reconciler
from nfagent.controllers.sync_trace import KEPT, Sync, SyncTrace
from nfagent.model.gvk import Item
from nfagent.model.objects import ObjectRef, Pod
from tests.unit.controllers.test_reconciler import FakeClock, FakeRuleset, SlowKernel, holding


class Node:
    """A reconciler and its event applier, whose kernel and clock a test controls; decoding an object takes a second."""

    def __init__(self) -> None:
        self.clock = FakeClock()
        self.kernel = SlowKernel()
        self.wanted = FakeRuleset(holding("10.0.0.1"))
        self.reconciler = Reconciler(self.kernel, self.clock, self.wanted)
        self.applier = EventApplier(self, self.clock, self.reconciler.wake, latency=self.reconciler.latency)
        self.applier.open()

    def put(self, item: Item) -> bool:
        """Set an address after a Pod's name."""
        assert isinstance(item, Pod)
        self.wanted.wanted = holding(item.name)
        self.clock.now += 1.0
        return True

    def remove(self, ref: ObjectRef) -> bool:  # noqa: ARG002 - of the protocol
        return False

    @property
    def syncs(self) -> tuple[Sync, ...]:
        return self.reconciler.latency.trace.reply(self.clock.now).syncs

    async def change(self, address: str, *, received: float | None = None, waiting: float = 0.0) -> None:
        """Apply an event, and reconcile so many seconds later."""
        await self.applier.apply([Pod(namespace="shop", name=address, node="node-a")], received)
        self.clock.now += waiting
        await self.reconciler.round()


def test_a_sync_has_the_times_of_its_steps() -> None:
    async def body() -> None:
        node = Node()
        await node.change("10.0.0.1")
        node.clock.now = 100.0
        await node.change("10.0.0.2", received=97.0, waiting=2.0)
        assert node.syncs[1:] == (Sync(97.0, 101.0, 103.0, 103.0, 103.0, latest=97.0),)

    asyncio.run(body())


def test_a_sync_of_several_events_has_the_times_of_the_first_and_the_latest_arrival() -> None:
    async def body() -> None:
        node = Node()
        await node.change("10.0.0.1")
        node.clock.now = 100.0
        await node.applier.apply([Pod(namespace="shop", name="10.0.0.2", node="node-a")], 99.0)
        await node.change("10.0.0.3", received=101.0)
        assert node.syncs[1:] == (Sync(99.0, 101.0, 102.0, 102.0, 102.0, latest=101.0, events=2),)

    asyncio.run(body())


def test_a_refused_sync_is_kept_once_with_the_time_of_its_event() -> None:
    async def body() -> None:
        node = Node()
        await node.change("10.0.0.1")
        node.clock.now = 100.0
        node.kernel.faults = 1
        await node.change("10.0.0.2", received=100.0)
        node.clock.now = 105.0
        await node.reconciler.round()
        assert [(sync.received, sync.committed) for sync in node.syncs[1:]] == [(100.0, 105.0)]

    asyncio.run(body())


def test_an_event_without_a_transaction_is_not_a_sync() -> None:
    async def body() -> None:
        node = Node()
        await node.change("10.0.0.1")
        await node.change("10.0.0.1")
        await node.change("10.0.0.2", received=50.0)
        assert [sync.received for sync in node.syncs[1:]] == [50.0]

    asyncio.run(body())


def test_a_round_without_an_event_is_not_a_sync() -> None:
    async def body() -> None:
        node = Node()
        await node.change("10.0.0.1")
        node.wanted.wanted = holding("10.0.0.9")
        node.reconciler.wake()
        await node.reconciler.round()
        assert len(node.syncs) == 1

    asyncio.run(body())


def test_the_oldest_syncs_are_dropped() -> None:
    trace = SyncTrace()
    for number in range(KEPT + 2):
        trace.decoded(float(number), float(number))
        trace.cover(float(number))
        trace.committed(float(number))
    found = trace.reply(1.0)
    assert (len(found.syncs), found.syncs[0].received) == (KEPT, 2.0)
