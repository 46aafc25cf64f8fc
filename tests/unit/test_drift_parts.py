"""How often notifications of other programs' changes are subscribed to again, and which table a change concerns."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Callable
from typing import TypeVar

import pytest

from nfagent.clock import SystemClock
from nfagent.controllers.reconciler import Reconciler
from nfagent.drift_parts import DriftParts
from nfagent.errors import KernelError
from nfagent.kernel.bridge_table import BridgeTableReconciler, KernelTables
from nfagent.kernel.nft_monitor import NftMonitor
from nfagent.netlink.nft_events import CommitOrigin
from tests.unit.controllers.test_reconciler import FakeRuleset, SlowKernel, holding

_T = TypeVar("_T")


class PassingClock(SystemClock):
    """A clock whose waits end at once, up to a number of them; its time is that of the waits."""

    def __init__(self, waits: int) -> None:
        self.waited: list[float] = []
        self._most = waits

    def monotonic(self) -> float:
        return sum(self.waited)

    async def wait(self, event: asyncio.Event, seconds: float) -> bool:
        if len(self.waited) == self._most:
            raise asyncio.CancelledError
        self.waited.append(seconds)
        return event.is_set()


class NoTables:
    """A client that isn't used."""

    async def with_table(self, call: Callable[[KernelTables], _T]) -> _T:
        raise AssertionError(call)


def test_a_subscription_that_is_refused_is_tried_again_every_five_seconds() -> None:
    tries: list[float] = []

    def refuse(_receive_buffer: int) -> socket.socket:
        tries.append(clock.monotonic())
        raise KernelError("no descriptor")

    async def body() -> None:
        monitor = NftMonitor(opening=refuse)
        reconciler = Reconciler(SlowKernel(), clock, FakeRuleset(holding("10.0.0.1")))
        bridge_table = BridgeTableReconciler(NoTables(), reconciler.backoff, dropping=True)
        parts = DriftParts(monitor, reconciler, bridge_table, clock, 3600.0)
        parts.subscribe()
        await asyncio.gather(parts.run(), return_exceptions=True)
        assert monitor.problem == "no descriptor"

    clock = PassingClock(waits=24)
    asyncio.run(body())
    assert clock.waited == [5.0] * 24
    assert tries == [5.0 * number for number in range(25)]


@pytest.mark.parametrize(
    ("families", "marked"),
    [
        pytest.param(frozenset({1}), (True, False), id="of policies"),
        pytest.param(frozenset({7}), (False, True), id="of bridges"),
        pytest.param(frozenset({1, 7}), (True, True), id="both, as a flush of the ruleset"),
        pytest.param(None, (True, True), id="that isn't known, as where notifications were lost"),
    ],
)
def test_a_change_marks_the_table(families: frozenset[int] | None, marked: tuple[bool, bool]) -> None:
    clock = PassingClock(waits=0)
    monitor = NftMonitor()
    reconciler = Reconciler(SlowKernel(), clock, FakeRuleset(holding("10.0.0.1")))
    bridge_table = BridgeTableReconciler(NoTables(), reconciler.backoff, dropping=True)
    parts = DriftParts(monitor, reconciler, bridge_table, clock, 3600.0)
    parts.changed(CommitOrigin(4711, "nft", families))
    assert (reconciler.is_marked, bridge_table.is_marked) == marked
