"""A node that should hold a floating address and has no rules: no packet leaves there with its Pod's own address."""

from __future__ import annotations

import socket
import subprocess
from collections.abc import Iterator

import pytest

from nfagent.lab.topology import netns
from nfagent.lab.topology.ip_commands import UPLINK
from tests.support.egress_labs import NODES, PARTNER, PARTNER_V6
from tests.support.gateway_labs import (
    FLOATING,
    GROUPS,
    OUTSIDE,
    PODS,
    expected_holders,
    gateways,
    held_on,
    pod_on,
    world,
)
from tests.support.packet_labs import ManifestLab, running_lab, wait_until

pytestmark = pytest.mark.kernel

HOLDER = "n2"


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ManifestLab]:
    documents = [*world()[len(NODES) :], *gateways()]
    with running_lab(tmp_path_factory.mktemp("lab"), NODES, PODS, (OUTSIDE,), documents=documents) as made:
        yield made


@pytest.fixture
def lab(running: ManifestLab) -> ManifestLab:
    """Return the lab with all agents, and each floating address at its holder."""
    running.start_stopped()
    all_held(running)
    return running


def all_held(lab: ManifestLab) -> None:
    wanted = expected_holders(GROUPS)
    wait_until(lambda: held_on(lab.topology, wanted) == wanted)


def arrives_from(lab: ManifestLab, family: int) -> str:
    """Send packets from a Pod of node n1 to the outside, by the holder; return the source there, '' if none arrives."""
    kind, address = (socket.AF_INET, PARTNER) if family == 4 else (socket.AF_INET6, PARTNER_V6)
    outside = lab.topology.outside_namespace(OUTSIDE.name)
    pod = lab.topology.pod_namespace(*pod_on("n1", HOLDER).key)
    with (
        netns.inside(outside, lambda: socket.socket(kind, socket.SOCK_DGRAM)) as server,
        netns.inside(pod, lambda: socket.socket(kind, socket.SOCK_DGRAM)) as client,
    ):
        server.bind((address, 0))
        server.settimeout(0.2)
        for _ in range(5):
            client.sendto(b"question", server.getsockname()[:2])
            try:
                return str(server.recvfrom(64)[1][0])
            except TimeoutError:
                continue
    return ""


@pytest.mark.parametrize("family", [4, 6])
def test_a_holder_without_rules_receives_nothing(lab: ManifestLab, family: int) -> None:
    """The holder is as after a start, before its agent's first commit; other nodes have no neighbour entries left."""
    floating = FLOATING[HOLDER][family == 6]
    wait_until(lambda: arrives_from(lab, family) == floating)
    agent = lab.cluster.agent(HOLDER)
    agent.stop()
    assert agent.run("cleanup").returncode == 0
    netns.ip_batch([f"neighbour flush dev {UPLINK}"], lab.topology.node_namespace("n1"))
    assert arrives_from(lab, family) == ""
    agent.start()
    all_held(lab)
    wait_until(lambda: arrives_from(lab, family) == floating)


@pytest.mark.parametrize("family", [4, 6])
def test_a_node_without_its_routing_rules_lets_nothing_out(lab: ManifestLab, family: int) -> None:
    """Another program has removed them, and no agent runs to set them again: the main table leads outside."""
    floating = FLOATING[HOLDER][family == 6]
    wait_until(lambda: arrives_from(lab, family) == floating)
    agent = lab.cluster.agent("n1")
    agent.stop()
    node = lab.topology.node_namespace("n1")
    assert flush_rules(node, family) > 0
    assert arrives_from(lab, family) == ""
    agent.start()
    wait_until(lambda: arrives_from(lab, family) == floating)


def flush_rules(node: str, family: int) -> int:
    """Remove all routing rules but those of the system; return how many there were."""
    before = rules_of(node, family)
    ip = ["ip", "-n", node, f"-{family}", "rule"]
    subprocess.run([*ip, "flush"], check=True)
    left = rules_of(node, family)
    if "32766" not in left:
        subprocess.run([*ip, "add", "priority", "32766", "lookup", "main"], check=True)
    return len(before) - len(rules_of(node, family))


def rules_of(node: str, family: int) -> list[str]:
    """Return the priorities of the routing rules."""
    shown = subprocess.run(["ip", "-n", node, f"-{family}", "rule"], capture_output=True, text=True, check=True)
    return [line.partition(":")[0] for line in shown.stdout.splitlines()]
