"""The node's interfaces from a real kernel: changes are notified, the last known ones stay while it can't be read."""

from __future__ import annotations

import asyncio
import errno
import functools
import logging
import os
import socket
from collections.abc import Callable, Iterator
from typing import TypeVar

import pytest

from nfagent.desired.node_interfaces import NodeInterfaces
from nfagent.desired.state import DesiredState
from nfagent.kernel import link_monitor
from nfagent.kernel.link_monitor import LinkMonitor, LinkQuery, link_query
from nfagent.lab.topology import netns
from nfagent.model.netaddr import parse_cidr
from nfagent.model.objects import Node, Pod
from nfagent.state.cluster import ClusterState

pytestmark = pytest.mark.kernel

PODS = frozenset({"10.0.0.10", "2001:db8::10"})
DEADLINE = 60.0
"""Far above the longest pause between two readings: 20 times what one took, also without a CPU."""
Made = TypeVar("Made")


class UplinkNamespace:
    """A network namespace with an uplink and the interfaces of a test."""

    def __init__(self, name: str) -> None:
        self.name = name

    def ip(self, *lines: str) -> None:
        netns.ip_batch(lines, self.name)

    def ask(self, question: Callable[[], Made]) -> Made:
        return netns.inside(self.name, question)


@pytest.fixture
def machine() -> Iterator[UplinkNamespace]:
    found = UplinkNamespace(f"{netns.prefix('tl', os.getpid())}node")
    netns.make([found.name])
    try:
        netns.write_sysctls(found.name, {"ipv6/conf/all/accept_dad": "0", "ipv6/conf/default/accept_dad": "0"})
        found.ip(
            "link set lo up",
            "link add eth0 type veth peer name far0",
            "link set eth0 up",
            "link set far0 up",
            "address add 192.0.2.1/24 dev eth0",
            "route add default via 192.0.2.254",
        )
        yield found
    finally:
        netns.remove([found.name])


def pod_link(number: int) -> list[str]:
    return [
        f"link add pod{number} type veth peer name end{number}",
        f"link set pod{number} up",
        f"link set end{number} up",
        f"route add 10.0.0.{number} dev pod{number}",
    ]


def watching(question: LinkQuery) -> tuple[LinkMonitor, list[NodeInterfaces]]:
    told: list[NodeInterfaces] = []
    return LinkMonitor(lambda: question, told.append), told


def test_what_pods_are_behind_is_found_and_the_uplink_never_is(machine: UplinkNamespace) -> None:
    machine.ip(*pod_link(10))
    watch, told = watching(LinkQuery(frozenset({"10.0.0.10", "192.0.2.77", "192.0.2.1", "203.0.113.7", "2001:db8::1"})))
    machine.ask(watch.refresh)
    assert [links.pod_links for links in told] == [{"pod10"}]
    assert [name for links in told for name, _ in links.shared] == ["eth0"]


def test_an_absent_pod_causes_no_notification(machine: UplinkNamespace) -> None:
    """Its address would go by the default route, to a router or on the link itself."""
    watch, told = watching(LinkQuery(PODS))
    for default in ("via 192.0.2.254 dev eth0", "dev eth0"):
        machine.ip(f"route replace default {default}", "route replace ::/0 dev eth0")
        machine.ask(watch.refresh)
        assert told == [NodeInterfaces()]


def test_each_of_several_uplinks_is_one(machine: UplinkNamespace) -> None:
    machine.ip(
        "link add eth1 type veth peer name far1",
        "link set eth1 up",
        "link set far1 up",
        "address add 198.51.100.1/24 dev eth1",
        "route replace default nexthop via 192.0.2.254 nexthop via 198.51.100.254",
    )
    watch, told = watching(LinkQuery(frozenset({"192.0.2.77", "198.51.100.77"})))
    machine.ask(watch.refresh)
    assert told[-1].pod_links == frozenset()
    assert [name for name, _ in told[-1].shared] == ["eth0", "eth1"]


def test_more_interfaces_than_fit_into_one_datagram(machine: UplinkNamespace) -> None:
    machine.ip(*(line for number in range(10, 90) for line in pod_link(number)))
    watch, told = watching(LinkQuery(frozenset(f"10.0.0.{number}" for number in range(10, 90))))
    machine.ask(watch.refresh)
    assert told[-1].pod_links == {f"pod{number}" for number in range(10, 90)}


def test_each_change_is_notified_once(machine: UplinkNamespace) -> None:
    machine.ip(*pod_link(10))
    watch, told = watching(LinkQuery(PODS))
    for _ in range(3):
        machine.ask(watch.refresh)
    assert len(told) == 1


def test_the_last_known_interfaces_stay_while_the_kernel_can_not_be_read(
    machine: UplinkNamespace, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    machine.ip(*pod_link(10))
    watch, told = watching(LinkQuery(PODS))
    machine.ask(watch.refresh)
    before = watch.status()

    def refused() -> socket.socket:
        raise OSError(errno.ENFILE, "too many")

    with monkeypatch.context() as patched:
        patched.setattr(link_monitor, "rtnetlink_socket", refused)
        for _ in range(2):
            machine.ask(watch.refresh)
    reason = "cannot read interfaces and routes: Too many open files in system; keeping the last known state"
    assert watch.status() == before | {"problem": reason}
    assert [record.getMessage() for record in caplog.records if record.levelno == logging.WARNING] == [reason]
    assert len(told) == 1


def test_the_interfaces_are_outdated_from_a_new_pod_to_the_next_reading(machine: UplinkNamespace) -> None:
    question = [LinkQuery(frozenset({"10.0.0.10"}))]
    watch = LinkMonitor(lambda: question[0], lambda _: None)
    found = [watch.status()["outdated"]]
    machine.ask(watch.refresh)
    found.append(watch.status()["outdated"])
    question[0] = LinkQuery(frozenset({"10.0.0.10", "10.0.0.11"}))
    found.append(watch.status()["outdated"])
    machine.ask(watch.refresh)
    found.append(watch.status()["outdated"])
    assert found == [True, False, True, False]


def test_a_changed_interface_is_notified_and_that_of_a_new_pod_is_read(machine: UplinkNamespace) -> None:
    question, heard = [LinkQuery(frozenset({"10.0.0.10"}))], asyncio.Event()
    watch = LinkMonitor(lambda: question[0], lambda _: heard.set())

    async def next_told() -> frozenset[str]:
        await asyncio.wait_for(heard.wait(), DEADLINE)
        heard.clear()
        assert watch.links is not None
        return watch.links.pod_links

    async def lived() -> list[frozenset[str]]:
        following = asyncio.create_task(watch.run())
        found = [await next_told()]
        await asyncio.to_thread(machine.ip, *pod_link(10))
        while not found[-1]:
            found.append(await next_told())
        await asyncio.to_thread(machine.ip, *pod_link(11))
        question[0] = LinkQuery(frozenset({"10.0.0.10", "10.0.0.11"}))
        watch.pods_changed()
        found.append(await next_told())
        await asyncio.to_thread(machine.ip, "link del pod10")
        found.append(await next_told())
        following.cancel()
        await asyncio.wait({following})
        return found

    found = machine.ask(functools.partial(asyncio.run, lived()))
    assert found == [frozenset(), {"pod10"}, {"pod10", "pod11"}, {"pod11"}]


def test_routes_that_change_without_end_take_a_small_share_of_the_time(machine: UplinkNamespace) -> None:
    """As a BGP speaker's do: what is asked is the same each time, and nothing is read but that it changed."""
    machine.ip(*pod_link(10))
    looks, told = [0], asyncio.Event()

    def question() -> LinkQuery:
        looks[0] += 1
        return LinkQuery(PODS)

    watch = LinkMonitor(question, lambda _: told.set())
    routes = [f"route {verb} 198.18.{n >> 8}.{n & 255} dev eth0" for verb in ("add", "del") for n in range(3000)]

    async def stormed() -> None:
        following = asyncio.create_task(watch.run())
        await asyncio.wait_for(told.wait(), DEADLINE)
        before, began = looks[0], asyncio.get_running_loop().time()
        await asyncio.to_thread(machine.ip, *routes)
        assert looks[0] - before <= 1 + (asyncio.get_running_loop().time() - began) / 0.1
        told.clear()
        await asyncio.to_thread(machine.ip, "link del pod10")
        await asyncio.wait_for(told.wait(), DEADLINE)
        following.cancel()
        await asyncio.wait({following})

    machine.ask(functools.partial(asyncio.run, stormed()))
    assert watch.links == NodeInterfaces()


def test_only_interfaces_of_this_nodes_pods_and_a_few_others_are_read() -> None:
    cluster = ClusterState("a")
    cluster.put(Node("a", addresses=("192.0.2.1",), pod_cidrs=(parse_cidr("10.0.0.0/24"), parse_cidr("2001:db8::/64"))))
    for number in range(20):
        cluster.put(Node(f"b{number}", addresses=(f"192.0.2.{number + 2}",)))
    cluster.put(Pod("x", "here", node="a", addresses=("10.0.0.10",)))
    cluster.put(Pod("x", "host", node="a", addresses=("192.0.2.1",), host_network=True))
    cluster.put(Pod("x", "ended", node="a", addresses=("10.0.0.11",), phase="Succeeded"))
    cluster.put(Pod("x", "there", node="b1", addresses=("10.0.1.10",)))
    found = link_query(cluster)
    assert found.pods == {"10.0.0.10", "10.0.0.254", "2001:db8::ffff:ffff:ffff:fffe"}
    assert len(found.beyond & {f"192.0.2.{number}" for number in range(40)}) == 8
    assert "192.0.2.1" not in found.beyond


def test_a_node_that_is_a_pod_of_this_node_leads_nowhere_else() -> None:
    """A virtual kubelet's, which has the address of the Pod that it runs in."""
    cluster = ClusterState("a")
    cluster.put(Node("a", addresses=("192.0.2.1",)))
    cluster.put(Node("virtual", addresses=("10.0.0.10", "192.0.2.9")))
    cluster.put(Pod("x", "kubelet", node="a", addresses=("10.0.0.10",)))
    assert "10.0.0.10" not in link_query(cluster).beyond
    assert "192.0.2.9" in link_query(cluster).beyond


@pytest.mark.parametrize(
    ("item", "counts"),
    [
        (Pod("x", "here", node="a", addresses=("10.0.0.10",)), True),
        (Node("a"), True),
        (Pod("x", "there", node="b", addresses=("10.0.1.10",)), False),
        (Node("b"), False),
    ],
    ids=["a Pod of this node", "this node", "another node's Pod", "another node"],
)
def test_what_makes_the_question_another_one_is_counted(item: Pod | Node, counts: bool) -> None:  # noqa: FBT001 - a column
    desired = DesiredState("a")
    desired.put(item)
    assert (desired.local_changes > 0) == counts
