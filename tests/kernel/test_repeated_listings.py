"""Listings of the table, of which an agent makes thousands a day, leave nothing behind in the process."""

from __future__ import annotations

import gc
import os
from collections.abc import Callable, Iterator

import pytest

from nfagent.kernel.nft_client import NftClient
from nfagent.nftables.diff import diff
from nfagent.nftables.objects import ABSENT, Chain, Drop, Rule, Ruleset
from tests.support.own_namespace import own_namespace

pytestmark = [
    pytest.mark.kernel,
    pytest.mark.skipif(os.geteuid() != 0, reason="needs root: network namespaces and nf_tables"),
]

RULESET = Ruleset(chains={"closed": Chain(rules=(Rule((), verdict=Drop()),))})


@pytest.fixture
def kernel() -> Iterator[NftClient]:
    """Return a client in a network namespace with a table."""
    with own_namespace("listings"):
        client = NftClient()
        try:
            client.commit_now(diff(ABSENT, RULESET))
            yield client
        finally:
            client.close()


def by_another_client() -> None:
    """List with a context of its own, as an answer of the agent's socket does."""
    client = NftClient()
    try:
        assert client.read_now() == RULESET
    finally:
        client.close()


@pytest.mark.parametrize(
    "listing",
    [
        pytest.param(lambda kernel: kernel.read_now(), id="by the agent's client"),
        pytest.param(lambda _: by_another_client(), id="by a client of its own"),
    ],
)
def test_a_listing_leaves_nothing_to_the_garbage_collector(
    kernel: NftClient, listing: Callable[[NftClient], object]
) -> None:
    """A loaded library is a class and dozens of functions that refer to each other: garbage until a collection."""
    listing(kernel)
    gc.collect()
    gc.disable()
    try:
        for _ in range(5):
            listing(kernel)
        assert gc.collect() == 0
    finally:
        gc.enable()
