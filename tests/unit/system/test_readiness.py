"""When the agent reports READY: at its start, and after a reload."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Callable
from pathlib import Path

import pytest

from nfagent.system.readiness import COMMIT_TIMEOUT_SECONDS, READ_TIMEOUT_SECONDS, ReadinessNotifier
from nfagent.system.systemd import process_age

UNIT = Path(__file__).parents[3] / "systemd" / "nfagent.service"
RESTORED = "the saved ruleset of 2024-05-06T07:08:09Z"
WAITING = f"READY=1\nSTATUS=waiting to read the cluster; enforced until then: {RESTORED}"
READY = "READY=1\nSTATUS=enforcing"
UNREAD = "enforcing; cluster not read again yet; keeping the last known state"


class Waits:
    """A clock on which every wait times out, unless the test sets the event."""

    def __init__(self) -> None:
        self.now = 1000.0
        self.waited: list[float] = []
        self.meanwhile: list[Callable[[], None]] = []

    def monotonic(self) -> float:
        return self.now

    async def wait(self, event: asyncio.Event, seconds: float) -> bool:
        self.waited.append(seconds)
        if self.meanwhile:
            self.meanwhile.pop(0)()
        if not event.is_set():
            self.now += seconds
        return event.is_set()


@pytest.mark.parametrize("gathered", [True, False], ids=["a cluster that was read", "one that can't be read"])
def test_the_node_starts_without_rules_only_where_the_cluster_is_read_too_late(
    said: Callable[[], list[str]],
    gathered: bool,  # noqa: FBT001 - a table's column
) -> None:
    async def body() -> None:
        event = asyncio.Event()
        if gathered:
            event.set()
        await ReadinessNotifier(Waits(), enforced=lambda: RESTORED).await_start(event)

    asyncio.run(body())
    assert said() == ([] if gathered else [WAITING])


@pytest.mark.parametrize(
    ("age", "left"), [(0.0, 45.0), (20.0, 25.0), (60.0, 0.0)], ids=["at once", "in time", "after a plugin's minute"]
)
def test_the_timeout_counts_from_the_start_of_the_process(
    monkeypatch: pytest.MonkeyPatch, age: float, left: float
) -> None:
    monkeypatch.setattr("nfagent.system.systemd.process_age", lambda: age)
    clock = Waits()
    asyncio.run(ReadinessNotifier(clock).await_start(asyncio.Event()))
    assert clock.waited == [left]


def test_a_longer_wait_extends_systemd_s_limit_of_the_start(
    said: Callable[[], list[str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("nfagent.system.systemd.process_age", lambda: 10.0)
    clock = Waits()
    asyncio.run(ReadinessNotifier(clock, 600.0, lambda: RESTORED).await_start(asyncio.Event()))
    assert clock.waited == [590.0]
    assert said() == ["EXTEND_TIMEOUT_USEC=615000000", WAITING]


def test_the_age_of_the_process() -> None:
    before = process_age()
    assert 0.0 < before <= process_age()


@pytest.mark.parametrize(
    "total", [READ_TIMEOUT_SECONDS, READ_TIMEOUT_SECONDS + COMMIT_TIMEOUT_SECONDS], ids=["a start", "a reload"]
)
def test_systemd_waits_longer_than_the_agent_does(total: float) -> None:
    found = re.search(r"^TimeoutStartSec=(\d+)$", UNIT.read_text("utf-8"), re.MULTILINE)
    assert found is not None
    assert int(found[1]) > total


def test_a_status_is_sent_again_only_after_a_change(said: Callable[[], list[str]]) -> None:
    readiness = ReadinessNotifier(Waits())
    for status in ("enforcing", "enforcing", "nothing is changed: x", "enforcing"):
        readiness.compared(status)
    assert said() == [READY, "STATUS=nothing is changed: x", "STATUS=enforcing"]


def test_a_line_break_in_a_problem_does_not_start_another_state(said: Callable[[], list[str]]) -> None:
    ReadinessNotifier(Waits()).compared("API server: x\nMAINPID=1\x1b[2J")
    assert said() == ["READY=1\nSTATUS=API server: x\\nMAINPID=1\\x1b[2J"]


class Reload:
    """A reload of a ready agent, with steps that run during its waits."""

    def __init__(self) -> None:
        self.clock = Waits()
        self.readiness = ReadinessNotifier(self.clock)
        self.compared = 0
        self.read = asyncio.Event()

    def synced(self) -> None:
        """Record a comparison, before or after everything was read again."""
        self.readiness.compared()

    def everything_was_read(self) -> None:
        self.readiness.reread_done()
        self.read.set()

    def compare(self) -> None:
        self.compared += 1

    async def run(self, *meanwhile: Callable[[], None]) -> None:
        self.readiness.compared()
        self.clock.meanwhile = list(meanwhile)
        await self.readiness.await_reload(self.read, self.compare)


def words(told: list[str]) -> list[str]:
    """Return states without the time of the reload."""
    return [re.sub(r"(RELOADING=1)\nMONOTONIC_USEC=\d+$", r"\1", state) for state in told]


def test_a_reload_has_its_start_time(said: Callable[[], list[str]]) -> None:
    asyncio.run(Reload().run())
    assert re.fullmatch(r"RELOADING=1\nMONOTONIC_USEC=[1-9]\d+", said()[1])


def test_a_reload_ends_when_the_kernel_is_in_sync_with_the_new_objects(said: Callable[[], list[str]]) -> None:
    async def body() -> None:
        reload = Reload()

        def read_later() -> None:
            reload.synced()  # of what was read before
            assert words(said()) == [READY, "RELOADING=1"]
            reload.everything_was_read()

        def compare_later() -> None:
            assert said() == []
            reload.synced()

        await reload.run(read_later, compare_later)
        assert (said(), reload.compared) == ([READY], 0)

    asyncio.run(body())


def test_a_comparison_that_was_faster_ends_the_reload_at_once(said: Callable[[], list[str]]) -> None:
    async def body() -> None:
        reload = Reload()

        def at_once() -> None:
            reload.everything_was_read()
            reload.synced()

        await reload.run(at_once)
        assert words(said()) == [READY, "RELOADING=1", READY]
        assert len(reload.clock.waited) == 1

    asyncio.run(body())


def test_a_reload_without_a_readable_cluster_ends_and_the_status_says_so_until_it_is_read(
    said: Callable[[], list[str]],
) -> None:
    async def body() -> None:
        reload = Reload()
        await reload.run(lambda: None, reload.synced)
        assert words(said()) == [READY, "RELOADING=1", f"READY=1\nSTATUS={UNREAD}"]
        assert reload.compared == 1
        reload.synced()
        assert said() == []
        reload.everything_was_read()
        reload.synced()
        assert said() == ["STATUS=enforcing"]

    asyncio.run(body())


def test_a_reload_ends_although_the_kernel_refuses(said: Callable[[], list[str]]) -> None:
    async def body() -> None:
        reload = Reload()
        await reload.run(reload.everything_was_read)
        assert words(said()) == [READY, "RELOADING=1", "READY=1\nSTATUS=the kernel is not in sync yet"]
        assert sum(reload.clock.waited[1:]) == READ_TIMEOUT_SECONDS + COMMIT_TIMEOUT_SECONDS
        reload.synced()
        assert said() == ["STATUS=enforcing"]

    asyncio.run(body())


def test_a_problem_during_a_reload_is_in_the_status_before_the_reload_ends(said: Callable[[], list[str]]) -> None:
    async def body() -> None:
        reload = Reload()
        await reload.run(lambda: reload.readiness.set_side_problem("changes are not in force: EBUSY"))
        assert words(said())[:3] == [READY, "RELOADING=1", "STATUS=enforcing; changes are not in force: EBUSY"]

    asyncio.run(body())


def test_before_the_start_has_ended_a_problem_is_no_status_of_its_own(said: Callable[[], list[str]]) -> None:
    notifier = ReadinessNotifier(Waits())
    notifier.set_side_problem("changes are not in force: EBUSY")
    assert said() == []
    notifier.compared()
    assert said() == ["READY=1\nSTATUS=enforcing; changes are not in force: EBUSY"]


def test_a_status_of_any_length_leaves_the_message_short_enough_for_systemd(said: Callable[[], list[str]]) -> None:
    notifier = ReadinessNotifier(Waits())
    notifier.set_side_problem("ö" * 5000)
    notifier.compared()
    (message,) = said()
    assert message.startswith("READY=1\nSTATUS=enforcing; öö")
    assert message.endswith("ö…")
    assert len(message.encode()) < 4096
