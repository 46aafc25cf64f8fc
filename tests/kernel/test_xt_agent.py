"""An agent whose rules are in iptables and ipset: it starts, puts back what others change, and replaces nftables."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from threading import Event, Thread
from typing import Self

import pytest

from nfagent.agent import Agent
from nfagent.config import load_settings
from nfagent.introspection.agent_client import get_json
from nfagent.kernel.table_queries import own_table
from tests.kernel.test_cli import CLUSTER
from tests.support.agent_in_process import isolate, run_alone, write_manifests
from tests.support.own_namespace import own_namespace

pytestmark = [
    pytest.mark.kernel,
    pytest.mark.skipif(os.geteuid() != 0, reason="needs root: network namespaces and iptables"),
]

DEADLINE = 120.0
POD = "10.0.0.1"


@pytest.fixture(autouse=True)
def _node(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Be a node with a Pod that a policy isolates, in a network namespace of its own."""
    isolate(monkeypatch, tmp_path)
    monkeypatch.setenv("XTABLES_LOCKFILE", str(tmp_path / "xtables.lock"))
    write_manifests(tmp_path, CLUSTER)
    with own_namespace("xtagent"):
        yield


@asynccontextmanager
async def agent(backend: str) -> AsyncIterator[Agent]:
    """Run an agent until its rules are in force, and end it afterwards."""
    made = Agent(load_settings(flags={"node": "node-a", "backend": backend}))
    running = asyncio.create_task(made.run())
    try:
        await until(lambda: made._ready)  # noqa: SLF001 - what systemd is told
        yield made
    finally:
        os.kill(os.getpid(), signal.SIGTERM)
        await running


async def until(holds: Callable[[], bool]) -> None:
    """Ask in a thread until it holds; the test's deadline ends it otherwise."""
    while not await asyncio.to_thread(holds):
        continue


def jumps() -> list[str]:
    """Return what the first rules of FORWARD say, of the variant that has rules of ours."""
    saved = "".join(map(saved_mangle, ("legacy", "nft")))
    return [line for line in saved.splitlines() if line.startswith("-A FORWARD -j nfa-")]


def saved_mangle(variant: str) -> str:
    """Return the rules of table mangle; asked for again where a set goes meanwhile that a rule has looked up."""
    while True:
        command = [f"iptables-{variant}-save", "-t", "mangle"]
        done = subprocess.run(command, text=True, check=False, capture_output=True)
        if done.returncode == 0:
            return done.stdout
        assert "Set with index" in done.stderr, done.stderr


def judged() -> bool:
    """Return whether the Pod is in a set of ours."""
    return f" {POD}\n" in run("ipset", "save")


def run(*command: str) -> str:
    return subprocess.run(command, text=True, check=True, capture_output=True).stdout


def test_rules_are_in_force_and_the_agent_says_where_and_why(tmp_path: Path) -> None:
    async def body() -> None:
        async with agent("iptables"):
            assert (len(jumps()), judged()) == (1, True)
            assert own_table() is None
            state = await asyncio.to_thread(get_json, tmp_path / "run" / "agent.sock", "/v1/dump/state", {})
            backend = state["agent"]["backend"]
            assert (backend["name"], backend["reason"]) == ("iptables", "the settings say so")
            assert backend["problems"] == []
            found = await asyncio.to_thread(get_json, tmp_path / "run" / "agent.sock", "/v1/dump/diff", {})
            assert found["equal"] is True

    run_alone(body, DEADLINE)
    assert (len(jumps()), judged()) == (1, True), "the rules stay when the agent ends"


def test_auto_is_nftables_where_the_kernel_has_it() -> None:
    async def body() -> None:
        async with agent("auto"):
            assert jumps() == []
            assert own_table() is not None

    run_alone(body, DEADLINE)


def test_flushed_rules_and_members_are_put_back() -> None:
    async def body() -> None:
        async with agent("iptables"):
            run("iptables-nft", "-t", "mangle", "-F")
            await until(lambda: bool(jumps()))
            run("ipset", "flush")
            await until(judged)

    run_alone(body, DEADLINE)


class Gaps:
    """Looks for a moment without any rules, in a thread: first for those before, as those after come before they go."""

    def __init__(self, first: Callable[[], bool], then: Callable[[], bool]) -> None:
        self.found = 0
        self.looks = 0
        self._first, self._then = first, then
        self._ended = Event()
        self._thread = Thread(target=self._look)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ended.set()
        self._thread.join()

    def _look(self) -> None:
        while not self._ended.is_set():
            self.looks += 1
            self.found += not self._first() and not self._then()


def in_nftables() -> bool:
    return own_table() is not None


def in_iptables() -> bool:
    return bool(jumps()) and judged()


@pytest.mark.parametrize(
    ("before", "after"), [("nftables", "iptables"), ("iptables", "nftables")], ids=["to iptables", "to nftables"]
)
def test_the_other_backends_rules_go_when_these_are_in_force(before: str, after: str) -> None:
    there = {"nftables": in_nftables, "iptables": in_iptables}

    async def start(backend: str) -> None:
        async with agent(backend):
            pass

    async def switch() -> None:
        async with agent(after):
            await until(lambda: not there[before]())
            assert there[after]()

    run_alone(lambda: start(before), DEADLINE)
    assert there[before]()
    with Gaps(there[before], there[after]) as gaps:
        run_alone(switch, DEADLINE)

    assert gaps.looks > 1
    assert gaps.found == 0
    assert there[after]()
    if after == "nftables":
        assert "nfa-" not in run("iptables-nft-save") + run("iptables-legacy-save") + run("ipset", "save")
