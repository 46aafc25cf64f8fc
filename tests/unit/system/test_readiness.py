"""When the agent calls itself ready: at its start, and after a reload. Time is the test's own."""

from __future__ import annotations

import asyncio
import re
import socket
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from nfagent.system.readiness import COMMIT_TIMEOUT_SECONDS, READ_TIMEOUT_SECONDS, ReadinessNotifier
from nfagent.system.systemd import process_age

UNIT = Path(__file__).parents[3] / "systemd" / "nfagent.service"
WAITING = "READY=1\nSTATUS=waiting to read the cluster; keeping the existing rules"
READY = "READY=1\nSTATUS=enforcing"
UNREAD = "enforcing; cluster not read again yet; keeping the last known state"


class Waits:
    """A clock by which what isn't there comes too late, unless the test brings it in time."""

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


@pytest.fixture
def said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[], list[str]]]:
    """Give what systemd was told since the last call."""
    path = str(tmp_path / "notify")
    monkeypatch.setenv("NOTIFY_SOCKET", path)
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as opened:
        opened.bind(path)
        opened.settimeout(0)

        def so_far() -> list[str]:
            found = []
            while True:
                try:
                    found.append(opened.recv(4096).decode())
                except BlockingIOError:
                    return found

        yield so_far


@pytest.mark.parametrize("gathered", [True, False], ids=["a cluster that was read", "one that can't be read"])
def test_the_node_starts_without_rules_only_where_the_cluster_is_read_too_late(
    said: Callable[[], list[str]],
    gathered: bool,  # noqa: FBT001 - a table's column
) -> None:
    async def body() -> None:
        event = asyncio.Event()
        if gathered:
            event.set()
        await ReadinessNotifier(Waits()).await_start(event)

    asyncio.run(body())
    assert said() == ([] if gathered else [WAITING])


@pytest.mark.parametrize(
    ("age", "left"), [(0.0, 45.0), (20.0, 25.0), (60.0, 0.0)], ids=["at once", "in time", "after a plugin's minute"]
)
def test_patience_counts_from_the_start_of_the_process(
    monkeypatch: pytest.MonkeyPatch, age: float, left: float
) -> None:
    monkeypatch.setattr("nfagent.system.systemd.process_age", lambda: age)
    clock = Waits()
    asyncio.run(ReadinessNotifier(clock).await_start(asyncio.Event()))
    assert clock.waited == [left]


def test_a_process_knows_how_old_it_is() -> None:
    before = process_age()
    assert 0.0 < before <= process_age()


@pytest.mark.parametrize(
    "total", [READ_TIMEOUT_SECONDS, READ_TIMEOUT_SECONDS + COMMIT_TIMEOUT_SECONDS], ids=["a start", "a reload"]
)
def test_systemd_waits_longer_than_the_agent_does(total: float) -> None:
    found = re.search(r"^TimeoutStartSec=(\d+)$", UNIT.read_text("utf-8"), re.MULTILINE)
    assert found is not None
    assert int(found[1]) > total


def test_what_holds_is_said_once_and_anew_where_it_changes(said: Callable[[], list[str]]) -> None:
    readiness = ReadinessNotifier(Waits())
    for status in ("enforcing", "enforcing", "nothing is changed: x", "enforcing"):
        readiness.settled(status)
    assert said() == [READY, "STATUS=nothing is changed: x", "STATUS=enforcing"]


def test_a_message_of_others_is_no_state_of_its_own(said: Callable[[], list[str]]) -> None:
    ReadinessNotifier(Waits()).settled("API server: x\nMAINPID=1\x1b[2J")
    assert said() == ["READY=1\nSTATUS=API server: x\\nMAINPID=1\\x1b[2J"]


class Reload:
    """A reload of an agent that is ready, and what happens while it is waited for."""

    def __init__(self) -> None:
        self.clock = Waits()
        self.readiness = ReadinessNotifier(self.clock)
        self.compared = 0
        self.read = asyncio.Event()

    def synced(self) -> None:
        """Take in a comparison that has nothing to do with the reload, or ends it."""
        self.readiness.settled()

    def everything_was_read(self) -> None:
        self.readiness.whole()
        self.read.set()

    def compare(self) -> None:
        self.compared += 1

    async def run(self, *meanwhile: Callable[[], None]) -> None:
        self.readiness.settled()
        self.clock.meanwhile = list(meanwhile)
        await self.readiness.await_reload(self.read, self.compare)


def words(told: list[str]) -> list[str]:
    """Leave out when the reload began."""
    return [re.sub(r"(RELOADING=1)\nMONOTONIC_USEC=\d+$", r"\1", state) for state in told]


def test_a_reload_says_when_it_began(said: Callable[[], list[str]]) -> None:
    asyncio.run(Reload().run())
    assert re.fullmatch(r"RELOADING=1\nMONOTONIC_USEC=[1-9]\d+", said()[1])


def test_a_reload_ends_when_the_kernel_agrees_with_what_was_read_again(said: Callable[[], list[str]]) -> None:
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


def test_a_kernel_that_agreed_at_once_is_not_waited_for(said: Callable[[], list[str]]) -> None:
    async def body() -> None:
        reload = Reload()

        def at_once() -> None:
            reload.everything_was_read()
            reload.synced()

        await reload.run(at_once)
        assert words(said()) == [READY, "RELOADING=1", READY]
        assert len(reload.clock.waited) == 1

    asyncio.run(body())


def test_a_reload_of_a_cluster_that_cannot_be_read_ends_and_says_so_until_it_was(said: Callable[[], list[str]]) -> None:
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


def test_a_reload_does_not_wait_for_ever_for_a_kernel_that_refuses(said: Callable[[], list[str]]) -> None:
    async def body() -> None:
        reload = Reload()
        await reload.run(reload.everything_was_read)
        assert words(said()) == [READY, "RELOADING=1", "READY=1\nSTATUS=the kernel is not in sync yet"]
        assert sum(reload.clock.waited[1:]) == READ_TIMEOUT_SECONDS + COMMIT_TIMEOUT_SECONDS
        reload.synced()
        assert said() == ["STATUS=enforcing"]

    asyncio.run(body())
