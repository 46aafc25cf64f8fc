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
from nfagent.reporting.problems import NodeFaults, logging_statement, node_statements
from tests.support.fake_apiserver import Fault, Said, refusal, unreachable
from tests.support.reporting_agents import A_POLL, BROKEN, DB, HOUR, scenario, staged


@scenario
async def test_one_of_several_agents_writes_cluster_events_and_each_writes_those_of_its_node() -> None:
    async with staged() as stage:
        stage.start("a", "b", "c")
        for name, reporter in stage.reporters.items():
            reporter.say([BROKEN, *node_statements(name, NodeFaults(verdict_log="no group"))])
        await stage.time.passes(60.0)
        assert len(stage.leaders) == 1
        assert {request.who for request in stage.store.asked("POST", "shop/events")} == set(stage.leaders)
        assert {request.who for request in stage.store.asked("POST", "default/events")} == {"a", "b", "c"}
        assert len(stage.store.events()) == 4


@scenario
async def test_an_event_has_the_fields_that_kubectl_reads() -> None:
    async with staged("a") as stage:
        await stage.time.passes(1.0)
        (event,) = stage.store.events()
        uid = stage.store.objects[object_path(DB)]["metadata"]["uid"]
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
    async with staged() as stage:
        stage.start("n1", publishes=False)
        stage.reporters["n1"].say(node_statements("n1", NodeFaults(refused="EBUSY")))
        await stage.time.passes(20.0)
        (event,) = stage.store.events()
        assert event["involvedObject"] == {"apiVersion": "v1", "kind": "Node", "name": "n1", "uid": "n1"}
        assert (event["metadata"]["namespace"], event["source"]["host"]) == ("default", "n1")
        assert stage.store.asked("GET", "/nodes/") == []


@scenario
async def test_an_active_notice_is_repeated_as_one_event_within_the_ttl_of_events() -> None:
    async with staged("a") as stage:
        await stage.time.passes(4 * HOUR)
        (event,) = stage.store.events()
        said = [request.at for request in stage.store.asked("PATCH", "shop/events")]
        assert event["count"] == len(said) + 1 == 8
        assert max(later - earlier for earlier, later in zip([0.0, *said], said, strict=False)) < HOUR
        assert event["firstTimestamp"] < event["lastTimestamp"]
        assert len(stage.store.asked("GET", object_path(DB))) == 1, "its uid was known"


@scenario
async def test_a_notice_that_ended_is_not_repeated() -> None:
    async with staged("a") as stage:
        await stage.time.passes(1.0)
        stage.reporters["a"].say([])
        await stage.time.passes(4 * HOUR)
        assert stage.messages() == [(BROKEN.message, 1)]


@scenario
async def test_an_event_that_the_server_deleted_is_created_again() -> None:
    async with staged("a") as stage:
        await stage.time.passes(1.0)
        for path in [path for path in stage.store.objects if "/events/" in path]:
            del stage.store.objects[path]
        await stage.time.passes(700.0)
        assert stage.messages() == [(BROKEN.message, 1)]


@scenario
async def test_the_next_leader_updates_the_same_event() -> None:
    async with staged("a", "b") as stage:
        await stage.time.passes(700.0)
        (first,) = stage.leaders
        assert stage.messages() == [(BROKEN.message, 2)]
        await stage.stop(first)
        await stage.time.passes(A_POLL + 1.0)
        assert stage.leaders == [{"a": "b", "b": "a"}[first]]
        assert stage.messages() == [(BROKEN.message, 2)], "another leader is no new fault"
        await stage.time.passes(601.0)
        assert stage.messages() == [(BROKEN.message, 3)]


@pytest.mark.parametrize("name", ["web", "db"])
@scenario
async def test_a_notice_about_a_deleted_object_is_not_published(name: str) -> None:
    async with staged() as stage:
        stage.start("a", publishes=False)
        about = ObjectRef("NetworkPolicy", "shop", name)
        stage.reporters["a"].say([Notice(about=about, reason="FailsClosed", message="no")])
        await stage.time.passes(60.0)
        assert len(stage.store.events()) == (name == "db")
        assert stage.reporters["a"].status()["events"]["gone"] == (name != "db")
        assert len(stage.store.asked("GET", object_path(about))) == 1


@scenario
async def test_without_permission_to_read_the_object_its_event_has_no_uid() -> None:
    async with staged("a") as stage:
        stage.store.fault = lambda _who, method, path: (
            refusal(403) if (method, path) == ("GET", object_path(DB)) else None
        )
        await stage.time.passes(60.0)
        (event,) = stage.store.events()
        assert "uid" not in event["involvedObject"]


@scenario
async def test_a_terminating_namespace_does_not_delay_other_events() -> None:
    other = ObjectRef("NetworkPolicy", "web", "db")
    async with staged() as stage:
        stage.start("a", publishes=False)
        stage.owned(other)
        ending = refusal(403, "it is being terminated", "NamespaceTerminating")
        stage.store.fault = lambda _who, method, path: ending if method == "POST" and "shop/events" in path else None
        stage.reporters["a"].say([BROKEN, Notice(about=other, reason="FailsClosed", message="web")])
        await stage.time.passes(60.0)
        assert stage.messages() == [("web", 1)]
        assert len(stage.store.asked("POST", "shop/events")) == 1


@scenario
async def test_an_event_that_the_server_rejects_does_not_delay_others() -> None:
    other = ObjectRef("NetworkPolicy", "web", "db")
    async with staged() as stage:
        stage.start("a", publishes=False)
        stage.owned(other)
        stage.store.fault = lambda _who, method, path: refusal(422) if method == "POST" and "shop/ev" in path else None
        stage.reporters["a"].say([BROKEN, Notice(about=other, reason="FailsClosed", message="web")])
        await stage.time.passes(60.0)
        assert stage.messages() == [("web", 1)]
        assert len(stage.store.asked("POST", "shop/events")) == 1
        assert stage.reporters["a"].status()["events"]["failed"] == 1


FAILURES = {
    "a server that can't be reached": unreachable(),
    "a server that doesn't respond": lambda _who, _method, _path: TimeoutError(),
    "a server that is overloaded": lambda _who, _method, _path: Said(429, b"", 30.0),
    "a server that fails": lambda _who, _method, _path: Said(503, b"<html>"),
}


@pytest.mark.parametrize("fault", FAILURES.values(), ids=FAILURES)
@scenario
async def test_after_an_outage_active_notices_are_published_and_during_it_requests_are_rare(fault: Fault) -> None:
    async with staged("a") as stage:
        stage.store.fault = fault
        await stage.time.passes(1000.0)
        assert 5 < len(stage.store.requests) < 60
        assert stage.reporters["a"].status()["last_error"]
        stage.store.fault = lambda _who, _method, _path: None
        await stage.time.passes(120.0)
        assert stage.messages() == [(BROKEN.message, 1)]
        assert stage.reporters["a"].status()["last_error"] == ""


@scenario
async def test_a_lost_response_to_a_repetition_does_not_count_twice() -> None:
    async with staged("a") as stage:
        await stage.time.passes(500.0)
        stage.store.lost_response = lambda _who, method, _path: TimeoutError() if method == "PATCH" else None
        await stage.time.passes(102.0)
        stage.store.lost_response = lambda _who, _method, _path: None
        await stage.time.passes(60.0)
        assert stage.messages() == [(BROKEN.message, 2)]


@scenario
async def test_retry_after_is_respected() -> None:
    async with staged("a") as stage:
        await stage.time.passes(1.0)
        stage.store.fault = lambda _who, method, _path: Said(429, b"", 300.0) if method == "PATCH" else None
        await stage.time.passes(1000.0)
        asked = [request.at for request in stage.store.asked("PATCH", "/events")]
        assert len(asked) == 2
        assert asked[1] - asked[0] >= 300.0


@scenario
async def test_a_success_resets_the_backoff() -> None:
    async with staged("a") as stage:
        await stage.time.passes(1.0)
        pauses = []
        for outage in (1000.0, 1500.0):
            before = stage.time.now
            stage.store.fault = lambda _who, method, _path: Said(503) if method == "PATCH" else None
            await stage.time.passes(outage)
            stage.store.fault = lambda _who, _method, _path: None
            await stage.time.passes(60.0)
            asked = [request.at for request in stage.store.asked("PATCH", "/events") if request.at > before]
            pauses.append([later - earlier for earlier, later in pairwise(asked)])
        assert pauses[0][0] == pauses[1][0] < 3.0
        assert pauses[0][-1] == pauses[1][-1] > 20.0


@scenario
async def test_after_an_outage_the_agents_of_a_large_cluster_spread_their_retries() -> None:
    names = [f"n{number}" for number in range(20)]
    async with staged(jitter=Random(1).random) as stage:  # noqa: S311 - a test's jitter
        stage.nodes = 15_000
        stage.store.fault = unreachable()
        stage.start(*names, publishes=False)
        for name, reporter in stage.reporters.items():
            reporter.say(node_statements(name, NodeFaults(refused="EBUSY")))
        await stage.time.passes(25.0)
        stage.store.fault = lambda _who, _method, _path: None
        back = stage.time.now
        await stage.time.passes(60.0)
        returned = [request.at - back for request in stage.store.asked("POST", "/events") if request.status == 201]
        assert len(returned) == len(names)
        assert max(returned) > 10.0


def test_forbidden_events_are_logged_once_and_retried_rarely(caplog: pytest.LogCaptureFixture) -> None:
    # Objects may be read, as every notice reads its object first; Events may not be written.
    caplog.set_level(logging.INFO)

    async def body() -> None:
        async with staged("a") as stage:
            others = [Notice(about=DB, reason=f"Other{number}", message="no") for number in range(30)]
            stage.reporters["a"].say([BROKEN, *others])
            stage.store.fault = lambda _who, _method, path: refusal(403, "forbidden") if "/events" in path else None
            await stage.time.passes(2 * HOUR)
            assert 10 < len(stage.store.asked(within="/events")) < 20
            stage.reporters["a"].say([BROKEN])
            assert "deploy/rbac.yaml" in stage.reporters["a"].status()["last_error"]
            warnings = [record for record in caplog.records if record.levelno >= logging.WARNING]
            assert len(warnings) == 1
            stage.store.fault = lambda _who, _method, _path: None
            await stage.time.passes(900.0)
            assert [message for message, _ in stage.messages()] == [BROKEN.message]
            stage.reporters["a"].say([BROKEN, *others])
            await stage.time.passes(60.0)
            assert caplog.messages.count("Events: requests succeed again") == 1

    asyncio.run(body())


@scenario
async def test_an_agent_that_loses_the_lease_before_a_write_does_not_write() -> None:
    async with staged() as stage:
        stage.start("a", publishes=False)
        await stage.time.passes(1.0)
        asked: list[str] = []

        def late(_who: str, method: str, path: str) -> None:
            # The response to the first request comes after this agent's renew deadline.
            if not asked and (method, path) == ("GET", object_path(DB)):
                stage.time.now += LEASE_SECONDS
            asked.append(method)

        stage.store.fault = late
        stage.reporters["a"].say([BROKEN])
        await stage.time.turn()
        assert asked == ["GET"]
        assert stage.leaders == []


@pytest.mark.parametrize("answer", [404, 409])
@scenario
async def test_an_agent_that_loses_the_lease_between_two_writes_omits_the_second(answer: int) -> None:
    async with staged("a") as stage:
        await stage.time.passes(1.0)
        stage.reporters["a"].say([])
        await stage.time.passes(HOUR)
        wrote: list[str] = []

        def late(_who: str, method: str, path: str) -> Said | None:
            if "/events" not in path:
                return None
            wrote.append(method)
            stage.time.now += LEASE_SECONDS
            return refusal(answer)

        stage.store.fault = late
        stage.reporters["a"].say([BROKEN])
        await stage.time.turn()
        assert wrote == ["POST"]
        assert stage.leaders == []


@scenario
async def test_a_once_notice_is_written_once_by_the_leader_and_again_when_it_returns() -> None:
    logging_object = ObjectRef("NetworkLogging", "", "default")
    news = logging_statement(NetworkLogging())
    async with staged() as stage:
        stage.start("a", "b", publishes=False)
        for round_ in range(3):
            stage.owned(logging_object, spec={"round": round_})
            for reporter in stage.reporters.values():
                reporter.say([] if round_ == 1 else [news])
            await stage.time.passes(700.0)
        told = [(event["reason"], event["type"], event["count"]) for event in stage.store.events()]
        assert told == [("UpdateNetworkLogging", "Normal", 1)] * 2
        before = stage.store.events()
        await stage.stop(stage.leaders[0])
        await stage.time.passes(HOUR)
        assert len(stage.leaders) == 1
        assert stage.store.events() == before, "the next leader doesn't repeat it"


@scenario
async def test_many_notices_at_once_are_rate_limited_and_none_is_lost() -> None:
    policies = [ObjectRef("NetworkPolicy", "shop", f"p{number}") for number in range(100)]
    async with staged() as stage:
        for ref in policies:
            stage.owned(ref)
        stage.start("a", publishes=False)
        stage.reporters["a"].say(Notice(about=ref, reason="FailsClosed", message="no") for ref in policies)
        await stage.time.passes(1.0)
        assert len(stage.store.events()) == 25
        await stage.time.passes(200.0)
        assert len(stage.store.events()) == 100
        assert stage.reporters["a"].status()["events"]["suppressed"] == 75
