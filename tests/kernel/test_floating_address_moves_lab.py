"""Floating addresses that move under continuous connections: what is lost, for how long, and what isn't."""

from __future__ import annotations

import contextlib
import functools
import itertools
import socket
import time
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import TypeAlias

import pytest

from nfagent.lab.probes.connection_stream import ConnectionStream
from nfagent.lab.probes.listeners import ProbeProtocol
from nfagent.lab.probes.packet_counter import StreamProtocol
from nfagent.lab.probes.probe import Probe
from nfagent.lab.probes.traffic import StreamPlan, StreamSender, TrafficStream, TrafficStreams
from nfagent.lab.topology import netns
from nfagent.lab.topology.plan import PodPlan
from tests.support.egress_labs import NODES, PARTNER, PARTNER_V6, LiveConnection, listen_outside
from tests.support.gateway_labs import (
    FLOATING,
    GROUPS,
    OUTSIDE,
    PODS,
    await_views,
    dropped,
    expected_holders,
    gateways,
    group_document,
    held_on,
    node_objects,
    pod_on,
    via,
    views,
    world,
)
from tests.support.packet_labs import Document, ManifestLab, as_text, held, holds_within, running_lab, wait_until
from tests.support.session_report import PRINTED

pytestmark = pytest.mark.kernel

REST = [*world()[len(NODES) :], *gateways()]
INTERVAL = 0.02
PROMISED_SECONDS = 2.0
"""Of new connections after a Node turned NotReady; the end of the tests' output has what was measured."""
AT_MOST_SECONDS = 30.0
MOVED, KEPT = "n1", ("n2", "n3")
"""The group whose holder turns NotReady, and those of the others."""
Record: TypeAlias = Callable[[str, object], None]
_ENDS = {4: PARTNER, 6: PARTNER_V6}


@contextlib.contextmanager
def lab_of_gateways(folder: Path) -> Iterator[ManifestLab]:
    with running_lab(folder, NODES, PODS, (OUTSIDE,), documents=REST) as made:
        listen_outside(made.topology, made.servers, OUTSIDE)
        settled(made, GROUPS)
        yield made


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ManifestLab]:
    with lab_of_gateways(tmp_path_factory.mktemp("lab")) as made:
        yield made


@pytest.fixture
def lab(running: ManifestLab) -> ManifestLab:
    """Return the lab with every Node Ready, and each address at its holder, of which all nodes know."""
    place_nodes(running)
    running.cluster.wait_until_enforced()
    settled(running, GROUPS)
    views_when(running, [pod_on(node, MOVED) for node in GROUPS])
    return running


def settled(lab: ManifestLab, ready: Iterable[str], nodes: Iterable[str] = GROUPS) -> None:
    """Wait until each of these nodes has the addresses that it holds while some nodes are Ready, and no other."""
    wanted, there = expected_holders(ready), set(nodes)

    def is_so() -> bool:
        found = held_on(lab.topology, wanted)
        return all(found[address] & there == holders & there for address, holders in wanted.items())

    assert holds_within(is_so, AT_MOST_SECONDS), held_on(lab.topology, wanted)


def place_nodes(lab: ManifestLab, *not_ready: str) -> float:
    """Write the Nodes and return at once; return when, by time.monotonic()."""
    began = time.monotonic()
    lab.cluster.place("cluster.yaml", as_text([*node_objects(NODES, not_ready), *REST]))
    return began


class Streams:
    """New connections all the time: of the Pods of the moved group, and of those of the others."""

    def __init__(self, lab: ManifestLab, stack: contextlib.ExitStack, nodes: Iterable[str] = GROUPS) -> None:
        self._lab, self._stack = lab, stack
        on = tuple(nodes)
        self.moved = [self._open(pod_on(node, MOVED), 4, "udp") for node in on]
        self.moved += [self._open(pod_on(on[-1], MOVED), 6, "udp"), self._open(pod_on(on[-1], MOVED), 4, "tcp")]
        self.kept = [self._open(pod_on(node, group), 4, "udp") for node in on for group in KEPT]
        self.kept += [self._open(pod_on(on[0], group), 6, "tcp") for group in KEPT]

    def _open(self, pod: PodPlan, family: int, protocol: ProbeProtocol) -> ConnectionStream:
        probe = Probe(self._lab.topology.pod_namespace(*pod.key), _ENDS[family], protocol, 443)
        return self._stack.enter_context(ConnectionStream(self._lab.servers, probe, INTERVAL))

    def wait(self, more: int = 10) -> None:
        for stream in (*self.moved, *self.kept):
            stream.wait_for(more)

    def check_kept(self) -> None:
        """Of the other groups, no connection was lost, and none was seen under another address."""
        assert {str(stream.probe): len(stream.lost) for stream in self.kept if stream.lost} == {}
        wanted = {address for group in KEPT for address in FLOATING[group]}
        assert set.union(*(stream.sources for stream in self.kept)) == wanted

    def check_moved(self) -> None:
        """Every connection through the moved address was lost, or seen under that address."""
        seen = set.union(*(stream.sources for stream in self.moved))
        assert seen - {None} == set(FLOATING[MOVED])

    def gap(self, moment: float, what: str, record: Record) -> float:
        """Return, and print, how long new connections through the moved address were lost, after a moment."""
        gaps = {stream: stream.gap_after(moment) for stream in self.moved}
        longest = max(gaps.values())
        late = sum(len(stream.lost) for stream in self.moved)
        asked = sum(len(stream.connections) for stream in (*self.moved, *self.kept))
        record(
            PRINTED,
            f"{what}: new connections after {longest * 1000:.0f} ms (promised: {PROMISED_SECONDS:.0f} s); "
            f"{late} of {asked} lost, all of the moved address",
        )
        return longest


def test_a_holder_turns_not_ready_and_ready_again(lab: ManifestLab, record_property: Record) -> None:
    gaps = []
    for not_ready in ((MOVED,), ()):
        with contextlib.ExitStack() as stack:
            streams = Streams(lab, stack)
            began = place_nodes(lab, *not_ready)
            ready = [name for name in GROUPS if name not in not_ready]
            settled(lab, ready)
            lab.cluster.wait_until_enforced()
            streams.wait()
        streams.check_kept()
        streams.check_moved()
        gaps.append(streams.gap(began, f"{MOVED} turned {'NotReady' if not_ready else 'Ready'}", record_property))
    assert max(gaps) < AT_MOST_SECONDS


def test_a_node_that_is_gone_loses_its_addresses_when_it_is_not_ready(tmp_path: Path, record_property: Record) -> None:
    """Its agent is killed and its link is down: it gives nothing up, and answers no neighbour solicitation."""
    # A link that was down has lost routes and addresses: no other test gets this lab.
    with lab_of_gateways(tmp_path) as lab:
        with contextlib.ExitStack() as stack:
            streams = Streams(lab, stack, ("n2", "n3"))
            lab.cluster.agent(MOVED).stop(kill=True)
            netns.ip_batch(["link set eth0 down"], lab.topology.node_namespace(MOVED))
            began = place_nodes(lab, MOVED)
            lab.cluster.wait_until_enforced()
            settled(lab, ("n2", "n3"), ("n2", "n3"))
            streams.wait()
        streams.check_kept()
        streams.check_moved()
        assert streams.gap(began, f"{MOVED} is gone, and turned NotReady", record_property) < AT_MOST_SECONDS
        views_when(lab, [pod_on(node, MOVED) for node in ("n2", "n3")])


def test_an_agent_that_restarts_interrupts_no_connection(lab: ManifestLab) -> None:
    with contextlib.ExitStack() as stack:
        streams = Streams(lab, stack)
        for name in GROUPS:
            agent = lab.cluster.agent(name)
            agent.stop()
            streams.wait(2)
            agent.start()
        streams.wait()
    streams.check_kept()
    assert {str(stream.probe): len(stream.lost) for stream in streams.moved if stream.lost} == {}
    assert set.union(*(stream.sources for stream in streams.moved)) == set(FLOATING[MOVED])


class LongLived:
    """Connections that were opened before a move: by name `moved tcp client from n2` and so on."""

    def __init__(self, lab: ManifestLab, traffic: TrafficStreams) -> None:
        self._lab, self._traffic = lab, traffic
        self._ports = iter(range(7000, 7100))
        self.streams: dict[str, TrafficStream] = {}

    def open(self, group: str, node: str, protocol: StreamProtocol, speaker: StreamSender, family: int = 4) -> None:
        plan = StreamPlan(
            client=self._lab.topology.pod_namespace(*pod_on(node, group).key),
            server=self._lab.topology.outside_namespace("outside"),
            address=_ENDS[family],
            bound=_ENDS[family],
            protocol=protocol,
            port=next(self._ports),
            speaker=speaker,
        )
        self.streams[f"{group} {protocol} {speaker} from {node} IPv{family}"] = self._traffic.open(plan)

    def lost(self) -> dict[str, int]:
        """Return the UDP packets that did not arrive between two that did."""
        found = {}
        for name, stream in self.streams.items():
            if stream.plan.protocol == "udp":
                numbers = stream.numbers()
                found[name] = numbers[-1] - len(numbers) if numbers else stream.sent
        return {name: count for name, count in found.items() if count}

    def all_arrive(self, more: int = 20) -> None:
        self._traffic.wait_for(more, *self.streams.values())


def test_long_lived_connections_of_other_addresses_lose_no_packet(lab: ManifestLab) -> None:
    with TrafficStreams() as traffic:
        lived = LongLived(lab, traffic)
        for group in KEPT:
            for node in GROUPS:
                lived.open(group, node, "udp", "client")
                lived.open(group, node, "udp", "server", 6)
                lived.open(group, node, "tcp", "server")
        lived.all_arrive()
        for not_ready in ((MOVED,), ()):
            place_nodes(lab, *not_ready)
            lab.cluster.wait_until_enforced()
            settled(lab, [name for name in GROUPS if name not in not_ready])
            lived.all_arrive()
    assert lived.lost() == {}


def test_long_lived_connections_of_the_moved_address_go_on_with_their_ports_when_the_pod_sends(
    lab: ManifestLab, record_property: Record
) -> None:
    """The new holder takes the next packet of the Pod for a new connection, and gives it the same address and port."""
    with TrafficStreams() as traffic:
        lived = LongLived(lab, traffic)
        for node in GROUPS:
            for family in (4, 6):
                lived.open(MOVED, node, "udp", "client", family)
                lived.open(MOVED, node, "tcp", "client", family)
        lived.all_arrive()
        for not_ready in ((MOVED,), ()):
            began = place_nodes(lab, *not_ready)
            lab.cluster.wait_until_enforced()
            settled(lab, [name for name in GROUPS if name not in not_ready])
            lived.all_arrive()
            pauses = {name: pause_after(stream, began) for name, stream in lived.streams.items()}
            longest = max(pauses, key=lambda name: pauses[name])
            what = f"{MOVED} turned {'NotReady' if not_ready else 'Ready'}"
            record_property(PRINTED, f"{what}: {longest} goes on after {pauses[longest] * 1000:.0f} ms, others sooner")
    record_property(PRINTED, f"packets of long-lived UDP connections of the moved address lost: {lived.lost()}")


def pause_after(stream: TrafficStream, moment: float) -> float:
    """Return the longest time between two packets that arrived one after the other, the second after a moment."""
    times = stream.arrivals()
    return max(later - earlier for earlier, later in itertools.pairwise(times) if later > moment)


def test_a_server_that_alone_sends_waits_until_the_pod_sends(lab: ManifestLab) -> None:
    """The new holder drops what comes for a connection that it doesn't know, and answers it with no RST."""
    with TrafficStreams() as traffic:
        lived = LongLived(lab, traffic)
        lived.open(MOVED, "n2", "udp", "server")
        [stream] = lived.streams.values()
        lived.all_arrive()
        place_nodes(lab, MOVED)
        lab.cluster.wait_until_enforced()
        settled(lab, KEPT)
        [holder] = expected_holders(KEPT)[FLOATING[MOVED][0]]
        before = dropped(lab, holder, "to-gateway")
        traffic.wait_until_sent(20, stream)
        wait_until(lambda: dropped(lab, holder, "to-gateway") > before)


def test_a_node_that_has_not_seen_a_move_reaches_the_new_holder(lab: ManifestLab) -> None:
    """The next hop is the floating address itself, and the new holder announces it."""
    pods = [pod_on(node, MOVED) for node in GROUPS]
    [holder] = expected_holders(KEPT)[FLOATING[MOVED][0]]
    [other] = set(KEPT) - {holder}
    with held(lab.cluster.agent(other)):
        place_nodes(lab, MOVED)
        seeing = [lab.cluster.agent(name) for name in GROUPS if name != other]
        lab.cluster.wait_until_enforced(seeing)
        settled(lab, KEPT, (MOVED, holder))
        await_views(lab, {pod.name: {FLOATING[MOVED][0]} for pod in pods}, pods, [PARTNER])
    lab.cluster.wait_until_enforced()
    settled(lab, KEPT)
    views_when(lab, pods)


def test_no_packet_leaves_until_the_new_holder_has_seen_the_move(lab: ManifestLab) -> None:
    """No node has the address, so no neighbour answers for it: the kernel drops the packets."""
    pods = [pod_on(node, MOVED) for node in GROUPS]
    [holder] = expected_holders(KEPT)[FLOATING[MOVED][0]]
    with held(lab.cluster.agent(holder)):
        place_nodes(lab, MOVED)
        seeing = [lab.cluster.agent(name) for name in GROUPS if name != holder]
        lab.cluster.wait_until_enforced(seeing)
        wait_until(lambda: held_on(lab.topology, FLOATING[MOVED])[FLOATING[MOVED][0]] == set())
        assert views(lab, pods, [PARTNER]) == {pod.name: {"nothing"} for pod in pods}
    lab.cluster.wait_until_enforced()
    settled(lab, KEPT)
    views_when(lab, pods)
    counts = {node: dropped(lab, node, "not-holder") for node in GROUPS}
    assert views(lab, pods) == {pod.name: set(FLOATING[MOVED]) for pod in pods}
    assert {node: dropped(lab, node, "not-holder") for node in GROUPS} == counts


@pytest.mark.parametrize("late", ["n2", MOVED], ids=["the Pod's node", "the holder"])
def test_a_pod_never_leaves_under_its_own_address_by_a_node_that_disagrees_about_its_policy(
    lab: ManifestLab, late: str
) -> None:
    """A policy shrinks, and the Pod's node has not seen it; or it grows, and the holder has not seen it."""
    pod = pod_on("n2", MOVED)
    narrow = [*gateways(KEPT), group_document(MOVED), via(MOVED, ["203.0.113.128/25"])]
    wide = gateways()
    before, after = (wide, narrow) if late == "n2" else (narrow, wide)

    def place(documents: list[Document]) -> None:
        lab.cluster.place("cluster.yaml", as_text([*world(), *documents]))

    place(before)
    lab.cluster.wait_until_enforced()
    settled(lab, GROUPS)
    with held(lab.cluster.agent(late)):
        place(after)
        lab.cluster.wait_until_enforced([lab.cluster.agent(name) for name in GROUPS if name != late])
        dropped_before = dropped(lab, MOVED, "not-holder")
        assert views(lab, [pod], [PARTNER]) == {pod.name: {"nothing"}}
        assert dropped(lab, MOVED, "not-holder") > dropped_before
    lab.cluster.wait_until_enforced()
    expected = FLOATING[MOVED][0] if late == MOVED else lab.topology.nodes["n2"].addresses[0]
    await_views(lab, {pod.name: {expected}}, [pod], [PARTNER])


def _is_seen_as(live: LiveConnection, address: str) -> bool:
    with contextlib.suppress(TimeoutError):
        return live.ask(b"now", 2.0) == address
    return False


def test_a_connection_that_another_node_translated_is_masqueraded_after_its_policy_is_gone(lab: ManifestLab) -> None:
    pod = pod_on("n2", MOVED)
    source, outside = lab.topology.pod_namespace(*pod.key), lab.topology.outside_namespace("outside")
    lab.apply("cluster", *world(), *gateways())
    settled(lab, GROUPS)
    for address, own in zip((PARTNER, PARTNER_V6), lab.topology.nodes["n2"].addresses, strict=True):
        with LiveConnection(source, outside, address, socket.SOCK_DGRAM) as live:
            assert live.ask(b"by the gateway") in FLOATING[MOVED]
            lab.apply("cluster", *world(), *gateways(KEPT), group_document(MOVED))
            wait_until(functools.partial(_is_seen_as, live, own))
            assert live.ask(b"without it") == own
            lab.apply("cluster", *world(), *gateways())
            settled(lab, GROUPS)


def test_an_old_holder_that_has_not_seen_the_change_keeps_the_address_until_it_has(lab: ManifestLab) -> None:
    """The new holder announces the address, so that replies to what it translates come to it."""
    pods = [pod_on(node, MOVED) for node in KEPT]
    with held(lab.cluster.agent(MOVED)):
        place_nodes(lab, MOVED)
        lab.cluster.wait_until_enforced([lab.cluster.agent(name) for name in KEPT])
        settled(lab, KEPT, KEPT)
        assert MOVED in held_on(lab.topology, FLOATING[MOVED])[FLOATING[MOVED][0]]
        views_when(lab, pods)
    lab.cluster.wait_until_enforced()
    settled(lab, KEPT)
    views_when(lab, [*pods, pod_on(MOVED, MOVED)])


def views_when(lab: ManifestLab, pods: list[PodPlan]) -> None:
    """Wait until Pods are seen under the moved address."""
    await_views(lab, {pod.name: set(FLOATING[MOVED]) for pod in pods}, pods)


def test_a_flushed_table_is_repaired_with_its_gateways(lab: ManifestLab) -> None:
    for name in GROUPS:
        lab.cluster.agent(name).nft("delete", "table", "inet", "nfagent")
    lab.cluster.wait_until_enforced()
    pods = [pod_on(node, group) for node in GROUPS for group in GROUPS]
    wanted: dict[str, set[str]] = {pod.name: set(FLOATING[pod.name.partition("-on-")[0]]) for pod in pods}
    await_views(lab, wanted, pods)
