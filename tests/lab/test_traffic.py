"""Traffic streams: counts of sent and arrived packets, none after a drop rule; the time of DESTROY events."""

from __future__ import annotations

import functools
import json
import os
import subprocess
import time
from collections.abc import Iterator
from ipaddress import ip_address

import pytest

from nfagent.errors import KernelError
from nfagent.kernel.conntrack import ConntrackClient, open_socket
from nfagent.lab.probes import traffic as traffic_module
from nfagent.lab.probes.conntrack_events import ConntrackDestroyListener
from nfagent.lab.probes.packet_counter import Arrival, PacketCounter, StreamProtocol, sent_times
from nfagent.lab.probes.traffic import StreamPlan, StreamSender, TrafficStream, TrafficStreams
from nfagent.lab.topology import netns
from nfagent.lab.topology.netns_topology import NetnsTopology
from nfagent.lab.topology.plan import grid
from nfagent.model.netaddr import FAMILIES, Family
from nfagent.netlink.packet_header import UDP
from tests.support.packet_labs import wait_until

pytestmark = [
    pytest.mark.kernel,
    pytest.mark.skipif(os.geteuid() != 0, reason="the lab makes network namespaces: run the tests as root"),
]

NODES, PODS, _OUTSIDE = grid(nodes=1)
CLIENT, SERVER = PODS[:2]
TABLE = """
table inet foreign {
    chain forward {
        type filter hook forward priority 0
        ct state established accept
    }
}
"""
DROP = "insert rule inet foreign forward drop"


@pytest.fixture(scope="module")
def topology() -> Iterator[NetnsTopology]:
    with NetnsTopology(NODES, (CLIENT, SERVER), tag="tt") as built:
        yield built


@pytest.fixture
def node(topology: NetnsTopology) -> Iterator[str]:
    """Return the node's namespace, with a table that tracks connections."""
    name = topology.node_namespace("n1")
    nft(topology, TABLE)
    yield name
    nft(topology, "delete table inet foreign")


def nft(topology: NetnsTopology, text: str) -> None:
    command = topology.command(topology.node_namespace("n1"), ["nft", "-f", "-"])
    subprocess.run(command, input=text, text=True, check=True, timeout=20)


def line(
    topology: NetnsTopology, protocol: StreamProtocol, speaker: StreamSender, family: int, *, answered: bool = True
) -> StreamPlan:
    return StreamPlan(
        client=topology.pod_namespace(*CLIENT.key),
        server=topology.pod_namespace(*SERVER.key),
        address=SERVER.addresses[family == 6],
        protocol=protocol,
        port=7000,
        speaker=speaker,
        answered=answered,
    )


@pytest.mark.usefixtures("node")
@pytest.mark.parametrize("family", [4, 6])
@pytest.mark.parametrize("speaker", ["client", "server"])
@pytest.mark.parametrize("protocol", ["tcp", "udp"])
def test_packets_are_counted_as_they_are_sent_until_a_rule_drops_them(
    topology: NetnsTopology, protocol: StreamProtocol, speaker: StreamSender, family: int
) -> None:
    began = time.monotonic()
    with TrafficStreams() as streams:
        stream = streams.open(line(topology, protocol, speaker, family))
        streams.wait_for(20, stream)
        nft(topology, DROP)
        dropped = time.monotonic()
        streams.wait_until_sent(2, stream)
        arrivals = stream.arrivals()
        assert began < arrivals[0]
        assert stream.passed_after(dropped) == []
        if protocol == "tcp":
            # Segments from before the rule arrive for a while.
            wait_until(lambda: nothing_arrives(streams, stream))
        assert stream.sent > stream.received
        if protocol == "udp":
            numbers = stream.numbers()
            assert numbers == list(range(1, len(numbers) + 1))


def nothing_arrives(streams: TrafficStreams, stream: TrafficStream) -> bool:
    """Return whether no packet arrives while one is sent."""
    counted = stream.received
    streams.wait_until_sent(1, stream)
    return stream.received == counted


def test_each_stream_has_its_own_count_which_stays_readable_when_it_is_closed(topology: NetnsTopology) -> None:
    with TrafficStreams() as streams:
        first, second = (
            streams.open(line(topology, "udp", "client", 4, answered=answered)) for answered in (True, False)
        )
        streams.wait_for(10, first, second)
        streams.close(first)
        numbers = first.numbers()
        assert numbers == list(range(1, first.sent + 1))
        streams.wait_for(10, second)
        assert first.numbers() == numbers
    assert second.numbers() == list(range(1, second.sent + 1))


def test_a_receiver_may_be_counted_at_its_socket_behind_the_rules_of_its_own_namespace(topology: NetnsTopology) -> None:
    address = NODES[0].addresses[0]
    with TrafficStreams() as streams:
        stream = streams.open(
            StreamPlan(
                client=topology.pod_namespace(*CLIENT.key),
                server=topology.node_namespace("n1"),
                address=address,
                protocol="udp",
                port=7000,
                speaker="client",
                bound=address,
                counted="socket",
            )
        )
        streams.wait_for(10, stream)
        nft(topology, "add table inet own { chain c { type filter hook input priority 0; udp dport 7000 drop; }; }")
        dropped = time.monotonic()
        streams.wait_until_sent(20, stream)
        assert stream.passed_after(dropped) == []
        nft(topology, "delete table inet own")
        assert stream.received > 10


@pytest.fixture
def slow_port(topology: NetnsTopology) -> Iterator[None]:
    """Let packets to the server wait behind the rules of its node, for longer and longer."""
    [own] = json.loads(ip("-j", "-n", topology.pod_namespace(*SERVER.key), "link", "show", "eth0"))
    node = topology.node_namespace("n1")
    [port] = [
        link["ifname"] for link in json.loads(ip("-j", "-n", node, "link")) if link["ifindex"] == own["link_index"]
    ]
    subprocess.run(["tc", "-n", node, *f"qdisc add dev {port} root tbf {SLOW}".split()], check=True)
    yield
    subprocess.run(["tc", "-n", node, *f"qdisc del dev {port} root".split()], check=True)


SLOW = "rate 100kbit burst 1600 latency 60s"


def ip(*arguments: str) -> str:
    return subprocess.run(["ip", *arguments], capture_output=True, text=True, check=True).stdout


@pytest.mark.usefixtures("node", "slow_port")
@pytest.mark.parametrize("family", [4, 6])
def test_a_segment_that_waits_in_a_queue_behind_the_rules_has_passed_before_they_changed(
    topology: NetnsTopology, family: int
) -> None:
    with TrafficStreams() as streams:
        stream = streams.open(line(topology, "tcp", "client", family))
        wait_until(lambda: stream.sent > stream.received + 50)
        nft(topology, DROP)
        dropped = time.monotonic()
        wait_until(lambda: len([when for when in stream.arrivals() if when > dropped + 0.05]) > 10)
        assert stream.passed_after(dropped) == []


@pytest.mark.usefixtures("node", "slow_port")
def test_a_segment_that_is_sent_again_after_a_change_passes_after_it(topology: NetnsTopology) -> None:
    with TrafficStreams() as streams:
        stream = streams.open(line(topology, "tcp", "client", 4))
        streams.wait_for(20, stream)
        nft(topology, DROP)
        streams.wait_until_sent(5, stream)
        nft(topology, "flush chain inet foreign forward")
        allowed = time.monotonic()
        streams.wait_for(20, stream)
        assert stream.passed_after(allowed + 60) == []
        assert len(stream.passed_after(allowed)) >= 10


@pytest.mark.parametrize(
    ("arrivals", "expected"),
    [
        pytest.param([], [], id="without a segment there is no time"),
        pytest.param([(5.0, -1)], [None], id="without the option nothing is known"),
        pytest.param([(5.0, 100), (5.01, 110)], [5.0, 5.01], id="the one that arrived soonest gives the clock"),
        pytest.param([(5.5, 100), (5.51, 510)], [5.1, 5.51], id="the one that waited was sent before it arrived"),
        pytest.param([(5.0, 0xFFFF_FFFF), (5.1, 99)], [5.0, 5.1], id="the option's clock starts again at 0"),
        pytest.param([(5.0, 0), (5.1, -1), (5.2, 100)], [5.0, None, 5.1], id="of those with it, those without"),
    ],
)
def test_when_segments_were_sent(arrivals: list[Arrival], expected: list[float | None]) -> None:
    assert sent_times(arrivals) == [None if when is None else pytest.approx(when) for when in expected]


@pytest.mark.usefixtures("node")
@pytest.mark.parametrize("family", [4, 6])
def test_an_udp_packet_passes_when_it_is_sent_however_late_it_arrives(topology: NetnsTopology, family: int) -> None:
    with TrafficStreams() as streams:
        stream = streams.open(line(topology, "udp", "client", family))
        streams.wait_for(20, stream)
        committed = time.monotonic()
        streams.wait_for(20, stream)
        streams.close(stream)
        sent, arrivals = stream.passed_after(0.0), stream.arrivals()
        assert len(sent) == len(arrivals)
        assert all(before < after for before, after in zip(sent, arrivals, strict=True))
        assert stream.passed_after(committed) == [when for when in sent if when > committed]
        assert 0 < len(stream.passed_after(committed)) < len(sent)


@pytest.mark.usefixtures("node")
def test_waiting_for_packets_that_do_not_arrive_raises(
    topology: NetnsTopology, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(traffic_module, "_PROGRESS_SECONDS", 0.1)
    with TrafficStreams() as streams:
        stream = streams.open(line(topology, "udp", "client", 4))
        nft(topology, DROP)
        with pytest.raises(KernelError, match=r"arrived instead of \d+: udp nfa-.*, 10\.244\.1\.11 port 7000"):
            streams.wait_for(1000, stream)


def test_a_counter_sees_packets_to_any_address_with_its_port_only(topology: NetnsTopology) -> None:
    with TrafficStreams() as streams:
        stream = streams.open(line(topology, "udp", "client", 4))
        with (
            PacketCounter(stream.plan.server, 4, "udp", 7000) as same,
            PacketCounter(stream.plan.server, 4, "udp", 7001) as other_port,
            PacketCounter(stream.plan.server, 4, "tcp", 7000) as other_protocol,
            PacketCounter(stream.plan.server, 6, "udp", 7000) as other_family,
            PacketCounter(stream.plan.client, 4, "udp", 7000) as other_direction,
        ):
            streams.wait_for(20, stream)
            assert len(same.arrivals()) > 10
            assert [one.arrivals() for one in (other_port, other_protocol, other_family, other_direction)] == [[]] * 4


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("protocol", ["tcp", "udp"])
def test_a_counter_of_a_sender_sees_no_packets_of_another_one_with_the_same_port(
    topology: NetnsTopology, protocol: StreamProtocol, family: Family
) -> None:
    client = CLIENT.addresses[FAMILIES.index(family)]
    neighbour = str(ip_address(client) + 1)
    with TrafficStreams() as streams:
        stream = streams.open(line(topology, protocol, "client", family))
        server = stream.plan.server
        with (
            PacketCounter(server, family, protocol, stream.client_port, source=client) as of_client,
            PacketCounter(server, family, protocol, stream.client_port, source=neighbour) as of_neighbour,
        ):
            streams.wait_for(20, stream)
            assert len(of_client.arrivals()) > 10
            assert of_neighbour.arrivals() == []


def test_the_time_of_a_destroyed_conntrack_entry_is_recorded(topology: NetnsTopology, node: str) -> None:
    table = ConntrackClient(functools.partial(netns.inside, node, open_socket))
    try:
        with TrafficStreams() as streams, ConntrackDestroyListener(node) as listener:
            stream = streams.open(line(topology, "udp", "client", 4, answered=False))
            streams.wait_for(5, stream)
            nft(topology, DROP)
            client = CLIENT.addresses[0]
            assert listener.destroyed_at(client, UDP, stream.client_port) is None
            before = time.monotonic()
            assert table.delete(table.entries(frozenset({client}))) > 0
            wait_until(lambda: listener.destroyed_at(client, UDP, stream.client_port) is not None)
            destroyed = listener.destroyed_at(client, UDP, stream.client_port)
            assert destroyed is not None
            assert before < destroyed <= time.monotonic()
    finally:
        table.close()
