"""More connections revoked at once than the reply tuple sets take: the rest stays denied, under re-check."""

from __future__ import annotations

import asyncio
import json
import os
import subprocess
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, closing
from pathlib import Path
from typing import Any

import pytest

from nfagent.clock import SystemClock
from nfagent.controllers.conntrack_revoker import ConntrackRevoker
from nfagent.controllers.reconciler import Reconciler
from nfagent.desired.state import DesiredState
from nfagent.kernel.conntrack import ConntrackClient, revoked_set_size
from nfagent.kernel.nft_client import NftClient
from nfagent.model.objects import Pod
from nfagent.nftables.objects import FLOW_SET_SIZE
from tests.support.conntrack_table import SERVER, create, limit
from tests.support.own_namespace import own_namespace
from tests.support.two_node_cluster import DECODERS, policy

pytestmark = [
    pytest.mark.kernel,
    pytest.mark.skipif(os.geteuid() != 0, reason="needs root: network namespaces, nf_tables and conntrack"),
]

DEADLINE = 240.0
MANY = 80_128  # 313 clients, 256 connections each
COUNT = Path("/proc/sys/net/netfilter/nf_conntrack_count")
WAY = "10.0.0.1 . tcp . 80 . 10.0.0.2 . 4000"


@pytest.fixture(autouse=True)
def _namespace() -> Iterator[None]:
    """Enter a new network namespace with this thread, its threads and processes."""
    with own_namespace("ways"):
        yield


def nft(*arguments: str) -> str:
    return subprocess.run(["nft", *arguments], capture_output=True, text=True, check=True, timeout=DEADLINE).stdout


def ways() -> dict[str, Any]:
    """Return the set of ways of IPv4, as nft lists it."""
    listed = json.loads(nft("-j", "list", "set", "inet", "nfagent", "revoked4"))["nftables"]
    found: dict[str, Any] = next(item["set"] for item in listed if "set" in item)
    return found


def remembered() -> int:
    return len(ways().get("elem", ()))


def tracked() -> int:
    return int(COUNT.read_text(encoding="ascii"))


class RestingClock(SystemClock):
    """Time whose long pauses end when a test says so."""

    def __init__(self) -> None:
        self.rests: list[float] = []
        self.ended = asyncio.Event()

    async def wait(self, event: asyncio.Event, seconds: float) -> bool:
        if event.is_set() or seconds < 1:
            return await super().wait(event, seconds)
        self.rests.append(seconds)
        await self.ended.wait()
        self.ended.clear()
        return event.is_set()


class RevocationPipeline:
    """The desired state, the kernel, the reconciler and the revoker, as in the agent."""

    def __init__(self, capacity: int) -> None:
        self.desired = DesiredState("a", reply_tuples=capacity)
        self.kernel = NftClient()
        self.connections = ConntrackClient()
        self.reconciler = Reconciler(self.kernel, SystemClock(), self.desired, on_sync=self._synced)
        self.clock = RestingClock()
        self.revoker = ConntrackRevoker(
            self.desired,
            self.connections,
            self.kernel,
            self.clock,
            self.reconciler.wake,
            undivided=self.reconciler.undivided,
        )
        self.desired.put(Pod("shop", "db", (("app", "db"),), "a", (SERVER,), workload_name="db"))

    def _synced(self) -> None:
        self.revoker.committed()

    async def until(self, so: Callable[[], bool]) -> None:
        async with asyncio.timeout(DEADLINE):
            while not so():  # noqa: ASYNC110 - the kernel sends no notification
                await asyncio.sleep(0.02)

    def isolate(self) -> None:
        denial = DECODERS["NetworkPolicy"](policy("shop/deny", ingress=[]))
        assert denial is not None
        self.desired.put(denial)
        self.reconciler.wake()


@asynccontextmanager
async def running(capacity: int) -> AsyncIterator[RevocationPipeline]:
    stage = RevocationPipeline(capacity)
    with closing(stage.kernel), closing(stage.connections):
        tasks = [asyncio.create_task(stage.reconciler.run()), asyncio.create_task(stage.revoker.run())]
        try:
            stage.reconciler.wake()
            await stage.until(lambda: stage.reconciler.status.in_sync)
            create(MANY)
            assert tracked() == MANY
            yield stage
            assert not any(task.done() for task in tasks)
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)


@pytest.mark.skipif(
    os.geteuid() == 0 and 0 < limit() < MANY + FLOW_SET_SIZE, reason="the conntrack limit of this machine is too low"
)
def test_where_the_set_is_as_large_as_conntracks_all_are_ended_in_one_round() -> None:
    async def body() -> None:
        async with running(revoked_set_size()) as stage:
            stage.isolate()
            await stage.until(lambda: stage.revoker.status.revoked == MANY and not stage.desired.recheck_addresses)
            status = stage.revoker.status
            assert (status.waiting, status.last_error, status.evaluated) == (0, "", MANY)
        assert (tracked(), remembered(), ways()["size"]) == (0, MANY, revoked_set_size())

    asyncio.run(body())


def test_where_the_set_is_full_what_fits_is_ended_and_the_rest_stays_closed_until_it_fits() -> None:
    async def body() -> None:
        async with running(FLOW_SET_SIZE) as stage:
            stage.isolate()
            await stage.until(lambda: len(stage.clock.rests) == 1)
            status = stage.revoker.status
            assert (status.revoked, status.waiting) == (FLOW_SET_SIZE, MANY - FLOW_SET_SIZE)
            assert status.last_error.startswith("full: revoked4")
            assert (tracked(), remembered()) == (MANY - FLOW_SET_SIZE, FLOW_SET_SIZE)
            assert stage.desired.recheck_addresses.keys() == {SERVER}, "closed: its packets are judged one by one"
            assert SERVER in nft("list", "set", "inet", "nfagent", "recheck4")
            # As if the first ones had been silent for five minutes.
            nft("flush", "set", "inet", "nfagent", "revoked4")
            stage.clock.ended.set()
            await stage.until(lambda: not stage.desired.recheck_addresses and stage.reconciler.status.in_sync)
            assert (status.revoked, status.waiting, status.last_error) == (MANY, 0, "")
        assert (tracked(), remembered()) == (0, MANY - FLOW_SET_SIZE)

    asyncio.run(body())


@pytest.mark.skipif(
    tuple(map(int, os.uname().release.split(".")[:2])) < (6, 5), reason="Linux enlarges a set from 6.5 on"
)
def test_a_smaller_set_of_an_earlier_start_is_enlarged_and_keeps_its_elements() -> None:
    async def body() -> None:
        small, large = DesiredState("a").ruleset(), DesiredState("a", reply_tuples=4 * FLOW_SET_SIZE).ruleset()
        with closing(NftClient()) as kernel:
            await kernel.apply(await kernel.difference(small))
        nft("add", "element", "inet", "nfagent", "revoked4", f"{{ {WAY} }}")
        with closing(NftClient()) as kernel:
            assert await kernel.difference(large) == ()
            assert kernel.as_written(await kernel.read(), large) == large
        assert (ways()["size"], remembered()) == (4 * FLOW_SET_SIZE, 1)

    asyncio.run(body())


def test_a_set_that_is_larger_than_it_need_be_stays_and_keeps_what_it_remembers() -> None:
    async def body() -> None:
        small, large = DesiredState("a").ruleset(), DesiredState("a", reply_tuples=4 * FLOW_SET_SIZE).ruleset()
        with closing(NftClient()) as kernel:
            await kernel.apply(await kernel.difference(large))
            nft("add", "element", "inet", "nfagent", "revoked4", f"{{ {WAY} }}")
            assert await kernel.difference(small) == ()
            assert kernel.as_written(await kernel.read(), small) == small, "dump diff calls them equal"
        assert (ways()["size"], remembered()) == (4 * FLOW_SET_SIZE, 1)

    asyncio.run(body())
