"""Which conntrack entries end when floating addresses move, and that no others do."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Iterable
from pathlib import Path

import pytest
import yaml

from nfagent.controllers.gateway_connections import GatewayConnections
from nfagent.desired.state import DesiredState
from nfagent.egress.gateways import GatewayPlan, GatewayRoute
from nfagent.errors import KernelError
from nfagent.model.objects import ObjectRef
from nfagent.netlink.conntrack import ConntrackEntry
from nfagent.nftables.objects import Element
from nfagent.nftables.transaction import ChangeElements, Transaction
from tests.support.revoker_harness import entry, masqueraded
from tests.support.two_node_cluster import DECODERS

GOLDEN = Path(__file__).parents[2] / "golden/egress-nat-by-a-gateway.yaml"
POD, POD_ELSEWHERE, PARTNER, SECOND, ANYONE = "10.64.0.10", "10.64.1.10", "203.0.113.5", "198.51.100.5", "192.0.2.77"
PORT = 40_000
REFUSED = "connections keep the gateway that they had: no"


class FakeTable:
    """A conntrack table, which refuses to be read so many times."""

    def __init__(self, *entries: ConntrackEntry) -> None:
        self.live = list(entries)
        self.blocked: set[Element] = set()
        self.ended = False
        self.reads = 0
        self.refusals = 0

    def entries(self, addresses: frozenset[str]) -> list[ConntrackEntry]:
        self.reads += 1
        if self.reads <= self.refusals:
            raise KernelError("no")
        return [item for item in self.live if {item.client, item.server} & addresses]

    async def apply(self, transaction: Transaction) -> None:
        """Add tuples to the sets of the ruleset: before the entries end."""
        for command in transaction:
            assert isinstance(command, ChangeElements)
            assert not self.ended
            self.blocked.update(command.elements)

    def delete(self, entries: Iterable[ConntrackEntry]) -> int:
        ended = list(entries)
        self.ended = True
        self.live = [item for item in self.live if item not in ended]
        return len(ended)


class RunningClock:
    """A clock whose pauses last one turn of the event loop, and whose time passes with every look at it."""

    def __init__(self) -> None:
        self.now = 0.0
        self.idle = asyncio.Event()

    def monotonic(self) -> float:
        self.now += 0.02
        return self.now

    async def wait(self, event: asyncio.Event, seconds: float) -> bool:
        if seconds > 1.0:
            self.idle.set()
            return await event.wait()
        await asyncio.sleep(0)
        return event.is_set()


def desired() -> DesiredState:
    view = DesiredState("a")
    for document in yaml.safe_load_all(GOLDEN.read_text()):
        item = DECODERS[document["kind"]](document)
        assert item is not None
        view.put(item)
    view.drain_changes()
    return view


VIEW = desired()
USED, USED_ELSEWHERE = (
    VIEW.translation(VIEW.cluster.holder(address), PARTNER).floating for address in (POD, POD_ELSEWHERE)
)
"""The floating addresses that the Pods leave under: node a holds that of its own Pod."""


def following(*entries: ConntrackEntry) -> tuple[GatewayConnections, FakeTable]:
    table = FakeTable(*entries)
    return GatewayConnections(table, table, RunningClock(), VIEW), table


def test_an_address_that_this_node_gains_ends_connections_that_another_node_translated() -> None:
    routed, to_second, elsewhere = entry(POD, PARTNER), entry(POD, SECOND), entry(POD_ELSEWHERE, PARTNER)
    kept = [
        masqueraded(entry(POD, PARTNER, port=1), "192.168.0.1", PORT),
        masqueraded(entry(POD, PARTNER, port=2), USED, PORT),
        entry(POD, ANYONE),
        entry(POD, POD_ELSEWHERE),
        entry(PARTNER, POD),
    ]
    connections, table = following(routed, to_second, elsewhere, *kept)
    assert USED != USED_ELSEWHERE
    connections.applied(GatewayPlan((USED,)))
    assert asyncio.run(connections.end_stale()) == 1
    assert table.live == [to_second, elsewhere, *kept]
    assert table.blocked == {(PARTNER, "tcp", 5432, POD, PORT)}, "what the server still sends by the holder of before"


def test_an_address_that_this_node_loses_ends_the_connections_that_it_translated() -> None:
    translated = masqueraded(entry(POD, PARTNER), USED, PORT)
    of_other_node = masqueraded(entry(POD_ELSEWHERE, PARTNER), USED, PORT + 1)
    kept = [masqueraded(entry(POD, PARTNER, port=1), USED_ELSEWHERE, PORT), entry(POD, PARTNER, port=2)]
    connections, table = following()
    connections.applied(GatewayPlan((USED, USED_ELSEWHERE)))
    asyncio.run(connections.end_stale())
    table.live = [translated, of_other_node, *kept]
    connections.applied(GatewayPlan((USED_ELSEWHERE,)))
    assert asyncio.run(connections.end_stale()) == 2
    assert table.live == kept
    assert table.blocked == set(), "the server sends to the address that moved"


def test_after_a_restart_entries_of_an_address_that_moved_meanwhile_end() -> None:
    connections, table = following(masqueraded(entry(POD, PARTNER), USED, PORT))
    connections.applied(GatewayPlan((), (GatewayRoute(1, 4, USED, "b", ("192.168.0.2",)),)))
    assert asyncio.run(connections.end_stale()) == 1
    assert table.live == []


class FlappingTable(FakeTable):
    """A table during whose first round the address comes back, translates a connection, and moves once more."""

    connections: GatewayConnections

    def delete(self, entries: Iterable[ConntrackEntry]) -> int:
        first, count = not self.ended, super().delete(entries)
        if first:
            self.connections.applied(GatewayPlan((USED,)))
            self.live.append(masqueraded(entry(POD, PARTNER, port=2), USED, PORT))
            self.connections.applied(GatewayPlan((USED_ELSEWHERE,)))
        return count


def test_an_address_that_moves_again_during_a_round_ends_its_connections_in_the_next_one() -> None:
    table = FlappingTable()
    connections = table.connections = GatewayConnections(table, table, RunningClock(), VIEW)
    connections.applied(GatewayPlan((USED, USED_ELSEWHERE)))
    asyncio.run(connections.end_stale())
    table.live = [masqueraded(entry(POD, PARTNER), USED, PORT)]
    connections.applied(GatewayPlan((USED_ELSEWHERE,)))
    assert [asyncio.run(connections.end_stale()) for _ in range(3)] == [1, 1, 0]
    assert table.live == []


def test_a_plan_that_moves_no_address_here_reads_no_table() -> None:
    connections, table = following()
    connections.applied(GatewayPlan((USED,)))
    asyncio.run(connections.end_stale())
    connections.applied(GatewayPlan((USED,)))
    connections.applied(GatewayPlan((USED,), (GatewayRoute(1, 4, USED_ELSEWHERE, "b", ("192.168.0.2",)),)))
    asyncio.run(connections.end_stale())
    assert table.reads == 1


def test_a_pod_that_a_policy_selects_anew_begins_its_connections_anew() -> None:
    routed = entry(POD, PARTNER)
    connections, table = following()
    connections.applied(GatewayPlan((USED,), reselected=1))
    asyncio.run(connections.end_stale())
    table.live = [routed, entry(POD, ANYONE)]
    connections.applied(GatewayPlan((USED,), reselected=2))
    assert asyncio.run(connections.end_stale()) == 1
    assert table.live == [entry(POD, ANYONE)]


@pytest.mark.parametrize(
    ("change", "ends"),
    [
        pytest.param({}, True, id="the policy goes"),
        pytest.param({"gatewayRef": None}, True, id="the node's address"),
        pytest.param({"destinations": [{"cidr": "203.0.114.0/24"}]}, True, id="another destination"),
        pytest.param({"gatewayRef": None, "action": "NoSNAT"}, False, id="the Pod's address"),
    ],
)
def test_connections_that_no_policy_sends_to_a_gateway_any_longer_begin_anew(
    change: dict[str, object],
    ends: bool,  # noqa: FBT001 - a table's column
) -> None:
    """Another node translated them; without an end, they would leave with the Pod's address for good."""
    view = desired()
    view.ruleset()
    routed = entry(POD, PARTNER)
    kept = [
        entry(POD, ANYONE),
        entry(POD_ELSEWHERE, PARTNER),
        entry(PARTNER, POD),
        masqueraded(entry(POD, PARTNER, port=2), USED, PORT),
    ]
    table = FakeTable(routed, *kept)
    connections = GatewayConnections(table, table, RunningClock(), view)
    connections.committed()
    assert asyncio.run(connections.end_stale()) == 0
    document = next(item for item in yaml.safe_load_all(GOLDEN.read_text()) if item["metadata"]["name"] == "partner")
    if change:
        spec = {key: value for key, value in {**document["spec"], **change}.items() if value is not None}
        item = DECODERS[document["kind"]]({**document, "spec": spec})
        assert item is not None
        view.put(item)
    else:
        view.remove(ObjectRef("EgressNATPolicy", "", "partner"))
    view.ruleset()
    table.refusals = table.reads + 1
    connections.committed()
    with pytest.raises(KernelError):
        asyncio.run(connections.end_stale())
    assert asyncio.run(connections.end_stale()) == int(ends)
    assert table.live == ([] if ends else [routed]) + kept
    connections.committed()
    assert asyncio.run(connections.end_stale()) == 0


def test_a_pod_that_no_policy_selects_any_longer_begins_its_connections_anew() -> None:
    view = desired()
    view.ruleset()
    routed = entry(POD, PARTNER)
    table = FakeTable(routed)
    connections = GatewayConnections(table, table, RunningClock(), view)
    for document in yaml.safe_load_all(GOLDEN.read_text()):
        if document["kind"] == "Namespace":
            item = DECODERS["Namespace"]({**document, "metadata": {**document["metadata"], "labels": {}}})
            assert item is not None
            view.put(item)
    view.ruleset()
    connections.committed()
    assert asyncio.run(connections.end_stale()) == 1


@pytest.mark.parametrize("first", [(USED,), ()], ids=["gained and lost again", "lost"])
def test_an_address_that_returns_before_the_round_is_judged_by_what_holds_then(first: tuple[str, ...]) -> None:
    kept = masqueraded(entry(POD, PARTNER), USED, PORT)
    connections, table = following(kept)
    for held in (first, (), (USED,)):
        connections.applied(GatewayPlan(held))
    asyncio.run(connections.end_stale())
    assert table.live == [kept]


def test_a_refused_round_is_repeated_and_is_a_problem_until_then(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    table, clock = FakeTable(entry(POD, PARTNER)), RunningClock()
    table.refusals = 2
    connections = GatewayConnections(table, table, clock, VIEW)
    connections.applied(GatewayPlan((USED,)))

    async def scenario() -> None:
        running = asyncio.create_task(connections.run())
        async with asyncio.timeout(60):
            while not connections.problem:  # noqa: ASYNC110 - nothing tells of it
                await asyncio.sleep(0)
            assert connections.problem == REFUSED
            await clock.idle.wait()
        running.cancel()
        await asyncio.gather(running, return_exceptions=True)

    asyncio.run(scenario())
    assert (table.reads, table.live, connections.problem) == (3, [], "")
    assert caplog.messages == [
        f"{REFUSED}; retrying",
        "1 connection of moved floating addresses begin anew",
        f"resolved: {REFUSED}",
    ]
