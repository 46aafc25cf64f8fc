"""Small transactions are committed on the event loop, large ones in the worker thread, one after the other."""

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
from nfagent.nftables.commit_parts import LARGEST_PART
from nfagent.nftables.objects import Accept, Chain, Hook, NamedSet, Rule
from nfagent.nftables.transaction import (
    COMMAND_SIZE,
    AddChain,
    AddRule,
    AddSet,
    AddTable,
    ChangeElements,
    Delete,
    Transaction,
    size_of,
)
from tests.support.own_namespace import own_namespace

pytestmark = [
    pytest.mark.kernel,
    pytest.mark.skipif(os.geteuid() != 0, reason="needs root: network namespaces and nf_tables"),
]

DEADLINE = 60.0
LOOP, THREAD = "loop", "thread"
ADDRESSES = NamedSet("address", 4)


@pytest.fixture(autouse=True)
def _namespace() -> Iterator[None]:
    """Enter a new network namespace with this thread and its threads."""
    with own_namespace("turns"):
        yield


class HeldSocket(NftSocket):
    """Commits; in the worker thread not before it is let go. Records the thread and the size of each commit."""

    def __init__(self) -> None:
        super().__init__()
        self.began, self.let_go = threading.Event(), threading.Event()
        self.let_go.set()
        self.commits: list[tuple[str, int]] = []

    def commit(self, transaction: Transaction, *, family: int = NFPROTO_INET) -> None:
        where = LOOP if threading.current_thread() is threading.main_thread() else THREAD
        self.commits.append((where, size_of(transaction)))
        if where == THREAD:
            self.began.set()
            assert self.let_go.wait(DEADLINE)
        super().commit(transaction, family=family)


class Stage:
    """A client with an empty table."""

    def __init__(self) -> None:
        self.socket = HeldSocket()
        self.kernel = NftClient(self.socket)

    async def commits_of(self, transaction: Transaction) -> list[tuple[str, int]]:
        """Apply a transaction; return thread and size of each of its batches."""
        self.socket.commits.clear()
        await self.kernel.apply(transaction)
        return self.socket.commits[:]


def scenario(body: Callable[[Stage], Coroutine[Any, Any, None]]) -> Callable[[], None]:
    """Run a test's coroutine in an event loop of its own, with an empty table there."""

    async def run() -> None:
        stage = Stage()
        try:
            stage.kernel.commit_now((AddTable(),))
            async with asyncio.timeout(DEADLINE):
                await body(stage)
        finally:
            stage.socket.let_go.set()
            stage.kernel.close()

    def test() -> None:
        asyncio.run(run())

    test.__name__ = body.__name__
    return test


def addresses(count: int) -> tuple[str, ...]:
    return tuple(f"10.{number >> 16}.{number >> 8 & 255}.{number & 255}" for number in range(count))


def filled(size: int) -> Transaction:
    """Return a transaction of this size: a new set with elements."""
    return (AddSet("x", ADDRESSES), ChangeElements("add", "x", addresses(size - 2 * COMMAND_SIZE)))


@pytest.mark.parametrize(
    ("size", "where"),
    [
        pytest.param(17, LOOP, id="a set with an element"),
        pytest.param(1_024, LOOP, id="the largest that the event loop commits"),
        pytest.param(1_025, THREAD, id="one element more"),
    ],
)
def test_a_transaction_is_one_batch_on(size: int, where: str) -> None:
    async def body(stage: Stage) -> None:
        assert await stage.commits_of(filled(size)) == [(where, size)]

    scenario(body)()


@scenario
async def test_rules_and_elements_of_a_chain_that_stays_are_one_batch(stage: Stage) -> None:
    stage.kernel.commit_now((AddChain("stays", Chain()),))
    mixed = (*filled(17), AddRule("stays", Rule(verdict=Accept())), AddChain("gone", Chain()), Delete("chain", "gone"))
    assert await stage.commits_of(mixed) == [(LOOP, 17 + 3 * COMMAND_SIZE)]
    assert (await stage.kernel.read()).chains == {"stays": Chain((Rule(verdict=Accept()),))}


@scenario
async def test_a_large_table_from_nothing_is_written_in_parts_with_its_base_chains_in_the_last(stage: Stage) -> None:
    stage.kernel.commit_now((Delete("table"),))
    base = AddChain("base", Chain((), Hook("filter", "forward", 0))), AddRule("base", Rule(verdict=Accept()))
    members = addresses(LARGEST_PART)
    filling = (ChangeElements("add", "x", members[at : at + 500]) for at in range(0, LARGEST_PART, 500))
    committed = await stage.commits_of((AddTable(), base[0], AddSet("x", ADDRESSES), *filling, base[1]))
    assert [where for where, _ in committed] == [THREAD, THREAD]
    assert sum(size for _, size in committed) == LARGEST_PART + (LARGEST_PART // 500 + 4) * COMMAND_SIZE
    listed = await stage.kernel.read()
    assert len(listed.chains["base"].rules) == 1
    while len(listed.sets["x"].elements) != LARGEST_PART:
        # A listing while the kernel enlarges the hash table of a new set misses some of its elements.
        listed = await stage.kernel.read()


@pytest.mark.parametrize("size", [20, 3_000], ids=["on the event loop", "in the thread"])
def test_a_refusal_is_an_error_and_leaves_the_table_as_it_was(size: int) -> None:
    async def body(stage: Stage) -> None:
        before = await stage.kernel.read()
        with pytest.raises(KernelError, match="absent"):
            await stage.kernel.apply((*filled(size), Delete("set", "absent")))
        assert await stage.kernel.read() == before
        await stage.kernel.apply(filled(size))
        assert len((await stage.kernel.read()).sets) == 1

    scenario(body)()


@scenario
async def test_a_commit_waits_for_one_in_the_thread_even_if_the_caller_of_that_was_cancelled(stage: Stage) -> None:
    stage.socket.let_go.clear()
    given_up = asyncio.create_task(stage.kernel.apply(filled(3_000)))
    await asyncio.to_thread(stage.socket.began.wait, DEADLINE)
    later = asyncio.create_task(stage.kernel.apply((AddSet("later", ADDRESSES),)))
    for _ in range(2):
        given_up.cancel()
        for _ in range(100):
            await asyncio.sleep(0)
    assert (given_up.done(), later.done()) == (False, False)

    stage.socket.let_go.set()
    await later
    assert given_up.cancelled() or given_up.cancelling()
    listed = await stage.kernel.read()
    assert (sorted(listed.sets), len(listed.sets["x"].elements)) == (["later", "x"], 3_000 - 2 * COMMAND_SIZE)
