"""Live connections that changes revoke, under traffic: when the last packet arrives, and when conntrack has forgotten.

In a lab of two nodes with an agent each, changes of every kind cut callers off from their servers, some servers at a
time. Each server has four connections that end (TCP and UDP, from its own node and from the other one, one end of each
speaking every few milliseconds), and one that is allowed all the time, and must lose nothing.
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

from benchmarks.data.revocation_scenarios import ALLY, CHANGES, NODES, OPEN_PORT, PORT, Circle, Document, frame
from benchmarks.registry import Run, bench
from benchmarks.results import Row, at_most, percentile
from nfagent.errors import KernelError
from nfagent.lab.agents import LabCluster
from nfagent.lab.conntrack_events import ConntrackDestroyListener
from nfagent.lab.packet_counter import StreamProtocol
from nfagent.lab.topology import NetnsTopology
from nfagent.lab.topology_plan import PodPlan
from nfagent.lab.traffic import StreamPlan, StreamSender, TrafficStream, TrafficStreams
from nfagent.model.netaddr import Family, family_of
from nfagent.netlink.packet_header import TCP, UDP

_CIRCLES = 5
_INTERVAL = 0.005
_HEARD = 6
_LATER = 12
_NUMBERS = {"tcp": TCP, "udp": UDP}


_Kind: TypeAlias = tuple[StreamProtocol, StreamSender, Family]
_KEPT: tuple[_Kind, _Kind] = (("udp", "server", 4), ("udp", "client", 6))
_ENDED: tuple[tuple[_Kind, ...], ...] = (
    (("tcp", "client", 4), ("udp", "server", 4), ("tcp", "server", 6), ("udp", "client", 6)),
    (("tcp", "server", 4), ("udp", "client", 4), ("tcp", "client", 6), ("udp", "server", 6)),
    (("tcp", "client", 6), ("udp", "server", 6), ("tcp", "server", 4), ("udp", "client", 4)),
    (("tcp", "server", 6), ("udp", "client", 6), ("tcp", "client", 4), ("udp", "server", 4)),
)
"""The four connections of a circle, two of each caller: taken in turns, every kind comes equally often."""


class Revocation(msgspec.Struct, frozen=True):
    """What one change did to the connections that it revoked. Times are seconds.

    before, after: packets that arrived before its commit, and after it
    last:          the last packet's arrival, from the commit: less than zero for one that came before
    bite:          the same, from when the change was written into the folder
    forgotten:     from the commit until conntrack had no entry of any of them
    """

    kind: str
    connections: int
    before: int
    after: int
    last: float
    bite: float
    forgotten: float


class Outcome(msgspec.Struct, frozen=True):
    """All revocations, and for each connection that stayed allowed, how many packets it lost, and how many came."""

    revocations: tuple[Revocation, ...]
    lost: tuple[int, ...]
    kept: int


class _Party:
    """A circle in a change: its connections, when the change was written, and when each node's agent committed it."""

    def __init__(self, circle: Circle, kind: str) -> None:
        self.circle = circle
        self.kind = kind
        self.change = CHANGES[kind](circle)
        self.talks: list[TrafficStream] = []
        self.written = 0.0
        self.committed: dict[str, float] = {}

    def node_of(self, lab: _Lab, talk: TrafficStream) -> str:
        """Name the node whose agent revokes a connection."""
        return self.circle.server.node if self.change.at == "server" else lab.pods[talk.line.client].node


class _Lab:
    """Two nodes with agents, and circles of Pods."""

    def __init__(self, stack: ExitStack, circles: Sequence[Circle]) -> None:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="nfagent-revocations-")))
        pods = [ALLY, *(pod for circle in circles for pod in circle.pods)]
        self.manifests = folder / "manifests"
        self.manifests.mkdir()
        self.fabric = stack.enter_context(NetnsTopology(NODES, pods, tag="revoke"))
        self.cluster = LabCluster(self.fabric, self.manifests, folder / "agents")
        self.cluster.place("frame.json", _text(frame()))
        for circle in circles:
            self.put(circle, circle.objects())
        stack.enter_context(self.cluster)
        self.talks = stack.enter_context(TrafficStreams(_INTERVAL))
        self.forgetting = {
            node.name: stack.enter_context(ConntrackDestroyListener(self.fabric.node_namespace(node.name)))
            for node in NODES
        }
        self.pods = {self.fabric.pod_namespace(*pod.key): pod for pod in pods}

    def put(self, circle: Circle, documents: Iterable[Document]) -> None:
        self.cluster.place(f"circle-{circle.number}.json", _text(documents))

    def open(self, caller: PodPlan, server: PodPlan, kind: _Kind, port: int = PORT) -> TrafficStream:
        """Begin a connection."""
        protocol, speaker, family = kind
        return self.talks.open(
            StreamPlan(
                client=self.fabric.pod_namespace(*caller.key),
                server=self.fabric.pod_namespace(*server.key),
                address=server.addresses[family == 6],
                protocol=protocol,
                port=port,
                speaker=speaker,
            )
        )

    def suspected_at(self, node: str) -> float:
        status: dict[str, Any] = self.cluster.agent(node).ask("/v1/dump/state")["agent"]["revoke"]
        return float(status["suspected_at"])


def measure(run: Run, count: int) -> Outcome:
    """Make so many revocations, and watch them. Raises MachineError, KernelError."""
    circles = [Circle(number) for number in range(1, _CIRCLES + 1)]
    kinds, turns = itertools.cycle(CHANGES), itertools.cycle(_ENDED)
    found: list[Revocation] = []
    with ExitStack() as stack:
        lab = _Lab(stack, circles)
        kept = [lab.open(ALLY, circle.server, _KEPT[circle.number % 2], OPEN_PORT) for circle in circles]
        while len(found) < count:
            run.progress(f"{len(found)} of {count} revocations")
            found += _revoke(
                lab, [_Party(circle, next(kinds)) for circle in circles[: count - len(found)]], next(turns)
            )
        lab.talks.wait_for(_HEARD, *kept)
        numbers = [talk.numbers() for talk in kept]
    return Outcome(tuple(found), tuple(max(one) - len(one) for one in numbers), sum(map(len, numbers)))


def _revoke(lab: _Lab, parties: Sequence[_Party], kinds: Sequence[_Kind]) -> Iterator[Revocation]:
    """Make a change of each party's, one after the other, under traffic, and watch until everything is calm."""
    for party in parties:
        lab.put(party.circle, party.change.before)
    lab.cluster.settle()
    for party in parties:
        near, far = party.circle.callers
        callers = zip((near, near, far, far), kinds, strict=True)
        party.talks = [lab.open(caller, party.circle.server, kind) for caller, kind in callers]
    everybody = [talk for party in parties for talk in party.talks]
    lab.talks.wait_for(_HEARD, *everybody)
    for party in parties:
        party.written = time.monotonic()
        lab.put(party.circle, party.change.after)
        lab.cluster.settle()
        party.committed = {node: lab.suspected_at(node) for node in {party.node_of(lab, talk) for talk in party.talks}}
        if min(party.committed.values()) < party.written:
            raise KernelError(f"{party.kind}: nobody was put under re-check")
    lab.cluster.calm()
    lab.talks.wait_until_sent(_LATER, *(talk for talk in everybody if talk.line.protocol == "udp"))
    for party in parties:
        yield _outcome(lab, party)
    lab.talks.close(*everybody)


def _outcome(lab: _Lab, party: _Party) -> Revocation:
    before = after = 0
    last, bite, forgotten = [], [], []
    for talk in party.talks:
        node = party.node_of(lab, talk)
        committed, arrivals = party.committed[node], talk.arrivals()
        late = sum(when > committed for when in arrivals)
        before, after = before + len(arrivals) - late, after + late
        last.append(max(arrivals) - committed)
        bite.append(max(arrivals) - party.written)
        client = lab.pods[talk.line.client].addresses[family_of(talk.line.address) == 6]
        gone = lab.forgetting[node].forgotten_at(client, _NUMBERS[talk.line.protocol], talk.client_port)
        if gone is None:
            raise KernelError(f"{party.kind}: conntrack still knows {talk.line}")
        forgotten.append(gone - committed)
    return Revocation(party.kind, len(party.talks), before, after, max(last), max(bite), max(forgotten))


def _text(documents: Iterable[Document]) -> str:
    return msgspec.json.encode({"apiVersion": "v1", "kind": "List", "items": list(documents)}).decode()


def table(outcome: Outcome) -> list[list[str]]:
    """Give a line for each kind of change, and one for all: the first line says what the columns are."""
    kinds: dict[str, list[Revocation]] = defaultdict(list)
    for one in outcome.revocations:
        kinds[one.kind].append(one)
    header = ["change", "times", "connections", "packets before", "after", "last packet, ms", "forgotten, ms"]
    every = list(outcome.revocations)
    return [header, *(_line(kind, kinds[kind]) for kind in CHANGES if kind in kinds), _line("all", every)]


def _line(name: str, found: Sequence[Revocation]) -> list[str]:
    sums = (sum(one.connections for one in found), sum(one.before for one in found), sum(one.after for one in found))
    return [
        name,
        str(len(found)),
        *map(str, sums),
        f"{max(one.last for one in found) * 1e3:+.1f}",
        f"{percentile([one.forgotten for one in found], 0.5) * 1e3:.0f}",
    ]


@bench("revocations", "connections that a change revokes, under traffic: their last packet, and conntrack's entry")
def revocations(run: Run) -> Iterator[Row]:
    """Make 100 revocations, 20 where it has to be quick."""
    outcome = measure(run, 20 if run.quick else 100)
    found = outcome.revocations
    name, times = "revoked under traffic", f"{len(found)} revocations of {len(CHANGES)} kinds, 4 connections each"
    yield Row(
        name=f"{name}: packets after the commit",
        unit="packets",
        values=[one.after for one in found],
        targets=(at_most("max", 0),),
        note=f"{times}; before the commit {sum(one.before for one in found):,} packets had arrived",
    )
    yield Row(
        name=f"{name}: packets lost of others",
        unit="packets",
        values=outcome.lost,
        targets=(at_most("max", 0),),
        note=f"UDP that stays allowed, with Pods under re-check: {outcome.kept:,} packets arrived",
    )
    yield Row(
        name=f"{name}: manifest written to last packet",
        unit="ms",
        values=[one.bite * 1e3 for one in found],
        reference=[(one.bite - one.last + one.forgotten) * 1e3 for one in found],
        reference_name="to entry gone",
        paired=True,
    )
    yield Row(
        name=f"{name}: commit to last packet",
        unit="ms",
        values=[one.last * 1e3 for one in found],
        note=f"below zero: before the commit; a packet is sent every {_INTERVAL * 1e3:g} ms",
    )
    yield Row(
        name=f"{name}: commit to entries gone",
        unit="ms",
        values=[one.forgotten * 1e3 for one in found],
        note="the last of a change's four; several changes at a time share a look at conntrack's table",
    )
