"""Counters whose deletion waits stay while the table is compared: the comparison has read them as they were."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager, closing

import msgspec
import pytest

from nfagent.desired.state import DesiredState
from nfagent.kernel.nft_client import NftClient
from nfagent.nftables.diff import diff
from nfagent.nftables.objects import Ruleset
from nfagent.nftables.retired_counters import RetiredCounters
from nfagent.nftables.transaction import Transaction
from tests.support.own_namespace import own_namespace

pytestmark = [
    pytest.mark.kernel,
    pytest.mark.skipif(os.geteuid() != 0, reason="needs root: network namespaces and nf_tables"),
]

COUNTER = "deny/ingress/shop/web"
DENIED = "counted-deny-ingress4"
WEB = "10.64.0.10"


@pytest.fixture(autouse=True)
def _namespace() -> Iterator[None]:
    """Enter a new network namespace with this thread, its threads and processes."""
    with own_namespace("later"):
        yield


class Deletions(RetiredCounters):
    """Implements kernel.nft_client.CounterDeletions; counters retire at once."""

    def __init__(self) -> None:
        self.now = 0.0
        super().__init__(lambda: self.now)

    async def before(self, transaction: Transaction) -> None:
        """Do nothing."""

    async def delete_by(self, kernel: NftClient) -> None:
        """Delete what waits, as `PacketCounts` does after a reading."""
        self.now += 60.0
        due, deleted = self.due(), list[str]()

        def latest() -> Transaction:
            transaction, names = self.deletions(due)
            deleted.extend(names)
            return transaction

        await kernel.commit_latest(latest)
        self.forget(deleted)


def desired() -> tuple[Ruleset, Ruleset]:
    """Return a ruleset with a counter of a policy and of a Pod, and one without both."""
    without = DesiredState("a").ruleset()
    counted = without.sets[DENIED]
    whole = msgspec.structs.replace(counted, elements=counted.elements | {WEB})
    return (
        msgspec.structs.replace(without, sets={**without.sets, DENIED: whole}, counters=without.counters | {COUNTER}),
        without,
    )


@asynccontextmanager
async def waiting_deletions() -> AsyncIterator[tuple[NftClient, Deletions]]:
    """Have a table whose two counters wait for their deletion."""
    whole, without = desired()
    with closing(NftClient()) as kernel:
        await kernel.apply(await kernel.difference(whole))
        deletions = Deletions()
        kernel.defer_deletions(deletions)
        await kernel.apply(diff(whole, without))
        assert len(deletions) == 2
        yield kernel, deletions


async def compare(kernel: NftClient, wanted: Ruleset, meanwhile: Callable[[], Awaitable[None]]) -> None:
    """Make the table equal to a ruleset; `meanwhile`: called after it was read."""
    transaction = await kernel.difference(wanted)
    await meanwhile()
    if transaction:
        await kernel.apply(transaction)


def test_counters_that_are_wanted_again_are_not_deleted_while_the_table_is_compared() -> None:
    async def body() -> None:
        whole, _ = desired()
        async with waiting_deletions() as (kernel, deletions):
            chains = {**whole.chains, "count/more": whole.chains["count/deny/ingress"]}
            more = msgspec.structs.replace(whole, chains=chains)
            await compare(kernel, more, lambda: deletions.delete_by(kernel))
            assert await kernel.difference(more) == ()

    asyncio.run(body())


def test_counters_without_use_are_deleted_after_the_comparison() -> None:
    async def body() -> None:
        _, without = desired()
        async with waiting_deletions() as (kernel, deletions):
            await compare(kernel, without, lambda: deletions.delete_by(kernel))
            await deletions.delete_by(kernel)
            assert len(deletions) == 0
            assert await kernel.read() == without

    asyncio.run(body())
