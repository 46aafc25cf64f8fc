"""When systemd's watchdog is fed: while the reconciler makes progress."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping

import pytest

from nfagent.controllers.reconciler import Reconciler
from nfagent.errors import KernelError
from nfagent.system.watchdog import ROUND_SECONDS, RoundProgress, feed_seconds, stall
from nfagent.system.watchdog_notifier import WatchdogNotifier
from tests.unit.controllers.test_reconciler import TURNS, FakeClock, FakeRuleset, SlowKernel, holding

LARGE_COMMIT = 28.0
"""Seconds that the commit of 10,000 rules was measured with."""

FED = "WATCHDOG=1"
STALLED = "a round of the reconciler doesn't end: 328 s so far, 300 s at most"


@pytest.mark.parametrize(
    ("busy", "stalls"),
    [
        pytest.param(None, False, id="between two rounds it is fed"),
        pytest.param(0.0, False, id="at the begin of a round it is fed"),
        pytest.param(LARGE_COMMIT, False, id="in a commit of 10,000 rules it is fed"),
        pytest.param(ROUND_SECONDS, False, id="up to the limit of a round it is fed"),
        pytest.param(ROUND_SECONDS + 1, True, id="beyond the limit of a round it is not fed"),
    ],
)
def test_how_long_a_round_may_take(busy: float | None, stalls: bool) -> None:  # noqa: FBT001 - a table's column
    progress = RoundProgress()
    progress.begin(0.0)
    progress.end()
    if busy is not None:
        progress.begin(1000.0)
    assert bool(stall(progress, 1000.0 + (busy or 0.0))) is stalls


def test_the_limit_is_far_above_the_longest_commit() -> None:
    assert ROUND_SECONDS > 10 * LARGE_COMMIT


@pytest.mark.parametrize(
    ("environment", "seconds"),
    [
        pytest.param({}, None, id="without a watchdog none is expected"),
        pytest.param({"WATCHDOG_USEC": "60000000"}, 15.0, id="four in the time of the watchdog"),
        pytest.param({"WATCHDOG_USEC": "60000000", "WATCHDOG_PID": "7"}, 15.0, id="for this process"),
        pytest.param({"WATCHDOG_USEC": "60000000", "WATCHDOG_PID": "8"}, None, id="for another process none"),
        pytest.param({"WATCHDOG_USEC": "0"}, None, id="a limit of 0 is none"),
        pytest.param({"WATCHDOG_USEC": "1e6"}, None, id="a limit that is no number is none"),
        pytest.param({"WATCHDOG_USEC": "-5"}, None, id="a negative limit is none"),
        pytest.param({"WATCHDOG_USEC": "٣"}, None, id="digits of another script are no number"),
    ],
)
def test_how_often_it_is_fed(environment: Mapping[str, str], seconds: float | None) -> None:
    assert feed_seconds(environment, 7) == seconds


class Site:
    """A reconciler with a slow kernel, and the watchdog that looks at it."""

    def __init__(self) -> None:
        self.clock = FakeClock()
        self.kernel = SlowKernel()
        self.wanted = FakeRuleset(holding("10.0.0.1"))
        self.reconciler = Reconciler(self.kernel, self.clock, self.wanted)
        self.watchdog = WatchdogNotifier(self.clock, self.reconciler.progress)

    async def after(self, seconds: float) -> None:
        """Let time pass, in steps that no wait of the reconciler misses, and look once."""
        await self.turn()
        for _ in range(10):
            self.clock.now += seconds / 10
            await self.turn()
        self.watchdog.check()

    async def turn(self) -> None:
        """Let all callbacks run."""
        for _ in range(TURNS):
            await asyncio.sleep(0)

    def run(self, body: Callable[[], Awaitable[None]]) -> None:
        async def running() -> None:
            task = asyncio.create_task(self.reconciler.run())
            try:
                await body()
            finally:
                task.cancel()
                await asyncio.wait([task])

        asyncio.run(running())


def test_an_idle_agent_is_fed_before_its_first_round_and_for_hours_after_it(said: Callable[[], list[str]]) -> None:
    site = Site()

    async def body() -> None:
        await site.after(3600)
        site.reconciler.wake()
        await site.after(1)
        assert site.kernel.fake.ruleset == site.wanted.wanted
        await site.after(10 * ROUND_SECONDS)

    site.run(body)
    assert said() == [FED] * 3


def test_a_long_commit_is_fed_and_a_call_that_hangs_is_not_until_it_returns(
    said: Callable[[], list[str]], caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO")
    site = Site()

    async def body() -> None:
        site.kernel.gate.clear()
        site.reconciler.wake()
        await site.after(LARGE_COMMIT)
        assert said() == [FED]
        await site.after(ROUND_SECONDS)
        await site.after(15)
        assert said() == []
        assert "343 s so far, 300 s at most" in site.watchdog.problem
        site.kernel.gate.set()
        await site.after(1)
        assert (said(), site.watchdog.problem) == ([FED], "")

    site.run(body)
    assert [message for message in caplog.messages if "round" in message] == [
        f"{STALLED}; watchdog or liveness probe restart nfagent, the rules stay in force meanwhile",
        "resolved: the round of the reconciler has ended",
    ]


def test_work_that_waits_for_a_half_applied_batch_without_end_is_not_fed(said: Callable[[], list[str]]) -> None:
    site = Site()

    async def body() -> None:
        site.reconciler.undivided.clear()
        site.reconciler.wake()
        await site.after(ROUND_SECONDS + 10)
        assert said() == []

    site.run(body)


def test_a_kernel_that_refuses_every_commit_is_no_hang(said: Callable[[], list[str]]) -> None:
    site = Site()
    site.kernel.faults = 1_000_000
    site.kernel.fault = KernelError("netlink: Device or resource busy")

    async def body() -> None:
        site.reconciler.wake()
        for _ in range(3):
            await site.after(ROUND_SECONDS)
        assert site.reconciler.status.failures > 1

    site.run(body)
    assert said() == [FED] * 3


def test_a_hang_is_found_where_systemd_has_no_watchdog_too(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("WATCHDOG_USEC", raising=False)
    site = Site()

    async def body() -> None:
        looking = asyncio.create_task(site.watchdog.run())
        site.kernel.gate.clear()
        site.reconciler.wake()
        for _ in range(round(ROUND_SECONDS / 10) + 3):
            site.clock.now += 10
            await site.turn()
        assert "a round of the reconciler doesn't end" in site.watchdog.problem
        site.kernel.gate.set()
        await site.turn()
        site.clock.now += 15
        await site.turn()
        assert site.watchdog.problem == ""
        looking.cancel()
        await asyncio.wait([looking])

    site.run(body)


def test_it_is_fed_from_the_event_loop_until_the_end(
    said: Callable[[], list[str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WATCHDOG_USEC", "60000000")
    monkeypatch.delenv("WATCHDOG_PID", raising=False)
    site = Site()

    async def body() -> None:
        feeding = asyncio.create_task(site.watchdog.run())
        await site.turn()
        assert said() == [FED]
        for _ in range(4):
            site.clock.now += 15
            await site.turn()
        assert said() == [FED] * 4
        feeding.cancel()
        await asyncio.wait([feeding])

    asyncio.run(body())
