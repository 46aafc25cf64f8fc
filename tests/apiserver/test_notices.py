"""Events and conditions that agents write to kube-apiserver, with the shipped RBAC."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from nfagent.decode.egress_nat import decode_egress_policy, decode_gateway_group
from nfagent.errors import ClusterError
from nfagent.kube.client import ApiClient
from nfagent.kube.credentials import find_client_config
from nfagent.lab.apiserver.control_plane import ControlPlane
from nfagent.lab.apiserver.kube_client import Document, LabApiClient
from nfagent.model.objects import NetworkLogging, ObjectRef
from nfagent.reporting.conditions import gateway_conditions, policy_conditions
from nfagent.reporting.notice import Notice
from nfagent.reporting.problems import NodeFaults, logging_notice, node_notices
from nfagent.reporting.reporter import ClusterReporter
from nfagent.reporting.request_retrier import ApiReply, ApiRequests
from tests.support.apiserver_labs import account_token, shipped_definitions
from tests.support.fake_apiserver import SkewedClock, SteppedTime

pytestmark = pytest.mark.apiserver

STEP_SECONDS = 1.0
"""Of the agents' time, which passes only while none of their requests is on its way: a busy server ends no Lease."""
PATIENCE = 60.0
BROKEN = Notice(
    about=ObjectRef("NetworkPolicy", "shop", "db"), reason="FailsClosed", message="spec.ingress[0]: no port"
)
POLICY: Document = {
    "apiVersion": "networking.k8s.io/v1",
    "kind": "NetworkPolicy",
    "metadata": {"namespace": "shop", "name": "db"},
    "spec": {"podSelector": {}},
}
EGRESS: Document = {
    "apiVersion": "networking.gke.io/v1",
    "kind": "EgressNATPolicy",
    "metadata": {"name": "default"},
    "spec": {"action": "NoSNAT", "destinations": []},
}
GATEWAY: Document = {
    "apiVersion": "networking.gke.io/v1",
    "kind": "NetworkGatewayGroup",
    "metadata": {"namespace": "shop", "name": "gw"},
    "spec": {"floatingIPs": ["192.0.2.10"]},
}
LOGGING: Document = {
    "apiVersion": "networking.gke.io/v1alpha1",
    "kind": "NetworkLogging",
    "metadata": {"name": "default"},
    "spec": {"cluster": {"deny": {"log": True}}},
}
LEASE: Document = {
    "apiVersion": "coordination.k8s.io/v1",
    "kind": "Lease",
    "metadata": {"namespace": "nfagent", "name": "nfagent"},
}


class Agent:
    """A reporter with a connection to the API server that a test can cut."""

    def __init__(self, node: str, kubeconfig: Path, time: SteppedTime) -> None:
        self.node = node
        self.on_their_way = 0
        self.server = ApiClient(lambda: find_client_config(str(kubeconfig)))
        self.cut = False
        self.written: list[str] = []
        self.reporter = ClusterReporter(self, SkewedClock(time), node, lambda: 2, lambda: 0.5)
        self._task: asyncio.Task[None] | None = None

    async def request(
        self,
        method: str,
        path: str,
        *,
        query: Mapping[str, str] | None = None,
        body: object = None,
        content_type: str = "application/json",
        accept: str = "application/json",
    ) -> ApiReply:
        if self.cut:
            raise ClusterError("cut off")
        server: ApiRequests = self.server
        self.on_their_way += 1
        try:
            answer = await server.request(
                method, path, query=query, body=body, content_type=content_type, accept=accept
            )
        finally:
            self.on_their_way -= 1
        if method in {"POST", "PATCH"} and answer.status < 300:
            self.written.append(path)
        return answer

    def start(self) -> None:
        self._task = asyncio.create_task(self.reporter.run())

    async def stop(self) -> None:
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)
            self._task = None
        await self.server.close()


@pytest.fixture(scope="module")
def kubeconfig(control_plane: ControlPlane) -> Iterator[Path]:
    """Return the shipped service account's kubeconfig, on a server with nfagent's CRDs."""
    with control_plane.client() as client:
        before = client.inventory()
        client.put_all(shipped_definitions())
        yield control_plane.kubeconfig("nfagent", token=account_token(control_plane, client))
        client.remove(client.inventory() - before)


class Agents:
    """Two agents, and the time of both."""

    def __init__(self, kubeconfig: Path) -> None:
        self.time = SteppedTime()
        self.pair = (Agent("n1", kubeconfig, self.time), Agent("n2", kubeconfig, self.time))

    async def until(self, condition: Callable[[], bool]) -> None:
        """Let the agents' time pass until a condition holds."""
        async with asyncio.timeout(PATIENCE):
            while not condition():
                if not any(agent.on_their_way for agent in self.pair):
                    await self.time.passes(STEP_SECONDS)
                await asyncio.sleep(0.01)

    def leader_first(self) -> tuple[Agent, Agent]:
        """Return the leader, and the other one."""
        (first,) = [agent for agent in self.pair if agent.reporter.is_leader]
        (second,) = [agent for agent in self.pair if agent is not first]
        return first, second


@asynccontextmanager
async def two_agents(kubeconfig: Path) -> AsyncIterator[Agents]:
    found = Agents(kubeconfig)
    try:
        yield found
    finally:
        for agent in found.pair:
            await agent.stop()


def events(client: LabApiClient, namespace: str) -> list[Document]:
    return [one for one in client.list("v1", "Event", namespace) if one["reportingComponent"] == "nfagent"]


def condition(client: LabApiClient, document: Document) -> list[tuple[str, str, str, int]]:
    found = (client.get(document) or {}).get("status", {}).get("conditions", [])
    return sorted((one["type"], one["status"], one["reason"], one["observedGeneration"]) for one in found)


def test_one_of_two_agents_writes_one_event_and_the_other_goes_on_with_it(
    kubeconfig: Path, clean: LabApiClient
) -> None:
    clean.put(POLICY)
    uid = (clean.get(POLICY) or {})["metadata"]["uid"]

    async def body() -> None:
        async with two_agents(kubeconfig) as agents:
            for agent in agents.pair:
                agent.reporter.publish([BROKEN])
                agent.start()
            await agents.until(lambda: bool(events(clean, "shop")))
            first, second = agents.leader_first()
            (event,) = events(clean, "shop")
            assert (event["involvedObject"]["uid"], event["involvedObject"]["kind"]) == (uid, "NetworkPolicy")
            assert (event["type"], event["reason"], event["message"]) == ("Warning", "FailsClosed", BROKEN.message)
            assert (clean.get(LEASE) or {})["spec"]["holderIdentity"] == first.node
            assert second.written == []
            await first.stop()
            await agents.until(lambda: second.reporter.is_leader and bool(second.written))
            (later,) = events(clean, "shop")
            assert later["metadata"]["name"] == event["metadata"]["name"]
            assert later["count"] == 1
            assert later["lastTimestamp"] >= event["lastTimestamp"]
            assert (clean.get(LEASE) or {})["spec"]["holderIdentity"] == second.node

    asyncio.run(body())


def test_one_that_is_cut_off_is_replaced_when_its_lease_is_over(kubeconfig: Path, clean: LabApiClient) -> None:
    async def body() -> None:
        async with two_agents(kubeconfig) as agents:
            for agent in agents.pair:
                agent.start()
            await agents.until(lambda: any(agent.reporter.is_leader for agent in agents.pair))
            first, second = agents.leader_first()
            first.cut = True
            both: list[bool] = []

            def replaced() -> bool:
                both.append(first.reporter.is_leader and second.reporter.is_leader)
                return second.reporter.is_leader

            await agents.until(replaced)
            assert not any(both)
            assert (clean.get(LEASE) or {})["spec"]["leaseTransitions"] >= 1

    asyncio.run(body())


def test_conditions_follow_the_objects_and_leave_others_alone(kubeconfig: Path, clean: LabApiClient) -> None:
    foreign = {"type": "Audited", "status": "True", "reason": "Audit", "message": "", "observedGeneration": 1}
    clean.put({**EGRESS, "status": {"conditions": [{**foreign, "lastTransitionTime": "2026-01-01T00:00:00Z"}]}})
    clean.put(GATEWAY)

    async def body() -> None:
        async with two_agents(kubeconfig) as agents:
            agent, _ = agents.pair
            conditions = [
                policy_conditions(decode_egress_policy(EGRESS)),
                gateway_conditions(decode_gateway_group(GATEWAY)),
            ]
            agent.reporter.publish([], conditions)
            agent.start()
            audited = ("Audited", "True", "Audit", 1)
            told = [("Accepted", "True", "Accepted", 1), audited, ("Programmed", "True", "Programmed", 1)]
            await agents.until(lambda: condition(clean, EGRESS) == told)
            unused = ("Programmed", "False", "NotUsed", 1)
            await agents.until(lambda: condition(clean, GATEWAY) == [("Accepted", "True", "Accepted", 1), unused])
            away = {"name": "gw", "namespace": "kube-system"}
            changed = {**EGRESS, "spec": {"action": "SNAT", "destinations": [], "gatewayRef": away}}
            clean.put(changed)
            agent.reporter.publish([], [policy_conditions(decode_egress_policy(changed)), conditions[1]])
            told = [("Accepted", "True", "Accepted", 2), audited, ("Programmed", "False", "NoGateway", 2)]
            await agents.until(lambda: condition(clean, EGRESS) == told)

    asyncio.run(body())


def test_events_of_nodes_and_of_objects_without_namespace_are_taken(kubeconfig: Path, clean: LabApiClient) -> None:
    clean.put(LOGGING)
    gone = Notice(about=ObjectRef("NetworkPolicy", "nowhere", "db"), reason="FailsClosed", message="no")

    async def body() -> None:
        async with two_agents(kubeconfig) as agents:
            agent, _ = agents.pair
            faults = node_notices("n1", NodeFaults(commit_error="EBUSY"))
            agent.reporter.publish([gone, logging_notice(NetworkLogging()), *faults])
            agent.start()
            counts = agent.reporter.status
            await agents.until(lambda: counts()["events"]["sent"] == 2 and counts()["events"]["gone"] == 1)
            status = counts()
            assert (status["leader"], status["holder"], status["last_error"]) == (True, "n1", "")
            assert status["events"]["failed"] == 0

    asyncio.run(body())
    found = {one["involvedObject"]["kind"]: one for one in events(clean, "default")}
    assert {kind: (one["type"], one["reason"]) for kind, one in found.items()} == {
        "NetworkLogging": ("Normal", "UpdateNetworkLogging"),
        "Node": ("Warning", "RulesRefused"),
    }
    assert found["Node"]["involvedObject"]["uid"] == "n1"
