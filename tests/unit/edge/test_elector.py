"""The Lease: who holds it, and what becomes of it when something fails."""

from __future__ import annotations

import asyncio
import logging

import pytest

from nfagent.edge import elector
from nfagent.notices.election import COLLECTION, EPOCH_SECONDS, LEASE_SECONDS
from tests.object_store import Said, refusal, unreachable
from tests.speaking import A_POLL, HOUR, LEASE, scenario, staged


def test_without_its_namespace_the_election_waits_for_it_and_says_so_once(caplog: pytest.LogCaptureFixture) -> None:
    def lacking(_who: str, method: str, path: str) -> Said | None:
        return refusal(404) if (method, path) == ("POST", COLLECTION) else None

    async def body() -> None:
        async with staged("a") as stage:
            stage.store.fault = lacking
            await stage.time.passes(HOUR)
            assert (stage.leaders, len(stage.store.asked("POST", COLLECTION))) == ([], 7)
            assert "deploy/" in stage.notaries["a"].status()["last_error"]
            assert len([record for record in caplog.records if record.levelno >= logging.WARNING]) == 1
            stage.store.fault = lambda _who, _method, _path: None
            await stage.time.passes(HOUR / 4)
            assert stage.leaders == ["a"]

    asyncio.run(body())


@scenario
async def test_one_that_is_cut_off_falls_silent_before_another_speaks() -> None:
    async with staged("a", "b", "c") as stage:
        await stage.time.passes(100.0)
        (first,) = stage.leaders
        cut = stage.time.now
        stage.store.fault = unreachable(first)
        seen: list[list[str]] = []
        await stage.time.passes(LEASE_SECONDS + A_POLL, lambda: seen.append(stage.leaders))
        assert [] in seen
        assert max(map(len, seen)) == 1
        assert seen[0] == [first] != seen[-1] != []
        assert stage.store.objects[LEASE]["spec"]["leaseTransitions"] == 1
        late = [request for request in stage.store.asked("POST", "events") if request.at > cut]
        assert {request.who for request in late} == set(stage.leaders)


@scenario
async def test_a_lease_that_another_wrote_in_between_is_looked_at_again() -> None:
    async with staged("a") as stage:
        await stage.time.passes(1.0)
        written = stage.store.objects[LEASE]
        stage.store.put(LEASE, {**written, "metadata": {}})
        await stage.time.passes(A_POLL)
        assert stage.leaders == ["a"]
        assert [request.status for request in stage.store.asked("PUT", LEASE)] == [409, 200]


@scenario
async def test_one_that_stops_gives_the_lease_back() -> None:
    async with staged("a", "b") as stage:
        await stage.time.passes(100.0)
        (first,) = stage.leaders
        await stage.stop(first)
        assert "holderIdentity" not in stage.store.objects[LEASE]["spec"]
        await stage.time.passes(A_POLL)
        assert stage.leaders == [{"a": "b", "b": "a"}[first]]


def test_a_server_that_is_silent_holds_up_nobodys_stop(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(elector, "RESIGN_SECONDS", 0.01)

    async def body() -> None:
        async with staged("a") as stage:
            await stage.time.passes(1.0)
            assert stage.leaders == ["a"]
            stage.store.silent = True
            async with asyncio.timeout(10.0):
                await stage.stop("a")

    asyncio.run(body())


@scenario
async def test_of_many_nodes_few_look_at_the_lease_and_the_holder_keeps_it_through_the_epochs() -> None:
    async with staged() as stage:
        stage.start(*(f"n{number}" for number in range(30)), speaks=False)
        await stage.time.passes(EPOCH_SECONDS - 100.0)
        (first,) = stage.leaders
        assert len({request.who for request in stage.store.asked(within=LEASE)}) <= 10, "two epochs, clocks disagree"
        holders: list[list[str]] = []
        await stage.time.passes(2 * EPOCH_SECONDS, lambda: holders.append(stage.leaders))
        assert holders.count([first]) == len(holders)
        puts = stage.store.asked("PUT", LEASE)
        assert {request.who for request in puts} == {first}


@scenario
async def test_where_all_candidates_are_dead_the_next_epoch_has_others() -> None:
    async with staged() as stage:
        stage.nodes = [f"dead{number}" for number in range(40)]
        stage.start("a", speaks=False)
        await stage.time.passes(40 * EPOCH_SECONDS)
        assert stage.leaders == ["a"]
