"""Bridges whose traffic bypasses the rules: found in the agent's network namespace, and logged once."""

from __future__ import annotations

import functools
import logging
import os
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TypeVar

import pytest

from nfagent.kernel.bridges import Bridge, BridgeWatch, bridges, fix_command, unfiltered_bridges
from nfagent.lab.topology import netns

pytestmark = pytest.mark.kernel

IPTABLES, IP6TABLES = "bridge/bridge-nf-call-iptables", "bridge/bridge-nf-call-ip6tables"
OFF, ON = {IPTABLES: "0", IP6TABLES: "0"}, {IPTABLES: "1", IP6TABLES: "1"}

Made = TypeVar("Made")


class BridgeNamespace:
    """A network namespace with bridges."""

    def __init__(self, name: str) -> None:
        self.name = name

    def ip(self, *lines: str) -> None:
        netns.ip_batch(lines, self.name)

    def switch(self, values: dict[str, str]) -> None:
        netns.write_sysctls(self.name, values)

    def ask(self, question: Callable[[], Made]) -> Made:
        return netns.inside(self.name, question)


@pytest.fixture
def node() -> Iterator[BridgeNamespace]:
    if not Path("/proc/sys/net", IPTABLES).exists():
        pytest.skip("this kernel has no br_netfilter, or it isn't loaded")
    name = f"{netns.prefix('tb', os.getpid())}node"
    netns.make([name])
    try:
        yield BridgeNamespace(name)
    finally:
        netns.remove([name])


@pytest.fixture
def shared(node: BridgeNamespace) -> BridgeNamespace:
    """Return a node with a bridge that a Pod hangs on."""
    node.ip(
        "link add cbr0 type bridge",
        "link add pod1 type veth peer name eth0",
        "link set pod1 master cbr0",
        "link add docker0 type bridge",
    )
    return node


def test_a_bridge_that_no_pod_hangs_on_counts_for_nothing(node: BridgeNamespace) -> None:
    node.switch(OFF)
    node.ip(
        "link add docker0 type bridge",
        "link add pod1 type veth peer name eth0",
        "link add vxlan0 type vxlan id 1 dstport 8472",
        "link set vxlan0 master docker0",
    )
    assert (node.ask(bridges), node.ask(unfiltered_bridges)) == ([], [])


@pytest.mark.parametrize(
    ("switches", "unjudged"),
    [
        (ON, []),
        (OFF, [("cbr0", 4), ("cbr0", 6)]),
        ({IPTABLES: "1", IP6TABLES: "0"}, [("cbr0", 6)]),
    ],
    ids=["on", "off", "on for IPv4 alone"],
)
def test_a_bridge_with_a_pod_where_br_netfilter_is(
    shared: BridgeNamespace, switches: dict[str, str], unjudged: list[tuple[str, int]]
) -> None:
    shared.switch(switches)
    assert shared.ask(unfiltered_bridges) == unjudged
    assert [bridge.name for bridge in shared.ask(bridges)] == ["cbr0"]


def test_a_bridge_with_its_own_br_netfilter_setting_is_filtered(shared: BridgeNamespace) -> None:
    shared.switch(OFF)
    shared.ip("link set cbr0 type bridge nf_call_ip6tables 1")
    assert shared.ask(bridges) == [Bridge("cbr0", (6,))]


def test_another_network_namespace_is_another_matter(node: BridgeNamespace) -> None:
    other = BridgeNamespace(f"{netns.prefix('tb', os.getpid())}other")
    netns.make([other.name])
    try:
        for place, switches in ((node, ON), (other, OFF)):
            place.switch(switches)
            place.ip("link add cbr0 type bridge", "link add pod1 type veth peer name eth0", "link set pod1 master cbr0")
        assert node.ask(unfiltered_bridges) == []
        assert other.ask(unfiltered_bridges) == [("cbr0", 4), ("cbr0", 6)]
    finally:
        netns.remove([other.name])


def test_all_bridges_are_found_also_beyond_one_datagram(shared: BridgeNamespace) -> None:
    shared.switch(OFF)
    shared.ip(*(f"link add other{number} type bridge" for number in range(60)), "link set pod1 master other59")
    assert shared.ask(unfiltered_bridges) == [("other59", 4), ("other59", 6)]


def test_the_reported_command_fixes_it(shared: BridgeNamespace) -> None:
    shared.switch(OFF)
    for family in (4, 6):
        command = shared.ask(functools.partial(fix_command, [family]))
        subprocess.run(["nsenter", f"--net={netns.RUN / shared.name}", "sh", "-c", command], check=True)
        assert family not in {unjudged for _, unjudged in shared.ask(unfiltered_bridges)}


def test_a_switch_that_cannot_be_read_is_a_problem_and_not_taken_for_off(
    shared: BridgeNamespace, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    shared.switch(ON)
    watch = BridgeWatch()
    unreadable = tmp_path / "net" / "bridge" / "bridge-nf-call-iptables"
    unreadable.mkdir(parents=True)
    with monkeypatch.context() as patched:
        patched.setattr("nfagent.kernel.bridges._SYSCTL", tmp_path)
        for _ in range(2):
            shared.ask(watch.refresh)
        said = "cannot read net.bridge.bridge-nf-call-iptables: Is a directory"
        assert (watch.unread, watch.unfiltered, watch.status()) == (said, ("", ""), [])
        assert watch.problem == f"cannot check whether bridges are filtered: {said}"
        unreadable.rmdir()
        shared.ask(watch.refresh)
        assert watch.problem == "traffic between Pods on bridge cbr0 (IPv4) is not filtered: br_netfilter is off"
    shared.ask(watch.refresh)
    assert watch.problem == ""
    assert caplog.messages[0] == f"cannot check whether bridges are filtered: {said}; retrying"
    assert len(caplog.messages) == 2


def test_each_change_is_logged_once(shared: BridgeNamespace, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    watch = BridgeWatch()

    def looked() -> list[str]:
        caplog.clear()
        shared.ask(watch.refresh)
        return [f"{record.levelname} {record.getMessage()}" for record in caplog.records]

    shared.switch(ON)
    assert looked() == []
    shared.switch(OFF)
    command = "sysctl -w net.bridge.bridge-nf-call-iptables=1 net.bridge.bridge-nf-call-ip6tables=1"
    assert looked() == [
        f"WARNING traffic between Pods on bridge cbr0 (IPv4, IPv6) is not filtered: br_netfilter is off; run: {command}"
    ]
    assert watch.status() == [{"bridge": "cbr0", "unjudged": ["IPv4", "IPv6"]}]
    assert looked() == []
    shared.switch({IP6TABLES: "1"})
    assert looked() == ["INFO resolved: traffic between Pods on bridge cbr0 (IPv6) is filtered or gone"]
    shared.ip("link del cbr0")
    assert looked() == ["INFO resolved: traffic between Pods on bridge cbr0 (IPv4) is filtered or gone"]
    assert watch.status() == []
