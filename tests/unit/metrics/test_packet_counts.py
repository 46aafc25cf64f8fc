"""Counters of the kernel become totals of Pods, policies and reasons of the present state, kept in a folder."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from pathlib import Path

import msgspec
import pytest

from nfagent.checkpoint.kept_text import PACKET_COUNTS_FILE
from nfagent.clock import SystemClock
from nfagent.desired.state import DesiredState
from nfagent.errors import KernelError
from nfagent.kernel.packet_counters import CounterReading, CounterSource
from nfagent.metrics import packet_counts
from nfagent.metrics.packet_counts import PacketCounts
from nfagent.metrics.readings import CountedPackets
from nfagent.model.networkpolicy import NetworkPolicy
from nfagent.model.objects import Namespace, ObjectRef, Pod
from nfagent.nftables.pod_counts import counted_set
from nfagent.nftables.transaction import AddCounter, Delete, Transaction
from nfagent.nftables.verdict_keys import denied_by

DEADLINE = 20.0
CLOSED = ObjectRef("NetworkPolicy", "shop", "closed")
DENIED = counted_set("deny", "ingress", 4)


class ManualClock(SystemClock):
    """A clock whose time stands still."""

    now = 1_000.0

    def monotonic(self) -> float:
        return self.now


class Node:
    """A node with one isolated Pod, its counters, and whether its objects were read."""

    def __init__(self, folder: Path) -> None:
        self.desired = DesiredState("a")
        self.desired.put(Namespace("shop", ()))
        self.desired.put(Pod("shop", "web", node="a", addresses=("10.64.0.10",)))
        self.desired.put(Pod("shop", "far", node="b", addresses=("10.64.1.10",)))
        self.desired.put(NetworkPolicy(namespace="shop", name="closed"))
        self.desired.ruleset()
        self.packets: dict[str, int] = {}
        self.synced = True
        self.clock = ManualClock()
        self.folder = folder

    def agent(self, read: Callable[[], CounterReading] | None = None) -> PacketCounts:
        return PacketCounts(
            self.desired,
            self.folder,
            self.clock,
            boot="boot",
            synced=lambda: self.synced,
            source=CounterSource(read or (lambda: CounterReading(dict(self.packets))), lambda _: {}),
        )


@pytest.fixture
def node(tmp_path: Path) -> Node:
    return Node(tmp_path)


def refreshed(counts: PacketCounts) -> CountedPackets:
    asyncio.run(counts.refresh())
    return msgspec.structs.replace(counts.values, workloads={})


def test_a_counter_counts_for_the_pod_the_policies_or_the_reason_that_it_stands_for(node: Node) -> None:
    node.packets = {f"{DENIED} 10.64.0.10": 3, "deny/ingress/shop/closed": 3, "drop/spoofed": 1}
    assert refreshed(node.agent()) == CountedPackets(
        {("shop", "web", "ingress", "deny"): 3}, {denied_by("ingress", (CLOSED,)): 3}, {"drop/spoofed": 1}
    )


@pytest.mark.parametrize(
    "counter",
    [f"{DENIED} 10.64.1.10", f"{DENIED} 10.64.0.99", "deny/ingress/shop/none", "of-another-program"],
    ids=["a Pod of another node", "an address without a Pod", "a policy that never was", "a name of no form of ours"],
)
def test_what_stands_for_nothing_of_this_node_counts_for_nothing(node: Node, counter: str) -> None:
    node.packets = {counter: 7}
    assert refreshed(node.agent()) == CountedPackets()


def test_before_the_objects_were_read_kept_totals_are_served_and_nothing_is_added(node: Node) -> None:
    node.packets = {f"{DENIED} 10.64.0.10": 3}
    before = refreshed(node.agent())
    node.synced, node.packets = False, {f"{DENIED} 10.64.0.10": 5}
    again = node.agent()
    assert refreshed(again) == before
    node.synced = True
    assert refreshed(again).pods == {("shop", "web", "ingress", "deny"): 5}


def test_totals_of_what_is_gone_are_served_for_a_while_and_then_forgotten(node: Node) -> None:
    node.packets = {f"{DENIED} 10.64.0.10": 3, "deny/ingress/shop/closed": 3}
    counts = node.agent()
    before = refreshed(counts)
    node.desired.remove(ObjectRef("Pod", "shop", "web"))
    node.desired.remove(CLOSED)
    assert refreshed(counts) == before
    node.clock.now += 301.0
    assert refreshed(counts) == CountedPackets()


def test_the_workload_of_a_pod_that_is_gone_is_still_known(node: Node) -> None:
    counts = node.agent()
    asyncio.run(counts.refresh())
    node.packets = {f"{DENIED} 10.64.0.10": 3}
    node.desired.remove(ObjectRef("Pod", "shop", "web"))
    asyncio.run(counts.refresh())
    assert counts.values.pods
    assert counts.values.workloads == {("shop", "web"): ("web", "Pod")}


def test_a_policy_that_came_and_went_between_two_readings_has_its_packets(node: Node) -> None:
    counts = node.agent()
    assert refreshed(counts) == CountedPackets()
    brief = ObjectRef("NetworkPolicy", "shop", "brief")
    counts.committed(counts.plan((AddCounter("deny/ingress/shop/brief_closed"),)))
    counts.committed(counts.plan((Delete("counter", "deny/ingress/shop/brief_closed"),)))
    node.packets = {"deny/ingress/shop/brief_closed": 4}
    assert refreshed(counts).policies == {denied_by("ingress", (ref,)): 4 for ref in (brief, CLOSED)}


def test_policies_whose_names_are_too_long_for_a_counter_keep_its_packets_over_a_restart(node: Node) -> None:
    several = [NetworkPolicy(namespace="shop", name=f"{'long' * 20}-{number}") for number in range(3)]
    for policy in several:
        node.desired.put(policy)
    counters = [name for name in node.desired.ruleset().counters if "__" in name]
    assert counters
    counts = node.agent()
    counts.committed(counts.plan(tuple(map(AddCounter, counters))))
    node.packets = dict.fromkeys(counters, 1)
    assert len(refreshed(counts).policies) > len(several)
    node.desired = DesiredState("a")  # they went while no agent ran
    node.packets = dict.fromkeys(counters, 3)
    after = refreshed(node.agent()).policies
    assert after == dict.fromkeys(after, 3)
    assert {ref for key in after for ref in key.policies} >= {policy.ref for policy in several}


def test_counters_without_use_are_read_and_then_deleted(node: Node) -> None:
    counts, committed = node.agent(), list[Transaction]()

    async def commit(latest: Callable[[], Transaction]) -> None:
        committed.append(latest())

    counts.delete_by(commit)
    gone = Delete("counter", "deny/ingress/shop/closed")
    node.packets = {"deny/ingress/shop/closed": 3}
    counts.committed(counts.plan((gone,)))
    assert refreshed(counts).policies == {denied_by("ingress", (CLOSED,)): 3}
    assert committed == [], "a packet may be on its way through the rules before"
    node.clock.now += 2.0
    node.packets = {"deny/ingress/shop/closed": 4}
    assert refreshed(counts).policies == {denied_by("ingress", (CLOSED,)): 4}
    assert committed == [(gone,)]
    node.packets = {"deny/ingress/shop/closed": 9}  # made anew
    assert refreshed(counts).policies == {denied_by("ingress", (CLOSED,)): 13}


def test_a_counter_that_another_program_has_deleted_keeps_no_other_in_the_table(node: Node) -> None:
    counts, left = node.agent(), {"deny/ingress/shop/a", "deny/ingress/shop/c"}

    async def commit(latest: Callable[[], Transaction]) -> None:
        named = [command.name for command in latest() if isinstance(command, Delete)]
        if not left.issuperset(named):
            raise KernelError("No such file or directory")
        left.difference_update(named)

    counts.delete_by(commit)
    node.packets = {f"deny/ingress/shop/{name}": 1 for name in "abc"}
    counts.committed(counts.plan(tuple(Delete("counter", name) for name in node.packets)))
    node.clock.now += 2.0
    refreshed(counts)
    assert left == set()


def test_what_counters_counted_is_kept_before_they_are_deleted(node: Node) -> None:
    counts = node.agent()

    async def deleted_and_killed(latest: Callable[[], Transaction]) -> None:
        assert latest()
        node.packets = {}
        raise InterruptedError

    counts.delete_by(deleted_and_killed)
    counts.committed(counts.plan((Delete("counter", "deny/ingress/shop/closed"),)))
    node.packets = {"deny/ingress/shop/closed": 3}
    refreshed(counts)
    node.clock.now += 2.0
    node.packets = {"deny/ingress/shop/closed": 4}
    with pytest.raises(InterruptedError):
        refreshed(counts)
    assert refreshed(node.agent()).policies == {denied_by("ingress", (CLOSED,)): 4}


@pytest.mark.parametrize(
    "text",
    [
        b"",
        b"{",
        b'{"boot": "boot", "readings": {}, "totals": [[["pod", "shop", "web", "ingress", "odd"], 4]]}',
        b'{"boot": "boot", "readings": {}, "totals": [[["odd"], 4]]}',
    ],
    ids=["empty", "cut short", "a disposition of another version", "a key of another version"],
)
def test_kept_totals_that_are_not_understood_count_for_nothing(node: Node, text: bytes) -> None:
    (node.folder / PACKET_COUNTS_FILE).write_bytes(text)
    node.packets = {f"{DENIED} 10.64.0.10": 3}
    assert refreshed(node.agent()).pods == {("shop", "web", "ingress", "deny"): 3}


def test_a_folder_that_cannot_be_written_stops_no_count(node: Node, caplog: pytest.LogCaptureFixture) -> None:
    node.folder = node.folder / "file"
    node.folder.write_text("no folder")
    counts = node.agent()
    for packets in (3, 5):
        node.packets = {f"{DENIED} 10.64.0.10": packets}
        assert refreshed(counts).pods == {("shop", "web", "ingress", "deny"): packets}
    assert [record.getMessage() for record in caplog.records if "kept" in record.getMessage()] == [
        "packet counts can't be kept over a restart: File exists"
    ]


def test_a_reading_that_fails_is_a_problem_until_one_works_also_without_a_scrape(node: Node) -> None:
    failing = threading.Event()

    def read() -> CounterReading:
        if failing.is_set():
            raise KernelError("refused")
        return CounterReading(dict(node.packets))

    node.packets = {f"{DENIED} 10.64.0.10": 3}
    counts = node.agent(read)
    before = refreshed(counts)
    assert (counts.problem, counts.unread) == ("", "")
    failing.set()
    asyncio.run(counts.before((Delete("table"),)))  # which raises nothing
    assert (counts.problem, counts.unread) == ("refused", "refused")
    assert counts.values.pods == before.pods != {}, "the last ones are kept"
    failing.clear()
    refreshed(counts)
    assert counts.problem == ""


def test_totals_that_cannot_be_kept_are_a_problem_though_they_are_read(node: Node, tmp_path: Path) -> None:
    node.folder = tmp_path / "state"
    node.folder.write_text("no folder")
    counts = node.agent()
    refreshed(counts)
    assert (counts.problem, counts.unread) == ("totals can't be kept over a restart: File exists", "")
    node.folder.unlink()
    refreshed(counts)
    assert counts.problem == ""


def test_a_reading_that_hangs_is_an_error_and_holds_up_nothing_and_is_not_begun_again_before_it_has_ended(
    node: Node, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(packet_counts, "_READ_SECONDS", 0.05)
    gate, begun = threading.Event(), list[int]()

    def read() -> CounterReading:
        begun.append(1)
        gate.wait(DEADLINE)
        return CounterReading(dict(node.packets))

    async def body() -> CountedPackets:
        counts = node.agent(read)
        node.packets = {f"{DENIED} 10.64.0.10": 3}
        try:
            for _ in range(3):
                with pytest.raises(KernelError, match="no answer"):
                    await counts.refresh()
                assert "no answer" in counts.problem
            while not begun:  # noqa: ASYNC110 - nothing tells of it
                await asyncio.sleep(0.001)
            await counts.before((Delete("table"),))  # a commit waits for it
            assert len(begun) == 1
        finally:
            gate.set()
        monkeypatch.setattr(packet_counts, "_READ_SECONDS", DEADLINE)
        # What it read in the end is older than what was deleted since may be.
        await counts.refresh()
        assert len(begun) == 2
        return counts.values

    async def within() -> CountedPackets:
        async with asyncio.timeout(DEADLINE):
            return await body()

    assert asyncio.run(within()).pods == {("shop", "web", "ingress", "deny"): 3}
