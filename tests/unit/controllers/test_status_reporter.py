"""Which notices and conditions an agent reports, and when."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from nfagent.controllers.status_reporter import StatusReporter
from nfagent.decode.egress_nat import decode_egress_policy
from nfagent.decode.networkpolicy import decode_network_policy
from nfagent.desired.state import DesiredState
from nfagent.errors import ValidationIssue
from nfagent.model.egress_nat import EgressNATPolicy, NetworkGatewayGroup
from nfagent.model.ip_masq import DEFAULT_CIDRS, IpMasqConfig
from nfagent.model.netaddr import parse_cidr
from nfagent.model.objects import NetworkLogging, Node, ObjectRef
from nfagent.reporting.notice import object_path
from nfagent.reporting.problems import NodeFaults
from tests.support.fake_apiserver import ObjectStore, SkewedClock, SteppedTime, refusal
from tests.support.reporting_agents import DB, EGRESS, scenario

TEN = parse_cidr("10.0.0.0/8")
FLAWED = decode_network_policy(
    {
        "metadata": {"namespace": "shop", "name": "db"},
        "spec": {"podSelector": {}, "ingress": [{"ports": [{"port": 99999}]}]},
    }
)


class CountingClock(SkewedClock):
    """A clock that counts calls of `wait`."""

    waits = 0

    async def wait(self, event: asyncio.Event, seconds: float) -> bool:
        self.waits += 1
        return await super().wait(event, seconds)


class ReporterSetup:
    """The state of one agent, and the Events that the API server has."""

    def __init__(self) -> None:
        self.time = SteppedTime()
        self.store = ObjectStore(self.time)
        self.desired = DesiredState("n1")
        self.faults: dict[ObjectRef, tuple[ValidationIssue, ...]] = {}
        self.troubles = NodeFaults()
        self.synced = False
        self.clock = clock = CountingClock(self.time)
        # A source returns a new mapping each time.
        self.reporter = StatusReporter(
            self.desired,
            self.store.client("n1"),
            clock,
            lambda: dict(self.faults),
            lambda: self.troubles,
            synced=lambda: self.synced,
        )

    def reasons(self) -> list[tuple[str, str]]:
        return sorted((event["involvedObject"]["kind"], event["reason"]) for event in self.store.events())

    def condition(self) -> str:
        conditions = self.store.objects[object_path(EGRESS)]["status"]["conditions"]
        return str(next(one["status"] for one in conditions if one["type"] == "Programmed"))


@asynccontextmanager
async def speaking() -> AsyncIterator[ReporterSetup]:
    stage = ReporterSetup()
    task = asyncio.create_task(stage.reporter.run())
    try:
        yield stage
        assert not task.done()
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


@scenario
async def test_a_new_fault_is_reported_within_seconds_on_its_object() -> None:
    async with speaking() as stage:
        await stage.time.passes(100.0)
        assert stage.reasons() == []
        stage.store.put(object_path(DB), {})
        stage.desired.put(FLAWED)
        stage.faults[DB] = FLAWED.problems
        await stage.time.passes(3.0)
        assert stage.reasons() == [("NetworkPolicy", "FailsClosed")]
        stage.store.put(object_path(NetworkLogging().ref), {})
        stage.desired.put(NetworkLogging())
        await stage.time.passes(3.0)
        assert stage.reasons() == [("NetworkLogging", "UpdateNetworkLogging"), ("NetworkPolicy", "FailsClosed")]
        stage.troubles = NodeFaults(commit_error="EBUSY")
        await stage.time.passes(15.0)
        assert ("Node", "RulesRefused") in stage.reasons()


@scenario
async def test_each_nat_rule_of_another_program_is_reported_once_on_the_node() -> None:
    async with speaking() as stage:
        stage.troubles = NodeFaults(foreign_nat=("rule one", "rule two"))
        await stage.time.passes(1000.0)
        stage.troubles = NodeFaults(foreign_nat=("rule one", "rule two", "rule three"))
        await stage.time.passes(5000.0)
        assert stage.reasons() == [("Node", "ForeignNatRule")] * 3
        said = {(event["message"], event["count"]) for event in stage.store.events()}
        assert said == {("rule one", 1), ("rule two", 1), ("rule three", 1)}
        assert len(stage.store.asked("POST", "/events")) == 3


@scenario
async def test_a_partly_invalid_object_of_each_kind_is_reported() -> None:
    async with speaking() as stage:
        node = Node("n2", problems=FLAWED.problems)
        stage.store.put(object_path(node.ref), {})
        stage.desired.put(node)
        stage.faults[node.ref] = node.problems
        await stage.time.passes(3.0)
        (said,) = (event["message"] for event in stage.store.events())
        assert said.startswith("Part of the object can't be read: spec.ingress[0].ports[0].port '99999'")


@scenario
async def test_a_policy_replaced_by_an_invalid_one_is_reported() -> None:
    async with speaking() as stage:
        stage.store.put(object_path(DB), {})
        await stage.time.passes(3.0)
        stage.faults[DB] = FLAWED.problems
        await stage.time.passes(3.0)
        assert stage.reasons() == [("NetworkPolicy", "NotEnforced")]
        stage.desired.put(FLAWED)
        await stage.time.passes(3.0)
        assert stage.reasons() == [("NetworkPolicy", "FailsClosed"), ("NetworkPolicy", "NotEnforced")]


@scenario
async def test_the_default_policy_is_created_once_all_objects_are_read_and_again_after_its_deletion() -> None:
    path = object_path(EGRESS)
    async with speaking() as stage:
        await stage.time.passes(100.0)
        assert path not in stage.store.objects
        stage.synced = True
        await stage.time.passes(3.0)
        assert stage.store.objects[path]["spec"] == {
            "action": "NoSNAT",
            "destinations": [{"cidr": cidr} for cidr in ("10.0.0.0/8", "172.16.0.0/12", "192.168.0.0/16")],
        }
        policy = decode_egress_policy({**stage.store.objects[path], "metadata": {"name": "default"}})
        stage.desired.put(policy)
        await stage.time.passes(3.0)
        assert (stage.condition(), len(stage.store.asked("POST", "egressnat"))) == ("True", 1)
        del stage.store.objects[path]
        stage.desired.remove(EGRESS)
        await stage.time.passes(3.0)
        assert path in stage.store.objects


@scenario
async def test_the_default_policy_is_not_created_where_it_cannot_be_read_or_a_list_of_ip_masq_agent_is_there() -> None:
    async with speaking() as stage:
        stage.synced = True
        stage.faults[EGRESS] = FLAWED.problems
        await stage.time.passes(100.0)
        stage.desired.put(IpMasqConfig((TEN,)))
        del stage.faults[EGRESS]
        await stage.time.passes(100.0)
        assert stage.store.asked("POST", "egressnat") == []


@scenario
async def test_where_the_kind_is_not_served_creation_is_tried_rarely() -> None:
    async with speaking() as stage:
        stage.synced = True
        stage.store.fault = lambda _who, _method, path: refusal(404) if "egressnat" in path else None
        await stage.time.passes(3000.0)
        assert 49 <= len(stage.store.asked("POST", "egressnat")) <= 101


@scenario
async def test_the_built_in_default_policy_says_that_a_list_of_ip_masq_agent_replaces_it() -> None:
    async with speaking() as stage:
        stage.store.put(object_path(EGRESS), {})
        stage.desired.put(EgressNATPolicy(name="default", action="NoSNAT", destinations=DEFAULT_CIDRS))
        stage.desired.put(IpMasqConfig((TEN,)))
        await stage.time.passes(3.0)
        assert stage.condition() == "False"


@scenario
async def test_a_tie_of_egress_policies_is_in_their_conditions() -> None:
    async with speaking() as stage:
        stage.store.put(object_path(EGRESS), {})
        stage.desired.put(EgressNATPolicy(name="default", action="SNAT", destinations=(TEN,)))
        await stage.time.passes(3.0)
        assert stage.condition() == "True"
        stage.desired.put(EgressNATPolicy(name="keep", action="NoSNAT", destinations=(TEN,)))
        stage.desired.drain_changes()
        await stage.time.passes(3.0)
        assert stage.condition() == "False"


@scenario
async def test_an_egress_policy_that_changes_gets_its_conditions() -> None:
    async with speaking() as stage:
        stage.store.put(object_path(EGRESS), {})
        stage.desired.put(EgressNATPolicy(name="default", action="NoSNAT"))
        await stage.time.passes(3.0)
        assert stage.condition() == "True"
        gateway = ObjectRef("NetworkGatewayGroup", "kube-system", "gw")
        stage.desired.put(EgressNATPolicy(name="default", action="SNAT", gateway=gateway))
        await stage.time.passes(3.0)
        assert stage.condition() == "False"


@scenario
async def test_a_gateway_says_who_holds_its_addresses_and_which_are_not_used() -> None:
    group = NetworkGatewayGroup("kube-system", "gw", ("192.0.2.10", "192.0.2.1"))
    policy = EgressNATPolicy(
        name="default", action="SNAT", destinations=(parse_cidr("203.0.113.0/24"),), gateway=group.ref
    )
    async with speaking() as stage:
        for ref in (group.ref, EGRESS):
            stage.store.put(object_path(ref), {})
        for item in (Node("n2", addresses=("192.0.2.1",)), group, policy):
            stage.desired.put(item)
        stage.desired.drain_changes()
        await stage.time.passes(3.0)
        assert stage.condition() == "True"
        assert stage.reasons() == [("NetworkGatewayGroup", "FloatingAddressNotUsed")]
        (said,) = (event["message"] for event in stage.store.events())
        assert said == "No node holds 192.0.2.1: Node n2 has it; write an address that nothing else has"
        stage.desired.put(NetworkGatewayGroup("kube-system", "gw", ("192.0.2.10",)))
        stage.desired.drain_changes()
        await stage.time.passes(3.0)
        programmed = stage.store.objects[object_path(group.ref)]["status"]["conditions"][1]
        assert (programmed["status"], programmed["message"]) == ("True", "the addresses are held: 192.0.2.10 by n2")
        stage.desired.put(Node("n2", addresses=("192.0.2.1",), ready=False))
        stage.desired.drain_changes()
        await stage.time.passes(3.0)
        assert stage.condition() == "False"


@scenario
async def test_a_resolved_fault_is_not_repeated_and_others_are() -> None:
    async with speaking() as stage:
        stage.store.put(object_path(DB), {})
        stage.desired.put(FLAWED)
        stage.faults[DB] = FLAWED.problems
        await stage.time.passes(700.0)
        assert [event["count"] for event in stage.store.events()] == [2]
        del stage.faults[DB]
        await stage.time.passes(1500.0)
        assert [event["count"] for event in stage.store.events()] == [2]


@scenario
async def test_without_a_change_no_task_is_woken() -> None:
    async with speaking() as stage:
        stage.desired.put(FLAWED)
        stage.faults[DB] = FLAWED.problems
        await stage.time.passes(10.0)
        before = stage.clock.waits
        await stage.time.passes(200.0)
        assert stage.clock.waits - before < 120, "a hundred collections, and the renewals of the Lease"
