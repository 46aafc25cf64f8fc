"""When the ruleset in force is saved, and what the file then has."""

from __future__ import annotations

import asyncio
import os
from contextlib import suppress
from pathlib import Path

import pytest

from nfagent.checkpoint.ruleset_codec import SavedHeader, SavedRuleset, encode_batches
from nfagent.checkpoint.ruleset_file import read_saved
from nfagent.controllers.ruleset_saver import RulesetSaver
from nfagent.desired.state import DesiredState
from nfagent.nftables.objects import Ruleset
from tests.support.two_node_cluster import decoded, node, pod, policy


class Steps:
    """A clock on which every wait passes at once, and runs the next step; without a further one the test ends."""

    def __init__(self) -> None:
        self.now = 1000.0
        self.waited: list[float] = []
        self.ended = asyncio.Event()
        self.steps: list[object] = []

    def monotonic(self) -> float:
        return self.now

    def now_ns(self) -> int:
        return int(self.now * 1e9)

    async def wait(self, event: asyncio.Event, seconds: float) -> bool:
        self.waited.append(seconds)
        self.now += seconds
        if not self.steps:
            self.ended.set()
            await event.wait()
        step = self.steps.pop(0)
        if callable(step):
            step()
        return False


class Node:
    """A node's desired state, and the number of its commits; None while the kernel is behind."""

    def __init__(self, folder: Path) -> None:
        self.path = folder / "state" / "saved-ruleset"
        self.desired = DesiredState("a")
        self.desired.put(decoded(node("a")))
        self.desired.put(decoded(policy("shop/closed")))
        self.commits: int | None = 1
        self.clock = Steps()
        self.saver = RulesetSaver(self.path, self.clock, self.header, self.desired.ruleset, lambda: self.commits)

    def header(self) -> SavedHeader:
        return SavedHeader(
            version="1",
            node="a",
            boot_id="",
            written_at=self.clock.now,
            pod_ranges=("10.64.0.0/24",),
            holds_unknown=False,
        )

    def add(self, number: int) -> None:
        """Add a Pod, and commit."""
        self.desired.put(decoded(pod(f"shop/p{number}", "a", number)))
        self.desired.drain_changes()
        self.commits = (self.commits or 0) + 1

    def run(self, *steps: object) -> None:
        """Run the saver through these steps, one for each of its waits, then let it stop."""
        self.clock.steps = list(steps)
        self.clock.ended = asyncio.Event()

        async def body() -> None:
            running = asyncio.create_task(self.saver.run())
            await self.clock.ended.wait()
            running.cancel()
            with suppress(asyncio.CancelledError):
                await running
            await self.saver.finish()

        asyncio.run(body())

    def saved(self) -> SavedRuleset:
        stored = read_saved(self.path)
        assert stored is not None
        return stored.ruleset


def content(ruleset: Ruleset) -> tuple[bytes, ...]:
    return encode_batches(ruleset)[0]


@pytest.fixture
def at(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Node:
    # A busy disk may take longer than an agent that stops waits for it.
    monkeypatch.setattr("nfagent.controllers.ruleset_saver._STOP_SECONDS", 60.0)
    return Node(tmp_path)


def test_the_ruleset_is_saved_soon_after_the_first_commit(at: Node) -> None:
    at.run("started")
    assert at.saved().batches == content(at.desired.ruleset())
    assert at.saved().header.written_at == 1005.0
    assert at.clock.waited == [5.0, 30.0]


def test_a_commit_is_saved_at_the_next_turn_and_no_commit_writes_nothing(at: Node) -> None:
    at.run("started", lambda: at.add(10), "quiet", "quiet")
    assert at.saved().header.written_at == 1035.0
    assert at.saved().batches == content(at.desired.ruleset())


def test_while_the_kernel_is_behind_nothing_is_saved(at: Node) -> None:
    def behind() -> None:
        at.commits = None

    at.run(behind, "behind", "behind")
    assert not at.path.exists()


def test_an_equal_ruleset_is_not_written_again_but_its_time_is_set(at: Node) -> None:
    at.run("started")
    before = at.path.read_bytes()
    again = Node(at.path.parents[1])
    again.clock.now = 5000.0
    old = at.path.stat().st_mtime - 3600
    os.utime(at.path, (old, old))
    again.run("started")
    assert at.path.read_bytes() == before
    assert at.path.stat().st_mtime > old


def test_what_was_committed_last_is_saved_when_the_agent_stops(at: Node) -> None:
    at.run("started")
    at.add(11)
    asyncio.run(at.saver.finish())
    assert at.saved().batches == content(at.desired.ruleset())


def test_a_disk_that_refuses_is_reported_and_tried_again(at: Node) -> None:
    at.path.parent.write_text("a file in the folder's place")
    problems: list[str] = []

    def look() -> None:
        problems.append(at.saver.status.problem)

    def repair() -> None:
        look()
        at.path.parent.unlink()

    at.run("started", repair, look)
    assert [bool(problem) for problem in problems] == [True, False]
    assert f"{at.path} can't be written" in problems[0]
    assert at.saved().batches == content(at.desired.ruleset())


def test_a_file_that_was_deleted_is_written_again_with_the_next_commit(at: Node) -> None:
    def delete() -> None:
        at.path.unlink()
        at.add(12)

    at.run("started", delete)
    assert at.saved().batches == content(at.desired.ruleset())
