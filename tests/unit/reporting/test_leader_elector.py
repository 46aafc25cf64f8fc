"""The Lease: who holds it, and what becomes of it when something fails."""

from __future__ import annotations

import asyncio
import logging
from itertools import pairwise

import pytest

from nfagent.reporting import leader_elector
from nfagent.reporting.lease import (
    A_BIT_SECONDS,
    COLLECTION,
    LEASE_SECONDS,
    RENEW_SECONDS,
    first_pause,
    look_pause,
)
from tests.support.fake_apiserver import Said, refusal, unreachable
from tests.support.reporting_agents import A_POLL, HOUR, LEASE, scenario, staged

MANY = 15_000


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
    monkeypatch.setattr(leader_elector, "RESIGN_SECONDS", 0.01)

    async def body() -> None:
        async with staged("a") as stage:
            await stage.time.passes(1.0)
            assert stage.leaders == ["a"]
            stage.store.silent = True
            async with asyncio.timeout(10.0):
                await stage.stop("a")

    asyncio.run(body())


@scenario
async def test_one_agent_among_15000_nodes_waits_for_its_lot_and_renews_as_any_holder() -> None:
    async with staged() as stage:
        stage.nodes = MANY
        stage.start("a")
        await stage.time.passes(first_pause(MANY, 0.5) - 1.0)
        assert stage.store.requests == []
        await stage.time.passes(61.0)
        assert stage.leaders == ["a"]
        assert len(stage.store.asked("PUT", LEASE)) == 4


@scenario
async def test_among_15000_nodes_a_holder_that_died_is_replaced_by_who_looks_twice() -> None:
    async with staged() as stage:
        stage.nodes = MANY
        stage.start("a")
        await stage.time.passes(2 * HOUR)
        stage.start("b")
        stage.store.fault = unreachable("a")
        await stage.time.passes(HOUR / 2)
        looks = [request.at for request in stage.store.asked("GET", LEASE, "b")]
        assert LEASE_SECONDS <= looks[1] - looks[0] <= LEASE_SECONDS + A_BIT_SECONDS
        assert (len(looks), stage.leaders) == (2, ["b"])


@scenario
async def test_who_finds_a_good_lease_is_in_no_hurry_and_neither_is_who_finds_no_server() -> None:
    async with staged() as stage:
        stage.start("a")
        await stage.time.passes(1.0)
        stage.nodes = MANY
        stage.start("b")
        await stage.time.passes(3 * HOUR)
        pause = look_pause(MANY, 0.5)
        looks = [request.at for request in stage.store.asked("GET", LEASE, "b")]
        assert [later - earlier for earlier, later in pairwise(looks)] == [pause] * 3
        stage.store.fault = unreachable("b")
        await stage.time.passes(3 * HOUR)
        assert len(stage.store.asked("GET", LEASE, "b")) in {7, 8}


@scenario
async def test_who_can_not_know_whether_it_was_elected_looks_again_soon() -> None:
    async with staged() as stage:
        stage.nodes = MANY
        stage.store.unheard = lambda _who, method, _path: TimeoutError() if method == "POST" else None
        stage.start("a", speaks=False)
        await stage.time.passes(first_pause(MANY, 0.5) + 1.0)
        stage.store.unheard = lambda _who, _method, _path: None
        assert stage.leaders == []
        await stage.time.passes(LEASE_SECONDS)
        assert stage.leaders == ["a"]


@scenario
async def test_who_can_not_know_it_and_finds_no_server_then_is_in_no_hurry() -> None:
    async with staged() as stage:
        stage.nodes = MANY
        stage.store.unheard = lambda _who, method, _path: TimeoutError() if method == "POST" else None
        stage.start("a", speaks=False)
        await stage.time.passes(first_pause(MANY, 0.5) + 1.0)
        stage.store.fault = unreachable()
        await stage.time.passes(3 * HOUR)
        assert len(stage.store.asked(within="leases")) < 8


@scenario
async def test_a_holder_whose_renewal_fails_tries_again_within_seconds() -> None:
    async with staged("a") as stage:
        await stage.time.passes(1.0)
        stage.store.fault = unreachable()
        await stage.time.passes(RENEW_SECONDS)
        stage.store.fault = lambda _who, _method, _path: None
        await stage.time.passes(3.0)
        assert [request.status for request in stage.store.asked("PUT", LEASE)][-1] == 200


@scenario
async def test_an_agent_that_may_not_write_the_lease_asks_no_more_often_than_others() -> None:
    async with staged() as stage:
        stage.nodes = MANY
        stage.store.fault = lambda _who, method, path: refusal(403) if method == "POST" and "leases" in path else None
        stage.start("a", speaks=False)
        await stage.time.passes(3 * HOUR)
        assert len(stage.store.asked("GET", LEASE)) in {3, 4}


@pytest.mark.parametrize("method", ["GET", "POST"])
def test_an_agent_that_may_not_have_the_lease_says_calmly_and_once_what_that_means(
    method: str, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)

    async def body() -> None:
        async with staged("a") as stage:
            stage.store.fault = lambda _who, asked, path: refusal(403) if asked == method and "leases" in path else None
            await stage.time.passes(2 * HOUR)
            assert len(stage.store.asked(method, "leases")) > 5
            (said,) = [record for record in caplog.records if record.name.startswith("nfagent")]
            assert said.levelno == logging.INFO
            assert "Enforcement isn't concerned" in said.getMessage()
            assert "deploy/rbac.yaml" in stage.notaries["a"].status()["last_error"]
            stage.store.fault = lambda _who, _method, _path: None
            await stage.time.passes(900.0)
            assert stage.leaders == ["a"]
            assert stage.notaries["a"].status()["last_error"] == ""
            await stage.time.passes(900.0)
            assert caplog.messages.count("Elections get to the cluster again") == 1

    asyncio.run(body())


def test_one_that_falls_silent_and_comes_back_says_both(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)

    async def body() -> None:
        async with staged("a") as stage:
            await stage.time.passes(100.0)
            stage.store.fault = unreachable()
            await stage.time.passes(200.0)
            stage.store.fault = lambda _who, _method, _path: None
            await stage.time.passes(100.0)
            told = [message for message in caplog.messages if message.startswith("this agent ")]
            says, ends = "this agent speaks for the cluster", "this agent no longer speaks for the cluster"
            assert told == [says, ends, says]
            assert "Elections get to the cluster again" in caplog.messages

    asyncio.run(body())
