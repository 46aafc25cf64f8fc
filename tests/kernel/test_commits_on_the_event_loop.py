"""Structural commits run on the event loop while they are short and libnftables is idle, otherwise in the thread."""

from __future__ import annotations

import asyncio
import os
import threading
from collections.abc import Callable, Coroutine, Iterator
from typing import Any

import pytest

from nfagent.errors import KernelError
from nfagent.kernel.nft_client import NftClient
from nfagent.kernel.nft_socket import NftSocket
from nfagent.netlink.nft_messages import NFPROTO_INET
from nfagent.nftables.objects import Accept, Chain, NamedSet, Rule
from nfagent.nftables.transaction import (
    AddChain,
    AddRule,
    AddSet,
    AddTable,
    ChangeElements,
    Delete,
    Transaction,
)
from tests.support.own_namespace import own_namespace

pytestmark = [
    pytest.mark.kernel,
    pytest.mark.skipif(os.geteuid() != 0, reason="needs root: network namespaces and nf_tables"),
]

DEADLINE = 60.0
QUICK, SLOW = 0.002, 0.004
LOOP, THREAD = "loop", "thread"
ADDRESSES = NamedSet("address", 4)
MANY = tuple(f"10.0.{number // 200}.{number % 200}" for number in range(257))


@pytest.fixture(autouse=True)
def _namespace() -> Iterator[None]:
    """Enter a new network namespace with this thread and its threads."""
    with own_namespace("turns"):
        yield


class Held(NftSocket):
    """Commits elements, but not before it is let go."""

    def __init__(self) -> None:
        super().__init__()
        self.began, self.let_go = threading.Event(), threading.Event()

    def commit(self, transaction: Transaction, *, family: int = NFPROTO_INET) -> None:
        self.began.set()
        assert self.let_go.wait(DEADLINE)
        super().commit(transaction, family=family)


class TimedCommits:
    """libnftables with a clock that sets the duration of each short commit; records the thread of each commit."""

    def __init__(self) -> None:
        self.elements = Held()
        self.kernel = NftClient(self.elements, monotonic=self._now)
        self.takes = QUICK
        self._asked: list[str] = []
        self._clock = 0.0
        self._number = 0

    async def commit(self, takes: float = QUICK, *, sets: int = 1) -> list[str]:
        """Commit some sets; return the threads in which that was timed."""
        self.takes = takes
        first, self._number = self._number, self._number + sets
        names = (f"made{number}" for number in range(first, first + sets))
        await self.kernel.apply(tuple(AddSet(name, ADDRESSES) for name in names))
        return self.where()

    def where(self) -> list[str]:
        """Return where commits were timed since the last time."""
        asked, self._asked = self._asked, []
        return asked[::2]

    async def made(self) -> int:
        return len((await self.kernel.read()).sets)

    def _now(self) -> float:
        self._asked.append(LOOP if threading.current_thread() is threading.main_thread() else THREAD)
        self._clock += self.takes
        return self._clock


def scenario(body: Callable[[TimedCommits], Coroutine[Any, Any, None]]) -> Callable[[], None]:
    """Run a test's coroutine in an event loop of its own, with an empty table there."""

    async def run() -> None:
        stage = TimedCommits()
        try:
            stage.kernel.commit_now((AddTable(),))
            async with asyncio.timeout(DEADLINE):
                await body(stage)
        finally:
            stage.elements.let_go.set()
            stage.kernel.close()

    def test() -> None:
        asyncio.run(run())

    test.__name__ = body.__name__
    return test


@scenario
async def test_a_short_commit_runs_on_the_loop_while_the_last_one_was_quick(stage: TimedCommits) -> None:
    assert await stage.commit() == [THREAD], "nothing is known yet"
    assert await stage.commit() == [LOOP]
    assert await stage.commit(SLOW) == [LOOP]
    assert await stage.commit(SLOW) == [THREAD]
    assert await stage.commit() == [THREAD]
    assert await stage.commit() == [LOOP]
    assert await stage.made() == 6


LONG = "x" * 200


@pytest.mark.parametrize(
    "long",
    [
        pytest.param(tuple(AddSet(f"{LONG}{number}", ADDRESSES) for number in range(80)), id="much text"),
        pytest.param(tuple(AddSet(f"x{number}", ADDRESSES) for number in range(257)), id="many commands"),
        pytest.param(
            (
                AddSet("x", ADDRESSES),
                AddRule("stays", Rule(verdict=Accept())),
                ChangeElements("add", "x", MANY),
            ),
            id="many elements",
        ),
    ],
)
def test_long_commits_run_in_the_thread_and_do_not_count_for_short_ones(long: Transaction) -> None:
    async def body(stage: TimedCommits) -> None:
        stage.kernel.commit_now((AddChain("stays", Chain()),))
        await stage.commit()
        stage.takes = SLOW
        await stage.kernel.apply(long)
        assert stage.where() == []
        assert await stage.commit() == [LOOP]

    scenario(body)()


@scenario
async def test_what_is_refused_on_the_loop_is_an_error_as_in_the_thread(stage: TimedCommits) -> None:
    for where in THREAD, LOOP:
        with pytest.raises(KernelError, match="absent"):
            await stage.kernel.apply((Delete("set", "absent"),))
        assert stage.where() == [where]


@scenario
async def test_no_commit_runs_on_the_loop_while_the_thread_works_even_if_its_caller_was_cancelled(
    stage: TimedCommits,
) -> None:
    await stage.commit()
    (name,) = (await stage.kernel.read()).sets
    given_up = asyncio.create_task(stage.kernel.apply((ChangeElements("add", name, MANY),)))
    await asyncio.to_thread(stage.elements.began.wait, DEADLINE)
    given_up.cancel()
    await asyncio.gather(given_up, return_exceptions=True)

    later = asyncio.create_task(stage.commit())
    for _ in range(100):
        await asyncio.sleep(0)
    assert (later.done(), stage.where()) == (False, [])

    stage.elements.let_go.set()
    assert await later == [THREAD]
    found = await stage.kernel.read()
    assert (len(found.sets), found.sets[name].elements) == (2, frozenset(MANY))
    assert await stage.commit() == [LOOP]
