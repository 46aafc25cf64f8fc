"""Connections that changes revoke, under traffic: arrival of the last packet, and removal of conntrack's entries.

In a lab of two nodes with an agent each, changes of every kind revoke the connections of callers to their servers, some
servers at a time. Each server has four connections that are revoked (TCP and UDP, from its own node and from the other
one, one end of each sending every few milliseconds), and one that stays allowed, and must lose no packet.
"""

from __future__ import annotations

import itertools
import tempfile
import time
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any, TypeAlias

import msgspec

from benchmarks.data.revocation_scenarios import (
    ALLOWED_CALLER,
    CHANGES,
    NODES,
    OPEN_PORT,
    PORT,
    Document,
    RevocationScenario,
    shared_objects,
)
from benchmarks.registry import Run, bench
from benchmarks.results import Row, at_most, percentile
from nfagent.errors import KernelError
from nfagent.lab.cluster.agents import LabCluster
from nfagent.lab.machine.patience import patient
from nfagent.lab.probes.conntrack_events import ConntrackDestroyListener, DestroyedConnection
from nfagent.lab.probes.packet_counter import StreamProtocol
from nfagent.lab.probes.traffic import StreamPlan, StreamSender, TrafficStream, TrafficStreams
from nfagent.lab.topology.netns_topology import NetnsTopology
from nfagent.lab.topology.plan import PodPlan
from nfagent.model.netaddr import Family, family_of
from nfagent.netlink.packet_header import TCP, UDP

_SCENARIOS = 5
_INTERVAL = 0.005
_PACKETS_BEFORE = 6
_PACKETS_AFTER = 12
_PATIENCE = patient(30.0)
_NUMBERS = {"tcp": TCP, "udp": UDP}


_Kind: TypeAlias = tuple[StreamProtocol, StreamSender, Family]
_KEPT: tuple[_Kind, _Kind] = (("udp", "server", 4), ("udp", "client", 6))
_ENDED: tuple[tuple[_Kind, ...], ...] = (
    (("tcp", "client", 4), ("udp", "server", 4), ("tcp", "server", 6), ("udp", "client", 6)),
    (("tcp", "server", 4), ("udp", "client", 4), ("tcp", "client", 6), ("udp", "server", 6)),
    (("tcp", "client", 6), ("udp", "server", 6), ("tcp", "server", 4), ("udp", "client", 4)),
    (("tcp", "server", 6), ("udp", "client", 6), ("tcp", "client", 4), ("udp", "server", 4)),
)
"""The four connections of a scenario, two of each caller: in turns, so that every kind is equally frequent."""


class Revocation(msgspec.Struct, frozen=True):
    """The effect of one change on the connections that it revoked. Times are seconds.

    before:        packets that arrived before its commit
    after:         packets that passed the rules after its commit: one that waited in a queue arrives later
    last:          arrival of the last packet, from the commit: negative for one before it
    applied:       the same, from when the change was written into the folder
    removed:       from the commit until conntrack had no entry of these connections
    """

    kind: str
    connections: int
    before: int
    after: int
    last: float
    applied: float
    removed: float


class RevocationResult(msgspec.Struct, frozen=True):
    """All revocations; for each connection that stayed allowed, the number of lost packets; and of received ones."""

    revocations: tuple[Revocation, ...]
    lost: tuple[int, ...]
    kept: int


class _RunningScenario:
    """A scenario with a change: its connections, the time of writing, and of each node's agent's commit."""

    def __init__(self, scenario: RevocationScenario, kind: str) -> None:
        self.scenario = scenario
        self.kind = kind
        self.change = CHANGES[kind](scenario)
        self.streams: list[TrafficStream] = []
        self.written = 0.0
        self.committed: dict[str, float] = {}

    def node_of(self, lab: _Lab, stream: TrafficStream) -> str:
        """Return the node whose agent revokes a connection."""
        return self.scenario.server.node if self.change.at == "server" else lab.pods[stream.plan.client].node


class _Lab:
    """Two nodes with agents, and the Pods of all scenarios."""

    def __init__(self, stack: ExitStack, scenarios: Sequence[RevocationScenario]) -> None:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="nfagent-revocations-")))
        pods = [ALLOWED_CALLER, *(pod for scenario in scenarios for pod in scenario.pods)]
        self.manifests = folder / "manifests"
        self.manifests.mkdir()
        self.topology = stack.enter_context(NetnsTopology(NODES, pods, tag="revoke"))
        self.cluster = LabCluster(self.topology, self.manifests, folder / "agents")
        self.cluster.place("shared.json", _text(shared_objects()))
        for scenario in scenarios:
            self.put(scenario, scenario.objects())
        stack.enter_context(self.cluster)
        self.streams = stack.enter_context(TrafficStreams(_INTERVAL))
        self.destroy_listeners = {
            node.name: stack.enter_context(ConntrackDestroyListener(self.topology.node_namespace(node.name)))
            for node in NODES
        }
        self.pods = {self.topology.pod_namespace(*pod.key): pod for pod in pods}

    def put(self, scenario: RevocationScenario, documents: Iterable[Document]) -> None:
        self.cluster.place(f"scenario-{scenario.number}.json", _text(documents))

    def open(self, caller: PodPlan, server: PodPlan, kind: _Kind, port: int = PORT) -> TrafficStream:
        """Open a connection."""
        protocol, speaker, family = kind
        return self.streams.open(
            StreamPlan(
                client=self.topology.pod_namespace(*caller.key),
                server=self.topology.pod_namespace(*server.key),
                address=server.addresses[family == 6],
                protocol=protocol,
                port=port,
                speaker=speaker,
            )
        )

    def suspected_at(self, node: str) -> float:
        status: dict[str, Any] = self.cluster.agent(node).ask("/v1/dump/state")["agent"]["revoke"]
        return float(status["suspected_at"])


def measure(run: Run, count: int) -> RevocationResult:
    """Make so many revocations, and measure them. Raises HostError, KernelError."""
    scenarios = [RevocationScenario(number) for number in range(1, _SCENARIOS + 1)]
    kinds, turns = itertools.cycle(CHANGES), itertools.cycle(_ENDED)
    found: list[Revocation] = []
    with ExitStack() as stack:
        lab = _Lab(stack, scenarios)
        kept = [
            lab.open(ALLOWED_CALLER, scenario.server, _KEPT[scenario.number % 2], OPEN_PORT) for scenario in scenarios
        ]
        while len(found) < count:
            run.progress(f"{len(found)} of {count} revocations")
            found += _revoke(
                lab,
                [_RunningScenario(scenario, next(kinds)) for scenario in scenarios[: count - len(found)]],
                next(turns),
            )
        lab.streams.wait_for(_PACKETS_BEFORE, *kept)
        sent = [max(stream.numbers()) for stream in kept]
        # By then whatever was on its way has arrived: two processors may deliver packets in another order.
        lab.streams.wait_for(_PACKETS_BEFORE, *kept)
        came = [len({*stream.numbers()} & {*range(1, last + 1)}) for stream, last in zip(kept, sent, strict=True)]
    lost = tuple(last - count for last, count in zip(sent, came, strict=True))
    return RevocationResult(tuple(found), lost, sum(came))


def _revoke(lab: _Lab, running: Sequence[_RunningScenario], kinds: Sequence[_Kind]) -> Iterator[Revocation]:
    """Make one change of each scenario, one after the other, under traffic; measure when all agents are idle."""
    for one in running:
        lab.put(one.scenario, one.change.before)
    lab.cluster.wait_until_enforced()
    for one in running:
        near, far = one.scenario.callers
        callers = zip((near, near, far, far), kinds, strict=True)
        one.streams = [lab.open(caller, one.scenario.server, kind) for caller, kind in callers]
    every_stream = [stream for one in running for stream in one.streams]
    lab.streams.wait_for(_PACKETS_BEFORE, *every_stream)
    for one in running:
        one.written = time.monotonic()
        lab.put(one.scenario, one.change.after)
        lab.cluster.wait_until_enforced()
        one.committed = {node: lab.suspected_at(node) for node in {one.node_of(lab, stream) for stream in one.streams}}
        if min(one.committed.values()) < one.written:
            raise KernelError(f"{one.kind}: no address was put under re-check")
    lab.cluster.wait_for_recheck()
    lab.streams.wait_until_sent(_PACKETS_AFTER, *(stream for stream in every_stream if stream.plan.protocol == "udp"))
    for one in running:
        yield _revocation(lab, one)
    lab.streams.close(*every_stream)


def _revocation(lab: _Lab, one: _RunningScenario) -> Revocation:
    before = after = 0
    last, applied, removed = [], [], []
    for stream in one.streams:
        node = one.node_of(lab, stream)
        committed, arrivals = one.committed[node], stream.arrivals()
        before += sum(when <= committed for when in arrivals)
        after += len(stream.passed_after(committed))
        last.append(max(arrivals) - committed)
        applied.append(max(arrivals) - one.written)
        client = lab.pods[stream.plan.client].addresses[family_of(stream.plan.address) == 6]
        connection = client, _NUMBERS[stream.plan.protocol], stream.client_port
        removed.append(_destroyed_at(lab.destroy_listeners[node], connection, one) - committed)
    return Revocation(one.kind, len(one.streams), before, after, max(last), max(applied), max(removed))


def _destroyed_at(listener: ConntrackDestroyListener, connection: DestroyedConnection, one: _RunningScenario) -> float:
    """Return when a connection's entry was destroyed; its notification may still wait for the listener's thread."""
    end = time.monotonic() + _PATIENCE
    while True:
        gone = listener.destroyed_at(*connection)
        # An earlier one is of another connection with the same port.
        if gone is not None and gone > one.written:
            return gone
        if time.monotonic() > end:
            raise KernelError(f"{one.kind}: conntrack still has an entry of {connection}")
        time.sleep(_INTERVAL)


def _text(documents: Iterable[Document]) -> str:
    return msgspec.json.encode({"apiVersion": "v1", "kind": "List", "items": list(documents)}).decode()


def table(result: RevocationResult) -> list[list[str]]:
    """Return a line for each kind of change, and one for all; the first line is the header."""
    kinds: dict[str, list[Revocation]] = defaultdict(list)
    for one in result.revocations:
        kinds[one.kind].append(one)
    header = ["change", "times", "connections", "packets before", "after", "last packet, ms", "entry removed, ms"]
    every = list(result.revocations)
    return [header, *(_line(kind, kinds[kind]) for kind in CHANGES if kind in kinds), _line("all", every)]


def _line(name: str, found: Sequence[Revocation]) -> list[str]:
    sums = (sum(one.connections for one in found), sum(one.before for one in found), sum(one.after for one in found))
    return [
        name,
        str(len(found)),
        *map(str, sums),
        f"{max(one.last for one in found) * 1e3:+.1f}",
        f"{percentile([one.removed for one in found], 0.5) * 1e3:.0f}",
    ]


@bench("revocations", "connections that a change revokes, under traffic: last packet, and removal of conntrack's entry")
def revocations(run: Run) -> Iterator[Row]:
    """Make 100 revocations, 20 in a quick run."""
    result = measure(run, 20 if run.quick else 100)
    found = result.revocations
    name, times = "revoked under traffic", f"{len(found)} revocations of {len(CHANGES)} kinds, 4 connections each"
    yield Row(
        name=f"{name}: packets after the commit",
        unit="packets",
        values=[one.after for one in found],
        targets=(at_most("max", 0),),
        note=f"{times}; before the commit {sum(one.before for one in found):,} packets had arrived",
    )
    yield Row(
        name=f"{name}: lost packets of connections that stay allowed",
        unit="packets",
        values=result.lost,
        targets=(at_most("max", 0),),
        note=f"UDP, with Pods under re-check: {result.kept:,} packets arrived",
    )
    yield Row(
        name=f"{name}: manifest written to last packet",
        unit="ms",
        values=[one.applied * 1e3 for one in found],
        reference=[(one.applied - one.last + one.removed) * 1e3 for one in found],
        reference_name="to entry removed",
        paired=True,
    )
    yield Row(
        name=f"{name}: commit to last packet",
        unit="ms",
        values=[one.last * 1e3 for one in found],
        note=f"negative: before the commit; a packet is sent every {_INTERVAL * 1e3:g} ms",
    )
    yield Row(
        name=f"{name}: commit to entries removed",
        unit="ms",
        values=[one.removed * 1e3 for one in found],
        note="the last of a change's four; several changes at a time share a dump of the conntrack table",
    )
