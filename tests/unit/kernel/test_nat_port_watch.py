"""When the watch of ports reads conntrack, and what it logs."""

from __future__ import annotations

import asyncio
import logging
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress

import pytest

from nfagent.errors import HostError, KernelError
from nfagent.kernel import nat_port_watch
from nfagent.kernel.nat_port_watch import NatPortWatch
from nfagent.kernel.nat_ports import NatPorts
from nfagent.netlink.conntrack_ports import PortRanges, PortUse
from nfagent.netlink.conntrack_stats import ConntrackStatistics
from nfagent.netlink.packet_header import TCP

RANGE: PortRanges = ((2000, 2009),)
FULL = "10 of 10 in use (100 %) from 192.0.2.1 to 198.51.100.1 TCP port 443, the busiest destination"
NEARLY = "the ports of translated connections are nearly used up: "
FREE = "resolved: ports of translated connections are free again: 2 of 10 in use (20 %) from 192.0.2.1"


class Script:
    """What the kernel answers, and when: used ports, failures, and time that passes with each wait."""

    def __init__(self) -> None:
        self.now = 1000.0
        self.used = 0
        self.failed = 0
        self.dumps = 0
        self.error: KernelError | HostError | None = None
        self.watch = NatPortWatch(RANGE, self, read=self.read, statistics=self.statistics)

    def monotonic(self) -> float:
        return self.now

    async def wait(self, event: asyncio.Event, seconds: float) -> bool:
        self.now += seconds
        await asyncio.sleep(0)
        return event.is_set()

    def read(self, ranges: PortRanges) -> NatPorts:
        assert ranges == RANGE
        self.dumps += 1
        busiest = PortUse(TCP, "192.0.2.1", "198.51.100.1", 443, self.used) if self.used else None
        return NatPorts(10, busiest, self.statistics())

    def statistics(self) -> ConntrackStatistics:
        if self.error is not None:
            raise self.error
        return ConntrackStatistics(self.failed, self.failed)

    def minutes(self, *changes: Callable[[], object]) -> None:
        """Look at the beginning, then after each of these changes, a minute later."""

        async def look() -> None:
            await self.watch.look()
            for change in changes:
                change()
                self.now += 60
                await self.watch.look()

        asyncio.run(look())

    def fill(self, used: int, failed: int) -> Callable[[], None]:
        def change() -> None:
            self.used, self.failed = used, failed

        return change


@pytest.fixture
def script(caplog: pytest.LogCaptureFixture) -> Script:
    caplog.set_level(logging.INFO, "nfagent.kernel.nat_port_watch")
    return Script()


def test_without_failures_conntrack_is_not_dumped(script: Script, caplog: pytest.LogCaptureFixture) -> None:
    script.failed = 7  # from before the start
    script.minutes(script.fill(10, 7), script.fill(10, 7))
    assert (script.dumps, caplog.messages) == (0, [])


def test_failures_while_the_ports_are_full_are_a_warning_once_and_their_end_is_told(
    script: Script, caplog: pytest.LogCaptureFixture
) -> None:
    script.minutes(script.fill(10, 3), script.fill(10, 5), script.fill(2, 5))
    nearly, failing, resolved = caplog.messages
    failures = "; 3 connections not entered into conntrack since its start"
    assert nearly.startswith(f"{NEARLY}{FULL}{failures}; close idle connections sooner")
    assert failing == f"3 connections of Pods failed in the last minute, for lack of free ports: {FULL}{failures}"
    assert resolved.startswith(FREE)
    assert resolved.endswith("; 5 connections not entered into conntrack since its start")


def test_ports_that_a_question_finds_nearly_used_up_are_a_warning_once_then_their_end_is_told(
    script: Script, caplog: pytest.LogCaptureFixture
) -> None:
    script.used = 8
    asyncio.run(script.watch.refresh())
    assert [message.startswith(f"{NEARLY}8 of 10 in use (80 %)") for message in caplog.messages] == [True]
    script.now += 60
    script.minutes(script.fill(9, 0), script.fill(2, 0), script.fill(2, 0))
    assert [message.startswith(start) for message, start in zip(caplog.messages, (NEARLY, FREE), strict=True)] == [
        True,
        True,
    ]
    assert script.dumps == 4, "one a minute, none once they are free"


def test_failures_that_begin_after_the_ports_were_nearly_used_up_are_told_too(
    script: Script, caplog: pytest.LogCaptureFixture
) -> None:
    script.used = 8
    asyncio.run(script.watch.refresh())
    script.minutes(script.fill(10, 4), script.fill(10, 9))
    assert [message.partition(" ")[0] for message in caplog.messages] == ["the", "4"]


def test_while_ports_are_nearly_used_up_questions_and_the_watch_share_one_dump_a_minute(script: Script) -> None:
    script.used = 10
    asyncio.run(script.watch.refresh())
    for _ in range(6):
        script.now += 10
        asyncio.run(script.watch.refresh())
        asyncio.run(script.watch.look())
    assert script.dumps == 2


def test_a_share_below_four_fifths_is_no_warning(script: Script, caplog: pytest.LogCaptureFixture) -> None:
    script.used = 7
    asyncio.run(script.watch.refresh())
    assert (script.dumps, caplog.messages) == (1, [])


def test_failures_of_another_reason_are_no_warning(script: Script, caplog: pytest.LogCaptureFixture) -> None:
    script.minutes(script.fill(7, 3))
    assert (script.dumps, caplog.messages) == (1, [])
    assert script.watch.status().insert_failed == 3


def test_many_questions_within_a_minute_are_answered_by_one_dump(script: Script) -> None:
    async def ask() -> None:
        await asyncio.gather(*(script.watch.refresh() for _ in range(5)))
        script.now += 59
        await script.watch.refresh()

    asyncio.run(ask())
    assert script.dumps == 1
    script.now += 1
    asyncio.run(script.watch.refresh())
    assert script.dumps == 2


def test_the_state_has_the_failures_of_the_last_reading_whichever_it_was(script: Script) -> None:
    script.minutes()
    script.failed = 3
    asyncio.run(script.watch.refresh())
    assert script.watch.status().insert_failed == 3
    script.minutes(script.fill(0, 4))
    assert script.watch.status().insert_failed == 4


@pytest.mark.parametrize("error", [KernelError("no reply"), HostError("no ctnetlink", hint="modprobe it")])
def test_a_failing_kernel_is_told_once_and_in_the_state_until_it_answers(
    script: Script, caplog: pytest.LogCaptureFixture, error: KernelError | HostError
) -> None:
    script.error = error
    script.minutes(lambda: None)
    assert caplog.messages == [f"cannot tell how full the ports of translated connections are: {error}"]
    assert script.watch.status().problem == str(error)
    script.error = None
    script.minutes()
    assert script.watch.status().problem == ""


def test_without_a_thread_the_watch_goes_on_and_the_state_says_so(script: Script) -> None:
    async def look() -> None:
        with ThreadPoolExecutor(1) as ended:
            asyncio.get_running_loop().set_default_executor(ended)
        await script.watch.look()
        await script.watch.refresh()

    asyncio.run(look())
    assert script.watch.status().problem == "cannot schedule new futures after shutdown"


def test_a_reading_without_an_end_is_given_up(script: Script, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(nat_port_watch, "_WAIT_SECONDS", 0.02)
    never = threading.Event()

    def block(_: PortRanges) -> NatPorts:
        never.wait(30)
        return NatPorts(10, None, ConntrackStatistics())

    async def ask() -> str:
        watch = NatPortWatch(RANGE, script, read=block, statistics=script.statistics)
        await watch.refresh()
        never.set()
        return watch.status().problem

    assert asyncio.run(ask()) == "no answer within 0.02 s"


def test_the_watch_looks_every_minute_until_it_is_cancelled(script: Script) -> None:
    async def run() -> None:
        running = asyncio.create_task(script.watch.run())
        while script.now < 1300:  # noqa: ASYNC110 - the time of the script is no event
            await asyncio.sleep(0)
        running.cancel()
        with suppress(asyncio.CancelledError):
            await running

    asyncio.run(run())
    assert script.dumps == 0
