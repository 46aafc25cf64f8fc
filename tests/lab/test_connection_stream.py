"""A stream of connections records the lost ones, the answered ones, and the source that the server saw."""

from __future__ import annotations

import subprocess
import time
from collections.abc import Iterator

import pytest

from nfagent.errors import KernelError
from nfagent.lab.probes.connection_stream import Connection, ConnectionStream
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
    # TCP repeats a SYN after one, three and seven seconds: as often as is needed until the rule is gone.
    with ConnectionStream(servers, probe, patience=30.0 if protocol == "tcp" else 2.0) as stream:
        stream.wait_for(10)
        before = [one for one in stream.connections if one.answered is not None]
        nft(topology, "add table inet t; add chain inet t f { type filter hook forward priority 0; policy drop; }")
        dropped, opened = time.monotonic(), len(stream.connections)
        wait_until(lambda: len(stream.connections) >= opened + 20)
        nft(topology, "delete table inet t")
        passed = time.monotonic()
        stream.wait_for(10)
    assert stream.gap_after(passed) == 0.0
    assert 0.0 < stream.gap_after(dropped) <= passed - dropped
    after = [one for one in stream.connections if one.opened > passed]
    assert {one.seen_from for one in (*before, *after)} == {"10.244.1.10"}
    if protocol == "tcp":
        assert stream.lost == [], "a SYN is repeated"
    else:
        assert len(stream.lost) >= 19
        assert None in stream.sources


def test_a_late_answer_is_no_gap_but_one_to_a_repeated_packet_and_none_at_all_are() -> None:
    with Listeners() as servers:
        stream = ConnectionStream(servers, Probe("nowhere", "10.244.1.11", "tcp", 80))
    stream.connections = [Connection(1, opened=10.0, answered=10.1), Connection(2, opened=14.0, answered=17.0)]
    assert stream.gap_after(9.0) == 0.0
    stream.connections.append(Connection(3, opened=12.0, answered=13.1, repeated=True))
    assert (stream.gap_after(9.0), stream.gap_after(12.0)) == (3.0, 0.0)
    stream.connections.append(Connection(4, opened=13.0))
    assert stream.gap_after(9.0) == 4.0


def test_a_stream_without_an_answer_fails_at_its_start(lab: tuple[NetnsTopology, Listeners]) -> None:
    _, servers = lab
    with pytest.raises(KernelError, match="ended: network namespace nowhere"):
        ConnectionStream(servers, Probe("nowhere", "10.244.1.11", "udp", 80)).__enter__()
