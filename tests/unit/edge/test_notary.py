"""Agents that speak to one store: who says what, how often, and what becomes of it when something fails."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import asynccontextmanager
from typing import Any, TypeAlias

import pytest

from nfagent.cluster.model import NetworkLogging, Ref
from nfagent.edge import elector
from nfagent.edge.notary import Notary
from nfagent.egress.policy import EgressNATPolicy, NetworkGatewayGroup
from nfagent.errors import Problem
from nfagent.notices.conditions import gateway_standing, policy_standing, rejected_standing
from nfagent.notices.election import COLLECTION, EPOCH_SECONDS, LEASE_SECONDS, RENEW_SECONDS
from nfagent.notices.findings import NodeFaults, logging_statement, node_statements
from nfagent.notices.statement import Statement, object_path
from tests.object_store import Clock, Fault, Said, Store, Time, refusal, unreachable

A_POLL = 1.2 * RENEW_SECONDS
LEASE = f"{COLLECTION}/nfagent"
DB = Ref("NetworkPolicy", "shop", "db")
BROKEN = Statement(about=DB, reason="FailsClosed", message="spec.ingress[0]: is not a port")
EGRESS = Ref("EgressNATPolicy", "", "default")
ENFORCED = policy_standing(EgressNATPolicy(name="default", action="NoSNAT"))
HOUR = 3600.0


class Stage:
    """A store, time, and agents that run."""

    def __init__(self) -> None:
        self.time = Time()
        self.store = Store(self.time)
        self.nodes: list[str] = []
        self.notaries: dict[str, Notary] = {}
        self._tasks: dict[str, asyncio.Task[None]] = {}

    def start(self, *names: str, speaks: bool = True) -> None:
        self.nodes += [name for name in names if name not in self.nodes]
        for number, name in enumerate(names, len(self._tasks)):
            clock = Clock(self.time, started=-77.0 * number, skew=31.0 * number)
            notary = Notary(self.store.client(name), clock, name, lambda: self.nodes, lambda: 0.5)
            self.notaries[name] = notary
            if speaks:
                notary.say([BROKEN])
            self._tasks[name] = asyncio.create_task(notary.run())

    async def stop(self, name: str) -> None:
        task = self._tasks.pop(name)
        assert not task.done(), "the notary ended"
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)

    async def close(self) -> None:
        for name in list(self._tasks):
            await self.stop(name)

    @property
    def leaders(self) -> list[str]:
        return [name for name, notary in self.notaries.items() if notary.leads]

    def owned(self, ref: Ref, **content: object) -> None:
        self.store.put(object_path(ref), content)

    def messages(self) -> list[tuple[str, int]]:
        return [(event["message"], event["count"]) for event in self.store.events()]

    def conditions(self, ref: Ref) -> list[tuple[str, str, str, int]]:
        found = self.store.objects[object_path(ref)].get("status", {}).get("conditions", [])
        return [(one["type"], one["status"], one["reason"], one["observedGeneration"]) for one in found]


@asynccontextmanager
async def staged(*names: str) -> AsyncIterator[Stage]:
    stage = Stage()
    stage.owned(DB)
    stage.start(*names)
    try:
        yield stage
    finally:
        await stage.close()


Scenario: TypeAlias = Callable[..., Coroutine[Any, Any, None]]


def scenario(body: Scenario) -> Callable[..., None]:
    """Run a test's coroutine in an event loop of its own."""

    def test(*args: object, **kwargs: object) -> None:
        asyncio.run(body(*args, **kwargs))

    test.__name__ = body.__name__
    test.__wrapped__ = body  # type: ignore[attr-defined]
    return test


@scenario
async def test_of_several_agents_one_speaks_for_the_cluster_and_all_for_their_nodes() -> None:
    async with staged() as stage:
        stage.start("a", "b", "c")
        for name, notary in stage.notaries.items():
            notary.say([BROKEN, *node_statements(name, NodeFaults(verdict_log="no group"))])
        await stage.time.passes(60.0)
        assert len(stage.leaders) == 1
        assert {request.who for request in stage.store.asked("POST", "shop/events")} == set(stage.leaders)
        assert {request.who for request in stage.store.asked("POST", "default/events")} == {"a", "b", "c"}
        assert len(stage.store.events()) == 4


@scenario
async def test_an_event_has_what_kubectl_looks_for() -> None:
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
async def test_a_node_is_named_as_kubelet_names_it_and_needs_no_question() -> None:
    async with staged() as stage:
        stage.start("n1", speaks=False)
        stage.notaries["n1"].say(node_statements("n1", NodeFaults(refused="EBUSY")))
        await stage.time.passes(20.0)
        (event,) = stage.store.events()
        assert event["involvedObject"] == {"apiVersion": "v1", "kind": "Node", "name": "n1", "uid": "n1"}
        assert (event["metadata"]["namespace"], event["source"]["host"]) == ("default", "n1")
        assert stage.store.asked("GET", "/nodes/") == []


@scenario
async def test_while_it_holds_a_statement_is_repeated_as_one_event_within_the_hour_that_events_live() -> None:
    async with staged("a") as stage:
        await stage.time.passes(4 * HOUR)
        (event,) = stage.store.events()
        said = [request.at for request in stage.store.asked("PATCH", "shop/events")]
        assert event["count"] == len(said) + 1 == 8
        assert max(later - earlier for earlier, later in zip([0.0, *said], said, strict=False)) < HOUR
        assert event["firstTimestamp"] < event["lastTimestamp"]
        assert len(stage.store.asked("GET", object_path(DB))) == 1, "its uid was known"


@scenario
async def test_what_no_longer_holds_is_no_longer_said() -> None:
    async with staged("a") as stage:
        await stage.time.passes(1.0)
        stage.notaries["a"].say([])
        await stage.time.passes(4 * HOUR)
        assert stage.messages() == [(BROKEN.message, 1)]


@scenario
async def test_an_event_that_the_server_forgot_is_made_anew() -> None:
    async with staged("a") as stage:
        await stage.time.passes(1.0)
        for path in [path for path in stage.store.objects if "/events/" in path]:
            del stage.store.objects[path]
        await stage.time.passes(700.0)
        assert stage.messages() == [(BROKEN.message, 1)]


@scenario
async def test_the_next_agent_goes_on_with_the_same_event() -> None:
    async with staged("a", "b") as stage:
        await stage.time.passes(700.0)
        (first,) = stage.leaders
        assert stage.messages() == [(BROKEN.message, 2)]
        await stage.stop(first)
        await stage.time.passes(A_POLL + 1.0)
        assert stage.leaders == [{"a": "b", "b": "a"}[first]]
        assert stage.messages() == [(BROKEN.message, 2)], "that another one speaks is no new fault"
        await stage.time.passes(601.0)
        assert stage.messages() == [(BROKEN.message, 3)]


@pytest.mark.parametrize("name", ["web", "db"])
@scenario
async def test_a_statement_whose_object_is_gone_is_dropped(name: str) -> None:
    async with staged() as stage:
        stage.start("a", speaks=False)
        about = Ref("NetworkPolicy", "shop", name)
        stage.notaries["a"].say([Statement(about=about, reason="FailsClosed", message="no")])
        await stage.time.passes(60.0)
        assert len(stage.store.events()) == (name == "db")
        assert stage.notaries["a"].status()["events"]["gone"] == (name != "db")
        assert len(stage.store.asked("GET", object_path(about))) == 1


@scenario
async def test_without_permission_to_read_the_object_its_event_is_written_without_uid() -> None:
    async with staged("a") as stage:
        stage.store.fault = lambda _who, method, path: (
            refusal(403) if (method, path) == ("GET", object_path(DB)) else None
        )
        await stage.time.passes(60.0)
        (event,) = stage.store.events()
        assert "uid" not in event["involvedObject"]


@scenario
async def test_a_namespace_that_is_being_deleted_holds_up_nobody_else() -> None:
    other = Ref("NetworkPolicy", "web", "db")
    async with staged() as stage:
        stage.start("a", speaks=False)
        stage.owned(other)
        ending = refusal(403, "it is being terminated", "NamespaceTerminating")
        stage.store.fault = lambda _who, method, path: ending if method == "POST" and "shop/events" in path else None
        stage.notaries["a"].say([BROKEN, Statement(about=other, reason="FailsClosed", message="web")])
        await stage.time.passes(60.0)
        assert stage.messages() == [("web", 1)]
        assert len(stage.store.asked("POST", "shop/events")) == 1


@scenario
async def test_an_event_that_the_server_does_not_take_holds_up_nobody_else() -> None:
    other = Ref("NetworkPolicy", "web", "db")
    async with staged() as stage:
        stage.start("a", speaks=False)
        stage.owned(other)
        stage.store.fault = lambda _who, method, path: refusal(422) if method == "POST" and "shop/ev" in path else None
        stage.notaries["a"].say([BROKEN, Statement(about=other, reason="FailsClosed", message="web")])
        await stage.time.passes(60.0)
        assert stage.messages() == [("web", 1)]
        assert len(stage.store.asked("POST", "shop/events")) == 1
        assert stage.notaries["a"].status()["events"]["failed"] == 1


SETBACKS = {
    "a server that can't be reached": unreachable(),
    "a server that is silent": lambda _who, _method, _path: TimeoutError(),
    "a server that is overloaded": lambda _who, _method, _path: Said(429, b"", 30.0),
    "a server that fails": lambda _who, _method, _path: Said(503, b"<html>"),
}


@pytest.mark.parametrize("fault", SETBACKS.values(), ids=SETBACKS)
@scenario
async def test_after_an_outage_what_holds_is_said_and_meanwhile_the_server_is_left_in_peace(fault: Fault) -> None:
    async with staged("a") as stage:
        stage.store.fault = fault
        await stage.time.passes(1000.0)
        assert 5 < len(stage.store.requests) < 60
        assert stage.notaries["a"].status()["last_error"]
        stage.store.fault = lambda _who, _method, _path: None
        await stage.time.passes(120.0)
        assert stage.messages() == [(BROKEN.message, 1)]
        assert stage.notaries["a"].status()["last_error"] == ""


@scenario
async def test_an_outage_that_begins_in_the_middle_of_a_repetition_doubles_nothing() -> None:
    async with staged("a") as stage:
        await stage.time.passes(500.0)
        stage.store.unheard = lambda _who, method, _path: TimeoutError() if method == "PATCH" else None
        await stage.time.passes(102.0)
        stage.store.unheard = lambda _who, _method, _path: None
        await stage.time.passes(60.0)
        assert stage.messages() == [(BROKEN.message, 2)]


@pytest.mark.parametrize("what", ["leases", "events"])
def test_what_is_not_permitted_is_said_once_and_tried_rarely(what: str, caplog: pytest.LogCaptureFixture) -> None:
    async def body() -> None:
        async with staged("a") as stage:
            stage.store.fault = lambda _who, _method, path: refusal(403, "forbidden") if f"/{what}" in path else None
            await stage.time.passes(2 * HOUR)
            assert 10 < len(stage.store.asked(within=f"/{what}")) < 20
            assert "deploy/rbac.yaml" in stage.notaries["a"].status()["last_error"]
            warnings = [record for record in caplog.records if record.levelno >= logging.WARNING]
            assert len(warnings) == 1
            stage.store.fault = lambda _who, _method, _path: None
            await stage.time.passes(900.0)
            assert [message for message, _ in stage.messages()] == [BROKEN.message]

    asyncio.run(body())


@scenario
async def test_without_its_namespace_the_election_waits_for_it() -> None:
    async with staged("a") as stage:
        stage.store.fault = lambda _who, method, path: refusal(404) if (method, path) == ("POST", COLLECTION) else None
        await stage.time.passes(HOUR)
        assert (stage.leaders, len(stage.store.asked("POST", COLLECTION))) == ([], 7)
        assert "deploy/" in stage.notaries["a"].status()["last_error"]
        stage.store.fault = lambda _who, _method, _path: None
        await stage.time.passes(HOUR / 4)
        assert stage.leaders == ["a"]


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


@scenario
async def test_news_is_told_once_by_whoever_speaks_and_again_when_it_comes_again() -> None:
    logging_object = Ref("NetworkLogging", "", "default")
    news = logging_statement(NetworkLogging())
    async with staged() as stage:
        stage.start("a", "b", speaks=False)
        for round_ in range(3):
            stage.owned(logging_object, spec={"round": round_})
            for notary in stage.notaries.values():
                notary.say([] if round_ == 1 else [news])
            await stage.time.passes(700.0)
        told = [(event["reason"], event["type"], event["count"]) for event in stage.store.events()]
        assert told == [("UpdateNetworkLogging", "Normal", 1)] * 2
        before = stage.store.events()
        await stage.stop(stage.leaders[0])
        await stage.time.passes(HOUR)
        assert len(stage.leaders) == 1
        assert stage.store.events() == before, "the next one says no old news"


@scenario
async def test_conditions_are_written_where_they_differ_and_others_are_left_alone() -> None:
    foreign = {"type": "Audited", "status": "True", "reason": "x", "message": "", "observedGeneration": 1}
    async with staged() as stage:
        stage.owned(EGRESS, spec={}, status={"conditions": [foreign]})
        stage.start("a", "b", speaks=False)
        for notary in stage.notaries.values():
            notary.say([], [ENFORCED])
        await stage.time.passes(2 * HOUR)
        ours = [("Accepted", "True", "Accepted", 1), ("Programmed", "True", "Programmed", 1)]
        assert stage.conditions(EGRESS) == [("Audited", "True", "x", 1), *ours]
        assert len(stage.store.asked("PATCH", "/status")) == 1
        assert stage.notaries[stage.leaders[0]].status()["conditions"] == {"sent": 1, "failed": 0}


@scenario
async def test_a_new_generation_is_observed_and_a_transition_has_its_time() -> None:
    async with staged() as stage:
        stage.owned(EGRESS, spec={"n": 1})
        stage.start("a", speaks=False)
        stage.notaries["a"].say([], [ENFORCED])
        await stage.time.passes(10.0)
        since = {
            one["type"]: one["lastTransitionTime"]
            for one in stage.store.objects[object_path(EGRESS)]["status"]["conditions"]
        }
        stage.owned(EGRESS, spec={"n": 2})
        stage.notaries["a"].say([], [policy_standing(EgressNATPolicy(name="default", action="SNAT"))])
        await stage.time.passes(10.0)
        assert stage.conditions(EGRESS) == [
            ("Accepted", "True", "Accepted", 2),
            ("Programmed", "False", "NotSupported", 2),
        ]
        after = {
            one["type"]: one["lastTransitionTime"]
            for one in stage.store.objects[object_path(EGRESS)]["status"]["conditions"]
        }
        assert after["Accepted"] == since["Accepted"]
        assert after["Programmed"] > since["Programmed"]


@scenario
async def test_conditions_that_somebody_overwrote_come_back_within_minutes() -> None:
    async with staged() as stage:
        stage.owned(EGRESS, spec={})
        stage.start("a", speaks=False)
        stage.notaries["a"].say([], [ENFORCED])
        await stage.time.passes(10.0)
        stage.store.objects[object_path(EGRESS)]["status"]["conditions"] = []
        await stage.time.passes(300.0)
        assert [one[:2] for one in stage.conditions(EGRESS)] == [("Accepted", "True"), ("Programmed", "True")]


@scenario
async def test_objects_that_can_not_be_read_and_gateways_say_so() -> None:
    gateway = NetworkGatewayGroup("shop", "gw", ("192.0.2.1",))
    async with staged() as stage:
        stage.owned(EGRESS)
        stage.owned(gateway.ref)
        stage.start("a", speaks=False)
        problem = Problem(field="spec.action", value="No", reason="is not an action; write NoSNAT or SNAT")
        stage.notaries["a"].say([], [rejected_standing(EGRESS, [problem]), gateway_standing(gateway)])
        await stage.time.passes(10.0)
        assert stage.conditions(EGRESS) == [("Accepted", "False", "Invalid", 1), ("Programmed", "False", "Invalid", 1)]
        assert stage.conditions(gateway.ref)[1][1:3] == ("False", "NotSupported")
        said = stage.store.objects[object_path(EGRESS)]["status"]["conditions"][0]["message"]
        assert said == "spec.action 'No': is not an action; write NoSNAT or SNAT"


@scenario
async def test_an_object_made_anew_meanwhile_does_not_get_the_old_ones_conditions() -> None:
    async with staged() as stage:
        stage.owned(EGRESS)
        stage.start("a", speaks=False)

        def anew(_who: str, method: str, path: str) -> None:
            if (method, path) == ("PATCH", f"{object_path(EGRESS)}/status"):
                del stage.store.objects[object_path(EGRESS)]
                stage.owned(EGRESS)
                stage.store.fault = lambda _who, _method, _path: None

        stage.store.fault = anew
        stage.notaries["a"].say([], [ENFORCED])
        await stage.time.passes(5.0)
        assert stage.conditions(EGRESS) == []
        await stage.time.passes(10.0)
        assert [one[1] for one in stage.conditions(EGRESS)] == ["True", "True"]


@scenario
async def test_a_storm_is_spread_and_nothing_of_it_is_lost() -> None:
    policies = [Ref("NetworkPolicy", "shop", f"p{number}") for number in range(100)]
    async with staged() as stage:
        for ref in policies:
            stage.owned(ref)
        stage.start("a", speaks=False)
        stage.notaries["a"].say(Statement(about=ref, reason="FailsClosed", message="no") for ref in policies)
        await stage.time.passes(1.0)
        assert len(stage.store.events()) == 25
        await stage.time.passes(200.0)
        assert len(stage.store.events()) == 100
        assert stage.notaries["a"].status()["events"]["suppressed"] == 75
