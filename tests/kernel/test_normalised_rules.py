"""A rule that nft lists differently than written: written once, no drift reported, later drift detected."""

from __future__ import annotations

import asyncio
import os
import re
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager

import pytest

from nfagent.clock import SystemClock
from nfagent.controllers.reconciler import Reconciler
from nfagent.kernel.nft_client import NftClient
from nfagent.kernel.table_queries import generation
from nfagent.nftables.matches import L4Proto
from nfagent.nftables.objects import Accept, Chain, Drop, NamedSet, Rule, Ruleset
from tests.kernel.test_reconciler import nft
from tests.support.own_namespace import own_namespace
from tests.unit.controllers.test_reconciler import FakeRuleset

pytestmark = [
    pytest.mark.kernel,
    pytest.mark.skipif(os.geteuid() != 0, reason="needs root: network namespaces and nf_tables"),
]

SORTED = Rule((L4Proto(("udp", "tcp")),), verdict=Accept())
"""nft lists the protocols of a rule in an order of its own: tcp, udp."""
WANTED = Ruleset(
    sets={"peers4/1": NamedSet("address", 4, frozenset({"10.0.0.1"}))},
    chains={"allow/a": Chain((SORTED, Rule(verdict=Drop()))), "allow/b": Chain((Rule(verdict=Accept()),))},
)


@pytest.fixture(autouse=True)
def _namespace() -> Iterator[None]:
    """Enter a new network namespace with this thread."""
    with own_namespace("wording"):
        yield


class ReconcilerInRounds:
    """A kernel, and a reconciler whose rounds the test starts."""

    def __init__(self, kernel: NftClient) -> None:
        self.kernel = kernel
        self.desired = FakeRuleset(WANTED)
        self.reconciler = Reconciler(kernel, SystemClock(), self.desired)

    async def compares(self) -> int:
        """Compare once; give how many transactions that took."""
        before = generation()
        self.reconciler.invalidate()
        await self.reconciler.round()
        assert self.reconciler.status.last_error == ""
        return generation() - before


@asynccontextmanager
async def synced() -> AsyncIterator[ReconcilerInRounds]:
    kernel = NftClient()
    try:
        stage = ReconcilerInRounds(kernel)
        assert await stage.compares() > 0
        yield stage
    finally:
        kernel.close()


def test_a_rule_that_is_listed_differently_is_logged_once_and_not_rewritten(caplog: pytest.LogCaptureFixture) -> None:
    async def body() -> None:
        async with synced() as stage:
            assert await stage.compares() == 2, "written once, and once more to be certain"
            for _ in range(3):
                assert await stage.compares() == 0
            status = stage.reconciler.status
            assert (len(status.variants), status.drifts) == (1, 0)

    asyncio.run(body())
    (message,) = caplog.messages
    assert re.fullmatch(
        r"table inet nfagent: listed differently than they were written: chain allow/a \(nft \d[\d.]*\); "
        r"accepted as equal until they change",
        message,
    )


@pytest.mark.parametrize(
    "change",
    [
        pytest.param("insert rule inet nfagent allow/a accept", id="a rule before ours"),
        pytest.param("flush chain inet nfagent allow/a", id="the chain flushed"),
        pytest.param("add rule inet nfagent allow/b drop", id="a rule in another chain"),
        pytest.param("flush set inet nfagent peers4/1", id="a set flushed"),
    ],
)
def test_changes_by_other_programs_are_still_repaired_and_logged(change: str, caplog: pytest.LogCaptureFixture) -> None:
    async def body() -> None:
        async with synced() as stage:
            await stage.compares()
            right = nft("list", "table", "inet", "nfagent")
            caplog.clear()
            nft("-f", "-", text=f"{change}\n")
            assert await stage.compares() > 0
            assert nft("list", "table", "inet", "nfagent") == right
            assert stage.reconciler.status.drifts == 1
            assert await stage.compares() == 0

    asyncio.run(body())
    assert [message.partition(";")[0] for message in caplog.messages] == [
        "table inet nfagent changed by another program"
    ]


def test_an_accepted_listing_of_one_rule_does_not_cover_another_rule() -> None:
    async def body() -> None:
        async with synced() as stage:
            await stage.compares()
            other = Chain((Rule(verdict=Accept()),))
            stage.desired.wanted = Ruleset(WANTED.sets, chains={**WANTED.chains, "allow/a": other})
            assert await stage.compares() > 0
            assert (await stage.kernel.read()).chains["allow/a"] == other

    asyncio.run(body())
