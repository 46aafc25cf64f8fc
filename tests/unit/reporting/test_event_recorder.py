"""Events: which agent writes which, how often, and what happens after failures."""

from __future__ import annotations

import asyncio
import logging
from itertools import pairwise
from random import Random

import pytest

from nfagent.model.objects import NetworkLogging, ObjectRef
from nfagent.reporting.lease import LEASE_SECONDS
from nfagent.reporting.notice import Notice, object_path
from nfagent.reporting.problems import NodeFaults, logging_notice, node_notices
from tests.support.fake_apiserver import Fault, StoreReply, refusal, unreachable
from tests.support.reporting_agents import A_POLL, BROKEN, DB, HOUR, reporting_cluster, scenario


@scenario
async def test_one_of_several_agents_writes_cluster_events_and_each_writes_those_of_its_node() -> None:
    async with reporting_cluster() as cluster:
        cluster.start("a", "b", "c")
        for name, reporter in cluster.reporters.items():
            reporter.publish([BROKEN, *node_notices(name, NodeFaults(verdict_log="no group"))])
        await cluster.time.passes(60.0)
        assert len(cluster.leaders) == 1
        assert {request.who for request in cluster.store.asked("POST", "shop/events")} == set(cluster.leaders)
        assert {request.who for request in cluster.store.asked("POST", "default/events")} == {"a", "b", "c"}
        assert len(cluster.store.events()) == 4


@scenario
async def test_an_event_has_the_fields_that_kubectl_reads() -> None:
    async with reporting_cluster("a") as cluster:
        await cluster.time.passes(1.0)
        (event,) = cluster.store.events()
        uid = cluster.store.objects[object_path(DB)]["metadata"]["uid"]
        assert event["involvedObject"] | {"resourceVersion": ""} == {
            "apiVersion": "networking.k8s.io/v1",
            "kind": "NetworkPolicy",
            "namespace": "shop",
            "name": "db",
            "uid": uid,
            "resourceVersion": "",
        }
        assert event["metadata"]["namespace"] == "shop"
        assert (event["type"], event["reason"], event["message"]) == ("Warning", "FailsClosed", BROKEN.message)
        assert (event["source"], event["reportingComponent"]) == ({"component": "nfagent"}, "nfagent")
        assert event["firstTimestamp"] == event["lastTimestamp"]


@scenario
async def test_a_node_event_has_the_uid_that_kubelet_writes_and_needs_no_request() -> None:
    async with reporting_cluster() as cluster:
        cluster.start("n1", publishes=False)
        cluster.reporters["n1"].publish(node_notices("n1", NodeFaults(commit_error="EBUSY")))
        await cluster.time.passes(20.0)
        (event,) = cluster.store.events()
        assert event["involvedObject"] == {"apiVersion": "v1", "kind": "Node", "name": "n1", "uid": "n1"}
        assert (event["metadata"]["namespace"], event["source"]["host"]) == ("default", "n1")
        assert cluster.store.asked("GET", "/nodes/") == []


@scenario
async def test_an_active_notice_is_repeated_as_one_event_within_the_ttl_of_events() -> None:
    async with reporting_cluster("a") as cluster:
        await cluster.time.passes(4 * HOUR)
        (event,) = cluster.store.events()
        said = [request.at for request in cluster.store.asked("PATCH", "shop/events")]
        assert event["count"] == len(said) + 1 == 8
        assert max(later - earlier for earlier, later in zip([0.0, *said], said, strict=False)) < HOUR
        assert event["firstTimestamp"] < event["lastTimestamp"]
        assert len(cluster.store.asked("GET", object_path(DB))) == 1, "its uid was known"


@scenario
async def test_a_notice_that_ended_is_not_repeated() -> None:
    async with reporting_cluster("a") as cluster:
        await cluster.time.passes(1.0)
        cluster.reporters["a"].publish([])
        await cluster.time.passes(4 * HOUR)
        assert cluster.messages() == [(BROKEN.message, 1)]


@scenario
async def test_an_event_that_the_server_deleted_is_created_again() -> None:
    async with reporting_cluster("a") as cluster:
        await cluster.time.passes(1.0)
        for path in [path for path in cluster.store.objects if "/events/" in path]:
            del cluster.store.objects[path]
        await cluster.time.passes(700.0)
        assert cluster.messages() == [(BROKEN.message, 1)]


@scenario
async def test_the_next_leader_updates_the_same_event() -> None:
    async with reporting_cluster("a", "b") as cluster:
        await cluster.time.passes(700.0)
        (first,) = cluster.leaders
        assert cluster.messages() == [(BROKEN.message, 2)]
        await cluster.stop(first)
        await cluster.time.passes(A_POLL + 1.0)
        assert cluster.leaders == [{"a": "b", "b": "a"}[first]]
        assert cluster.messages() == [(BROKEN.message, 2)], "another leader is no new fault"
        await cluster.time.passes(601.0)
        assert cluster.messages() == [(BROKEN.message, 3)]


@pytest.mark.parametrize("name", ["web", "db"])
@scenario
async def test_a_notice_about_a_deleted_object_is_not_published(name: str) -> None:
    async with reporting_cluster() as cluster:
        cluster.start("a", publishes=False)
        about = ObjectRef("NetworkPolicy", "shop", name)
        cluster.reporters["a"].publish([Notice(about=about, reason="FailsClosed", message="no")])
        await cluster.time.passes(60.0)
        assert len(cluster.store.events()) == (name == "db")
        assert cluster.reporters["a"].status()["events"]["gone"] == (name != "db")
        assert len(cluster.store.asked("GET", object_path(about))) == 1


@scenario
async def test_without_permission_to_read_the_object_its_event_has_no_uid() -> None:
    async with reporting_cluster("a") as cluster:
        cluster.store.fault = lambda _who, method, path: (
            refusal(403) if (method, path) == ("GET", object_path(DB)) else None
        )
        await cluster.time.passes(60.0)
        (event,) = cluster.store.events()
        assert "uid" not in event["involvedObject"]


@scenario
async def test_a_terminating_namespace_does_not_delay_other_events() -> None:
    other = ObjectRef("NetworkPolicy", "web", "db")
    async with reporting_cluster() as cluster:
        cluster.start("a", publishes=False)
        cluster.owned(other)
        ending = refusal(403, "it is being terminated", "NamespaceTerminating")
        cluster.store.fault = lambda _who, method, path: ending if method == "POST" and "shop/events" in path else None
        cluster.reporters["a"].publish([BROKEN, Notice(about=other, reason="FailsClosed", message="web")])
        await cluster.time.passes(60.0)
        assert cluster.messages() == [("web", 1)]
        assert len(cluster.store.asked("POST", "shop/events")) == 1
        assert cluster.reporters["a"].problem == "", "it concerns that Event alone"


@scenario
async def test_an_event_that_the_server_rejects_does_not_delay_others() -> None:
    other = ObjectRef("NetworkPolicy", "web", "db")
    async with reporting_cluster() as cluster:
        cluster.start("a", publishes=False)
        cluster.owned(other)
        cluster.store.fault = lambda _who, method, path: (
            refusal(422) if method == "POST" and "shop/ev" in path else None
        )
        cluster.reporters["a"].publish([BROKEN, Notice(about=other, reason="FailsClosed", message="web")])
        await cluster.time.passes(60.0)
        assert cluster.messages() == [("web", 1)]
        assert len(cluster.store.asked("POST", "shop/events")) == 1
        assert cluster.reporters["a"].status()["events"]["failed"] == 1


@scenario
async def test_events_that_the_server_rejects_are_a_problem_while_there_is_one_to_write() -> None:
    async with reporting_cluster("a") as cluster:
        cluster.store.fault = lambda _who, method, path: refusal(422) if method == "POST" and "/ev" in path else None
        await cluster.time.passes(30.0)
        assert cluster.reporters["a"].problem == "", "it may pass"
        await cluster.time.passes(60.0)
        assert cluster.reporters["a"].problem.startswith("Events: FailsClosed on NetworkPolicy shop/db: 422")
        cluster.reporters["a"].publish([])
        assert cluster.reporters["a"].problem == ""


@scenario
async def test_a_lease_that_may_not_be_used_with_the_kubelet_s_credentials_is_no_problem() -> None:
    async with reporting_cluster("a") as cluster:
        cluster.store.fault = lambda _who, _method, path: refusal(403, "forbidden") if "/leases" in path else None
        await cluster.time.passes(HOUR)
        reporter = cluster.reporters["a"]
        assert "leader election is off" in reporter.status()["last_error"]
        assert reporter.problem == ""


FAILURES = {
    "a server that can't be reached": unreachable(),
    "a server that doesn't respond": lambda _who, _method, _path: TimeoutError(),
    "a server that is overloaded": lambda _who, _method, _path: StoreReply(429, b"", 30.0),
    "a server that fails": lambda _who, _method, _path: StoreReply(503, b"<html>"),
}


@pytest.mark.parametrize("fault", FAILURES.values(), ids=FAILURES)
@scenario
async def test_after_an_outage_active_notices_are_published_and_during_it_requests_are_rare(fault: Fault) -> None:
    async with reporting_cluster("a") as cluster:
        cluster.store.fault = fault
        await cluster.time.passes(1000.0)
        assert 5 < len(cluster.store.requests) < 60
        assert cluster.reporters["a"].status()["last_error"]
        assert cluster.reporters["a"].problem.startswith("Leader election: ")
        cluster.store.fault = lambda _who, _method, _path: None
        await cluster.time.passes(120.0)
        assert cluster.messages() == [(BROKEN.message, 1)]
        assert (cluster.reporters["a"].status()["last_error"], cluster.reporters["a"].problem) == ("", "")


@scenario
async def test_a_lost_response_to_a_repetition_does_not_count_twice() -> None:
    async with reporting_cluster("a") as cluster:
        await cluster.time.passes(500.0)
        cluster.store.lost_response = lambda _who, method, _path: TimeoutError() if method == "PATCH" else None
        await cluster.time.passes(102.0)
        cluster.store.lost_response = lambda _who, _method, _path: None
        await cluster.time.passes(60.0)
        assert cluster.messages() == [(BROKEN.message, 2)]


@scenario
async def test_retry_after_is_respected() -> None:
    async with reporting_cluster("a") as cluster:
        await cluster.time.passes(1.0)
        cluster.store.fault = lambda _who, method, _path: StoreReply(429, b"", 300.0) if method == "PATCH" else None
        await cluster.time.passes(1000.0)
        asked = [request.at for request in cluster.store.asked("PATCH", "/events")]
        assert len(asked) == 2
        assert asked[1] - asked[0] >= 300.0


@scenario
async def test_a_success_resets_the_backoff() -> None:
    async with reporting_cluster("a") as cluster:
        await cluster.time.passes(1.0)
        pauses = []
        for outage in (1000.0, 1500.0):
            before = cluster.time.now
            cluster.store.fault = lambda _who, method, _path: StoreReply(503) if method == "PATCH" else None
            await cluster.time.passes(outage)
            cluster.store.fault = lambda _who, _method, _path: None
            await cluster.time.passes(60.0)
            asked = [request.at for request in cluster.store.asked("PATCH", "/events") if request.at > before]
            pauses.append([later - earlier for earlier, later in pairwise(asked)])
        assert pauses[0][0] == pauses[1][0] < 3.0
        assert pauses[0][-1] == pauses[1][-1] > 20.0


@scenario
async def test_after_an_outage_the_agents_of_a_large_cluster_spread_their_retries() -> None:
    names = [f"n{number}" for number in range(20)]
    async with reporting_cluster(jitter=Random(1).random) as cluster:  # noqa: S311 - a test's jitter
        cluster.nodes = 15_000
        cluster.store.fault = unreachable()
        cluster.start(*names, publishes=False)
        for name, reporter in cluster.reporters.items():
            reporter.publish(node_notices(name, NodeFaults(commit_error="EBUSY")))
        await cluster.time.passes(25.0)
        cluster.store.fault = lambda _who, _method, _path: None
        back = cluster.time.now
        await cluster.time.passes(60.0)
        returned = [request.at - back for request in cluster.store.asked("POST", "/events") if request.status == 201]
        assert len(returned) == len(names)
        assert max(returned) > 10.0


def test_forbidden_events_are_logged_once_and_retried_rarely(caplog: pytest.LogCaptureFixture) -> None:
    # Objects may be read, as every notice reads its object first; Events may not be written.
    caplog.set_level(logging.INFO)

    async def body() -> None:
        async with reporting_cluster("a") as cluster:
            others = [Notice(about=DB, reason=f"Other{number}", message="no") for number in range(30)]
            cluster.reporters["a"].publish([BROKEN, *others])
            cluster.store.fault = lambda _who, _method, path: refusal(403, "forbidden") if "/events" in path else None
            await cluster.time.passes(2 * HOUR)
            assert 10 < len(cluster.store.asked(within="/events")) < 20
            cluster.reporters["a"].publish([BROKEN])
            assert "deploy/rbac.yaml" in cluster.reporters["a"].status()["last_error"]
            assert cluster.reporters["a"].problem.startswith("Events: apply deploy/rbac.yaml")
            warnings = [record for record in caplog.records if record.levelno >= logging.WARNING]
            assert len(warnings) == 1
            cluster.store.fault = lambda _who, _method, _path: None
            await cluster.time.passes(900.0)
            assert [message for message, _ in cluster.messages()] == [BROKEN.message]
            cluster.reporters["a"].publish([BROKEN, *others])
            await cluster.time.passes(60.0)
            assert caplog.messages.count("Events: requests succeed again") == 1

    asyncio.run(body())


@scenario
async def test_an_agent_that_loses_the_lease_before_a_write_does_not_write() -> None:
    async with reporting_cluster() as cluster:
        cluster.start("a", publishes=False)
        await cluster.time.passes(1.0)
        asked: list[str] = []

        def late(_who: str, method: str, path: str) -> None:
            # The response to the first request comes after this agent's renew deadline.
            if not asked and (method, path) == ("GET", object_path(DB)):
                cluster.time.now += LEASE_SECONDS
            asked.append(method)

        cluster.store.fault = late
        cluster.reporters["a"].publish([BROKEN])
        await cluster.time.turn()
        assert asked == ["GET"]
        assert cluster.leaders == []


@pytest.mark.parametrize("answer", [404, 409])
@scenario
async def test_an_agent_that_loses_the_lease_between_two_writes_omits_the_second(answer: int) -> None:
    async with reporting_cluster("a") as cluster:
        await cluster.time.passes(1.0)
        cluster.reporters["a"].publish([])
        await cluster.time.passes(HOUR)
        wrote: list[str] = []

        def late(_who: str, method: str, path: str) -> StoreReply | None:
            if "/events" not in path:
                return None
            wrote.append(method)
            cluster.time.now += LEASE_SECONDS
            return refusal(answer)

        cluster.store.fault = late
        cluster.reporters["a"].publish([BROKEN])
        await cluster.time.turn()
        assert wrote == ["POST"]
        assert cluster.leaders == []


@scenario
async def test_a_once_notice_is_written_once_by_the_leader_and_again_when_it_returns() -> None:
    logging_object = ObjectRef("NetworkLogging", "", "default")
    news = logging_notice(NetworkLogging())
    async with reporting_cluster() as cluster:
        cluster.start("a", "b", publishes=False)
        for round_ in range(3):
            cluster.owned(logging_object, spec={"round": round_})
            for reporter in cluster.reporters.values():
                reporter.publish([] if round_ == 1 else [news])
            await cluster.time.passes(700.0)
        told = [(event["reason"], event["type"], event["count"]) for event in cluster.store.events()]
        assert told == [("UpdateNetworkLogging", "Normal", 1)] * 2
        before = cluster.store.events()
        await cluster.stop(cluster.leaders[0])
        await cluster.time.passes(HOUR)
        assert len(cluster.leaders) == 1
        assert cluster.store.events() == before, "the next leader doesn't repeat it"


@scenario
async def test_many_notices_at_once_are_rate_limited_and_none_is_lost() -> None:
    policies = [ObjectRef("NetworkPolicy", "shop", f"p{number}") for number in range(100)]
    async with reporting_cluster() as cluster:
        for ref in policies:
            cluster.owned(ref)
        cluster.start("a", publishes=False)
        cluster.reporters["a"].publish(Notice(about=ref, reason="FailsClosed", message="no") for ref in policies)
        await cluster.time.passes(1.0)
        assert len(cluster.store.events()) == 25
        await cluster.time.passes(200.0)
        assert len(cluster.store.events()) == 100
        assert cluster.reporters["a"].status()["events"]["suppressed"] == 75
