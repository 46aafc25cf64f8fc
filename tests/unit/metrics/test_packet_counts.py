"""Counters of the kernel become totals of Pods, policies and reasons of the present state, kept in a folder."""

from __future__ import annotations

import asyncio
from pathlib import Path

import msgspec
import pytest

from nfagent.checkpoint.kept_text import PACKET_COUNTS_FILE
from nfagent.clock import SystemClock
from nfagent.desired.state import DesiredState
from nfagent.kernel.packet_counters import CounterReading
from nfagent.metrics import packet_counts
from nfagent.metrics.packet_counts import PacketCounts
from nfagent.metrics.readings import CountedPackets
from nfagent.model.networkpolicy import NetworkPolicy
from nfagent.model.objects import Namespace, ObjectRef, Pod
from nfagent.nftables.pod_counts import counted_set
from nfagent.nftables.verdict_keys import denied_by

CLOSED = ObjectRef("NetworkPolicy", "shop", "closed")
DENIED = counted_set("deny", "ingress", 4)


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
        self.folder = folder

    def agent(self) -> PacketCounts:
        return PacketCounts(
            self.desired,
            self.folder,
            SystemClock(),
            boot="boot",
            synced=lambda: self.synced,
            read=lambda: CounterReading(dict(self.packets)),
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


def test_totals_of_what_is_gone_are_forgotten(node: Node) -> None:
    node.packets = {f"{DENIED} 10.64.0.10": 3, "deny/ingress/shop/closed": 3}
    counts = node.agent()
    assert refreshed(counts).pods
    node.desired.remove(ObjectRef("Pod", "shop", "web"))
    node.desired.remove(CLOSED)
    assert refreshed(counts) == CountedPackets()


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


def test_a_reading_is_of_one_table(monkeypatch: pytest.MonkeyPatch) -> None:
    handles = iter((1, 2, 2, 2))  # made anew between its handle and its counters
    monkeypatch.setattr(packet_counts, "_handle", lambda: next(handles))
    monkeypatch.setattr(packet_counts, "read_named_counters", lambda: CounterReading({"deny/ingress/a": 5}))
    monkeypatch.setattr(packet_counts, "read_address_counters", lambda _: CounterReading({}))
    assert packet_counts.read_counters() == CounterReading({"deny/ingress/a": 5}, table=2)
