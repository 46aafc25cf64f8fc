"""Talks tell the truth: what was sent, what arrived, that nothing more does; and when conntrack forgot."""

from __future__ import annotations

import functools
import os
import subprocess
import time
from collections.abc import Iterator

import pytest

from nfagent.errors import KernelError
from nfagent.kernel.conntrack import ConntrackClient, open_socket
from nfagent.lab import netns
from nfagent.lab import traffic as talk_module
from nfagent.lab.conntrack_events import ConntrackDestroyListener
from nfagent.lab.packet_counter import PacketCounter, StreamProtocol
from nfagent.lab.topology import NetnsTopology
from nfagent.lab.topology_plan import grid
from nfagent.lab.traffic import StreamPlan, StreamSender, TrafficStreams
from nfagent.netlink.packet_header import UDP
from tests.support.packet_labs import wait_until

pytestmark = [
    pytest.mark.kernel,
    pytest.mark.skipif(os.geteuid() != 0, reason="the lab makes network namespaces: run the tests as root"),
]

NODES, PODS, _OUTSIDE = grid(nodes=1)
CLIENT, SERVER = PODS[:2]
TABLE = """
table inet somebody {
    chain forward {
        type filter hook forward priority 0
        ct state established accept
    }
}
"""
DROP = "insert rule inet somebody forward drop"


@pytest.fixture(scope="module")
def fabric() -> Iterator[NetnsTopology]:
    with NetnsTopology(NODES, (CLIENT, SERVER), tag="tt") as built:
        yield built


@pytest.fixture
def node(fabric: NetnsTopology) -> Iterator[str]:
    """Return the node's namespace, with a table that tracks connections."""
    name = fabric.node_namespace("n1")
    nft(fabric, TABLE)
    yield name
    nft(fabric, "delete table inet somebody")


def nft(fabric: NetnsTopology, text: str) -> None:
    command = fabric.command(fabric.node_namespace("n1"), ["nft", "-f", "-"])
    subprocess.run(command, input=text, text=True, check=True, timeout=20)


def line(
    fabric: NetnsTopology, protocol: StreamProtocol, speaker: StreamSender, family: int, *, answered: bool = True
) -> StreamPlan:
    return StreamPlan(
        client=fabric.pod_namespace(*CLIENT.key),
        server=fabric.pod_namespace(*SERVER.key),
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
    fabric: NetnsTopology, protocol: StreamProtocol, speaker: StreamSender, family: int
) -> None:
    began = time.monotonic()
    with TrafficStreams() as talks:
        talk = talks.open(line(fabric, protocol, speaker, family))
        talks.wait_for(20, talk)
        nft(fabric, DROP)
        dropped = time.monotonic()
        talks.wait_until_sent(2, talk)
        arrivals = talk.arrivals()
        assert began < arrivals[0] <= arrivals[-1] < dropped
        assert talk.sent > talk.heard
        if protocol == "udp":
            assert talk.numbers() == list(range(1, len(arrivals) + 1))


def test_each_talk_is_counted_for_itself_and_keeps_its_count_when_it_is_closed(fabric: NetnsTopology) -> None:
    with TrafficStreams() as talks:
        first, second = (talks.open(line(fabric, "udp", "client", 4, answered=answered)) for answered in (True, False))
        talks.wait_for(10, first, second)
        talks.close(first)
        numbers = first.numbers()
        assert numbers == list(range(1, first.sent + 1))
        talks.wait_for(10, second)
        assert first.numbers() == numbers
    assert second.numbers() == list(range(1, second.sent + 1))


def test_a_receiver_may_be_counted_at_its_socket_behind_the_rules_of_its_own_namespace(fabric: NetnsTopology) -> None:
    address = NODES[0].addresses[0]
    with TrafficStreams() as talks:
        talk = talks.open(
            StreamPlan(
                client=fabric.pod_namespace(*CLIENT.key),
                server=fabric.node_namespace("n1"),
                address=address,
                protocol="udp",
                port=7000,
                speaker="client",
                bound=address,
                counted="socket",
            )
        )
        talks.wait_for(10, talk)
        nft(fabric, "add table inet own { chain c { type filter hook input priority 0; udp dport 7000 drop; }; }")
        dropped = time.monotonic()
        talks.wait_until_sent(20, talk)
        arrivals = talk.arrivals()
        nft(fabric, "delete table inet own")
    assert max(arrivals) < dropped


@pytest.mark.usefixtures("node")
def test_waiting_for_what_never_comes_ends_with_words(fabric: NetnsTopology, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(talk_module, "_PATIENCE", 0.1)
    with TrafficStreams() as talks:
        talk = talks.open(line(fabric, "udp", "client", 4))
        nft(fabric, DROP)
        with pytest.raises(KernelError, match=r"arrived instead of \d+: udp nfa-.*, 10\.244\.1\.11 port 7000"):
            talks.wait_for(1000, talk)


def test_a_counter_sees_packets_for_anybody_of_its_port_alone(fabric: NetnsTopology) -> None:
    with TrafficStreams() as talks:
        talk = talks.open(line(fabric, "udp", "client", 4))
        with (
            PacketCounter(talk.line.server, 4, "udp", 7000) as same,
            PacketCounter(talk.line.server, 4, "udp", 7001) as other_port,
            PacketCounter(talk.line.server, 4, "tcp", 7000) as other_protocol,
            PacketCounter(talk.line.server, 6, "udp", 7000) as other_family,
            PacketCounter(talk.line.client, 4, "udp", 7000) as other_way,
        ):
            talks.wait_for(20, talk)
            assert len(same.arrivals()) > 10
            assert [one.arrivals() for one in (other_port, other_protocol, other_family, other_way)] == [[]] * 4


def test_conntracks_own_notice_says_when_a_connection_was_forgotten(fabric: NetnsTopology, node: str) -> None:
    table = ConntrackClient(functools.partial(netns.inside, node, open_socket))
    try:
        with TrafficStreams() as talks, ConntrackDestroyListener(node) as forgetting:
            talk = talks.open(line(fabric, "udp", "client", 4, answered=False))
            talks.wait_for(5, talk)
            nft(fabric, DROP)
            client = CLIENT.addresses[0]
            assert forgetting.forgotten_at(client, UDP, talk.client_port) is None
            before = time.monotonic()
            assert table.delete(table.entries(frozenset({client}))) > 0
            wait_until(lambda: forgetting.forgotten_at(client, UDP, talk.client_port) is not None)
            forgotten = forgetting.forgotten_at(client, UDP, talk.client_port)
            assert forgotten is not None
            assert before < forgotten <= time.monotonic()
    finally:
        table.close()
