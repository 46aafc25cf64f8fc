"""A stream of connections records the lost ones, the answered ones, and the source that the server saw."""

from __future__ import annotations

import subprocess
import time
from collections.abc import Iterator

import pytest

from nfagent.errors import KernelError
from nfagent.lab.probes.connection_stream import ConnectionStream
from nfagent.lab.probes.listeners import Listeners, ProbeProtocol, pod_endpoints
from nfagent.lab.probes.probe import Probe
from nfagent.lab.topology.netns_topology import NetnsTopology
from nfagent.lab.topology.plan import NodePlan, PodPlan
from tests.support.packet_labs import wait_until

pytestmark = pytest.mark.kernel

NODE = NodePlan("n1", ("192.0.2.1",), ("10.244.1.0/24",))
PODS = (PodPlan("x", "a", "n1", ("10.244.1.10",)), PodPlan("x", "b", "n1", ("10.244.1.11",)))
PROTOCOLS: list[tuple[ProbeProtocol, int]] = [("tcp", 80), ("udp", 80), ("icmp", 0)]


@pytest.fixture(scope="module")
def lab() -> Iterator[tuple[NetnsTopology, Listeners]]:
    with NetnsTopology([NODE], PODS, tag="tc") as topology, Listeners() as servers:
        servers.listen(pod_endpoints(topology, PROTOCOLS))
        yield topology, servers


def nft(topology: NetnsTopology, text: str) -> None:
    command = topology.command(topology.node_namespace("n1"), ["nft", "-f", "-"])
    subprocess.run(command, input=text, text=True, check=True, timeout=20)


@pytest.mark.parametrize(("protocol", "port"), PROTOCOLS, ids=[name for name, _ in PROTOCOLS])
def test_connections_are_lost_between_two_changes_alone(
    lab: tuple[NetnsTopology, Listeners], protocol: ProbeProtocol, port: int
) -> None:
    topology, servers = lab
    probe = Probe(topology.pod_namespace("x", "a"), "10.244.1.11", protocol, port)
    with ConnectionStream(servers, probe, patience=2.0) as stream:
        stream.wait_for(10)
        before = time.monotonic()
        nft(topology, "add table inet t; add chain inet t f { type filter hook forward priority 0; policy drop; }")
        dropped, opened = time.monotonic(), len(stream.connections)
        wait_until(lambda: len(stream.connections) >= opened + 20)
        nft(topology, "delete table inet t")
        passed = time.monotonic()
        stream.wait_for(10)
    assert stream.gap_after(passed) == 0.0
    assert 0.0 < stream.gap_after(dropped) <= passed - dropped
    sources = {one.seen_from for one in stream.connections if not before < one.opened < passed}
    assert sources == {"10.244.1.10"}
    if protocol == "tcp":
        assert stream.lost == [], "a SYN is repeated"
    else:
        assert len(stream.lost) >= 19
        assert None in stream.sources


def test_a_stream_without_an_answer_fails_at_its_start(lab: tuple[NetnsTopology, Listeners]) -> None:
    _, servers = lab
    with pytest.raises(KernelError, match="ended: network namespace nowhere"):
        ConnectionStream(servers, Probe("nowhere", "10.244.1.11", "udp", 80)).__enter__()
