"""The verdict log of a real agent: a packet that is read late is judged by what was in force when it was logged."""

from __future__ import annotations

import asyncio
import os
import signal
import time
from collections.abc import Iterator
from pathlib import Path

import aiohttp
import pytest

from nfagent.agent import Agent
from nfagent.clock import Clock
from nfagent.config import load_settings
from nfagent.kernel.nflog import NflogSource, OnPackets
from nfagent.kernel.nflog_reader import NflogReader
from nfagent.model.objects import ObjectRef
from nfagent.verdicts.records import Record, decode
from tests.kernel.test_cli import CLUSTER
from tests.support.agent_in_process import isolate, write_manifests
from tests.support.own_namespace import own_namespace
from tests.unit.verdicts.test_attribution import TCP, logged, packet, ports

pytestmark = [
    pytest.mark.kernel,
    pytest.mark.skipif(os.geteuid() != 0, reason="needs root: network namespaces, nf_tables and NFLOG"),
]

DEADLINE = 60.0
WEB, DB = "10.0.0.1", "10.0.1.2"


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    isolate(monkeypatch, tmp_path)
    write_manifests(tmp_path, CLUSTER)
    with own_namespace("late"):
        yield tmp_path


class Late:
    """Passes packets to a running agent as its reader of the NFLOG group would, but when a test says so."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        made: list[OnPackets] = []

        class Reader(NflogReader):
            def __init__(self, source: NflogSource, clock: Clock, on_packets: OnPackets) -> None:
                super().__init__(source, clock, on_packets)
                made.append(on_packets)

        monkeypatch.setattr("nfagent.verdict_log_parts.NflogReader", Reader)
        self._made = made

    def read(self, timestamp_ns: int) -> None:
        packet_of_web = packet(WEB, DB, TCP, ports(40_000, 5432))
        self._made[0]([logged("allow egress shop/web", packet_of_web, timestamp_ns)])


def _written(log: Path) -> list[Record]:
    """Return the records of whole lines: the last one may still be written."""
    return [decode(line) for line in log.read_bytes().split(b"\n")[:-1]] if log.exists() else []


async def records(log: Path, count: int) -> list[Record]:
    async with asyncio.timeout(DEADLINE):
        while len(_written(log)) < count:  # noqa: ASYNC110 - a file that another thread writes
            await asyncio.sleep(0.02)
    return _written(log)


async def in_sync(folder: Path) -> None:
    """Wait until the agent has committed everything."""
    async with asyncio.timeout(DEADLINE):
        while True:
            try:
                async with aiohttp.ClientSession(
                    connector=aiohttp.UnixConnector(str(folder / "run" / "agent.sock"))
                ) as session:
                    answer = await (await session.get("http://agent/v1/dump/state")).json()
            except aiohttp.ClientConnectionError:
                answer = {}
            if answer.get("agent", {}).get("reconcile", {}).get("in_sync"):
                return
            await asyncio.sleep(0.02)


def test_a_pod_that_is_gone_when_a_packet_is_read_is_named_until_its_end_is_committed(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    late = Late(monkeypatch)
    log = folder / "log" / "policy_action.log"

    async def body() -> None:
        agent = Agent(load_settings(flags={"node": "node-a"}))
        running = asyncio.create_task(agent.run())
        try:
            await in_sync(folder)
            logged_at = time.time_ns()
            await agent.apply([ObjectRef("Pod", "shop", "db")])
            await in_sync(folder)
            late.read(logged_at)
            late.read(time.time_ns())
            first, second = await records(log, 2)
        finally:
            os.kill(os.getpid(), signal.SIGTERM)
            await running
        assert (first.dest.pod_name, first.dest.instance) == ("db", "")
        assert (second.dest.pod_name, second.dest.instance) == ("", DB)

    asyncio.run(body())
