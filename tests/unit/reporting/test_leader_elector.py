"""Leader election: which agent holds the Lease, and what happens after failures."""

from __future__ import annotations

import asyncio
import logging
from itertools import pairwise

import pytest

from nfagent.reporting import leader_elector
from nfagent.reporting.lease import (
    COLLECTION,
    LEASE_SECONDS,
    POLL_MARGIN_SECONDS,
    RENEW_SECONDS,
    first_poll_delay,
    poll_interval,
)
from tests.support.fake_apiserver import StoreReply, refusal, unreachable
from tests.support.reporting_agents import A_POLL, HOUR, LEASE, reporting_cluster, scenario

MANY = 15_000


def test_without_its_namespace_the_election_waits_and_logs_it_once(caplog: pytest.LogCaptureFixture) -> None:
    def lacking(_who: str, method: str, path: str) -> StoreReply | None:
        return refusal(404) if (method, path) == ("POST", COLLECTION) else None

    async def body() -> None:
        async with reporting_cluster("a") as cluster:
            cluster.store.fault = lacking
            await cluster.time.passes(HOUR)
            assert (cluster.leaders, len(cluster.store.asked("POST", COLLECTION))) == ([], 7)
            assert "deploy/" in cluster.reporters["a"].status()["last_error"]
            assert len([record for record in caplog.records if record.levelno >= logging.WARNING]) == 1
            cluster.store.fault = lambda _who, _method, _path: None
            await cluster.time.passes(HOUR / 4)
            assert cluster.leaders == ["a"]

    asyncio.run(body())


@scenario
async def test_a_leader_that_is_cut_off_stops_before_another_is_elected() -> None:
    async with reporting_cluster("a", "b", "c") as cluster:
        await cluster.time.passes(100.0)
        (first,) = cluster.leaders
        cut = cluster.time.now
        cluster.store.fault = unreachable(first)
        seen: list[list[str]] = []
        await cluster.time.passes(LEASE_SECONDS + A_POLL, lambda: seen.append(cluster.leaders))
        assert [] in seen
        assert max(map(len, seen)) == 1
        assert seen[0] == [first] != seen[-1] != []
        assert cluster.store.objects[LEASE]["spec"]["leaseTransitions"] == 1
        late = [request for request in cluster.store.asked("POST", "events") if request.at > cut]
        assert {request.who for request in late} == set(cluster.leaders)


@scenario
async def test_a_lease_that_another_client_wrote_in_between_is_read_again() -> None:
    async with reporting_cluster("a") as cluster:
        await cluster.time.passes(1.0)
        written = cluster.store.objects[LEASE]
        cluster.store.put(LEASE, {**written, "metadata": {}})
        await cluster.time.passes(A_POLL)
        assert cluster.leaders == ["a"]
        assert [request.status for request in cluster.store.asked("PUT", LEASE)] == [409, 200]


@scenario
async def test_a_leader_that_stops_releases_the_lease() -> None:
    async with reporting_cluster("a", "b") as cluster:
        await cluster.time.passes(100.0)
        (first,) = cluster.leaders
        await cluster.stop(first)
        assert "holderIdentity" not in cluster.store.objects[LEASE]["spec"]
        await cluster.time.passes(A_POLL)
        assert cluster.leaders == [{"a": "b", "b": "a"}[first]]


def test_a_server_that_does_not_respond_does_not_delay_the_stop(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(leader_elector, "RELEASE_TIMEOUT_SECONDS", 0.01)

    async def body() -> None:
        async with reporting_cluster("a") as cluster:
            await cluster.time.passes(1.0)
            assert cluster.leaders == ["a"]
            cluster.store.silent = True
            async with asyncio.timeout(10.0):
                await cluster.stop("a")

    asyncio.run(body())


@scenario
async def test_one_agent_among_15000_nodes_delays_its_first_poll_and_renews_as_usual() -> None:
    async with reporting_cluster() as cluster:
        cluster.nodes = MANY
        cluster.start("a")
        await cluster.time.passes(first_poll_delay(MANY, 0.5) - 1.0)
        assert cluster.store.requests == []
        await cluster.time.passes(61.0)
        assert cluster.leaders == ["a"]
        assert len(cluster.store.asked("PUT", LEASE)) == 4


@scenario
async def test_among_15000_nodes_a_dead_leader_is_replaced_by_an_agent_that_polls_twice() -> None:
    async with reporting_cluster() as cluster:
        cluster.nodes = MANY
        cluster.start("a")
        await cluster.time.passes(2 * HOUR)
        cluster.start("b")
        cluster.store.fault = unreachable("a")
        await cluster.time.passes(HOUR / 2)
        looks = [request.at for request in cluster.store.asked("GET", LEASE, "b")]
        assert LEASE_SECONDS <= looks[1] - looks[0] <= LEASE_SECONDS + POLL_MARGIN_SECONDS
        assert (len(looks), cluster.leaders) == (2, ["b"])


@scenario
async def test_an_agent_polls_rarely_while_the_lease_is_valid_or_the_server_is_unreachable() -> None:
    async with reporting_cluster() as cluster:
        cluster.start("a")
        await cluster.time.passes(1.0)
        cluster.nodes = MANY
        cluster.start("b")
        await cluster.time.passes(3 * HOUR)
        pause = poll_interval(MANY, 0.5)
        looks = [request.at for request in cluster.store.asked("GET", LEASE, "b")]
        assert [later - earlier for earlier, later in pairwise(looks)] == [pause] * 3
        cluster.store.fault = unreachable("b")
        await cluster.time.passes(3 * HOUR)
        assert len(cluster.store.asked("GET", LEASE, "b")) in {7, 8}


@scenario
async def test_an_agent_without_response_to_its_write_polls_again_soon() -> None:
    async with reporting_cluster() as cluster:
        cluster.nodes = MANY
        cluster.store.lost_response = lambda _who, method, _path: TimeoutError() if method == "POST" else None
        cluster.start("a", publishes=False)
        await cluster.time.passes(first_poll_delay(MANY, 0.5) + 1.0)
        cluster.store.lost_response = lambda _who, _method, _path: None
        assert cluster.leaders == []
        await cluster.time.passes(LEASE_SECONDS)
        assert cluster.leaders == ["a"]


@scenario
async def test_an_agent_without_response_to_its_write_polls_rarely_while_the_server_is_unreachable() -> None:
    async with reporting_cluster() as cluster:
        cluster.nodes = MANY
        cluster.store.lost_response = lambda _who, method, _path: TimeoutError() if method == "POST" else None
        cluster.start("a", publishes=False)
        await cluster.time.passes(first_poll_delay(MANY, 0.5) + 1.0)
        cluster.store.fault = unreachable()
        await cluster.time.passes(3 * HOUR)
        assert len(cluster.store.asked(within="leases")) < 8


@scenario
async def test_a_leader_whose_renewal_fails_retries_within_seconds() -> None:
    async with reporting_cluster("a") as cluster:
        await cluster.time.passes(1.0)
        cluster.store.fault = unreachable()
        await cluster.time.passes(RENEW_SECONDS)
        cluster.store.fault = lambda _who, _method, _path: None
        await cluster.time.passes(3.0)
        assert [request.status for request in cluster.store.asked("PUT", LEASE)][-1] == 200


@scenario
async def test_an_agent_that_may_not_write_the_lease_polls_no_more_often_than_others() -> None:
    async with reporting_cluster() as cluster:
        cluster.nodes = MANY
        cluster.store.fault = lambda _who, method, path: refusal(403) if method == "POST" and "leases" in path else None
        cluster.start("a", publishes=False)
        await cluster.time.passes(3 * HOUR)
        assert len(cluster.store.asked("GET", LEASE)) in {3, 4}


@pytest.mark.parametrize("method", ["GET", "POST"])
def test_an_agent_that_may_not_use_the_lease_logs_it_once_at_level_info(
    method: str, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)

    async def body() -> None:
        async with reporting_cluster("a") as cluster:
            cluster.store.fault = lambda _who, asked, path: (
                refusal(403) if asked == method and "leases" in path else None
            )
            await cluster.time.passes(2 * HOUR)
            assert len(cluster.store.asked(method, "leases")) > 5
            (said,) = [record for record in caplog.records if record.name.startswith("nfagent")]
            assert said.levelno == logging.INFO
            assert "Enforcement is not affected" in said.getMessage()
            assert "deploy/rbac.yaml" in cluster.reporters["a"].status()["last_error"]
            cluster.store.fault = lambda _who, _method, _path: None
            await cluster.time.passes(900.0)
            assert cluster.leaders == ["a"]
            assert cluster.reporters["a"].status()["last_error"] == ""
            await cluster.time.passes(900.0)
            assert caplog.messages.count("Leader election: requests succeed again") == 1

    asyncio.run(body())


def test_lost_and_regained_leadership_are_logged(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)

    async def body() -> None:
        async with reporting_cluster("a") as cluster:
            await cluster.time.passes(100.0)
            cluster.store.fault = unreachable()
            await cluster.time.passes(200.0)
            cluster.store.fault = lambda _who, _method, _path: None
            await cluster.time.passes(100.0)
            told = [message for message in caplog.messages if message.startswith("Leader election: this agent")]
            gained, lost = (
                "Leader election: this agent became leader",
                "Leader election: this agent is no longer leader",
            )
            assert told == [gained, lost, gained]
            assert "Leader election: requests succeed again" in caplog.messages

    asyncio.run(body())
