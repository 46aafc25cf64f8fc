"""What rules cost packets: throughput of a TCP stream, and short connections a second, through a policy that allows.

Each way of judging has a lab of its own, so that nothing is reloaded between measurements: two nodes, a client and a
server on the first, another server on the second. They are measured in turns, in another order each round, and
compared round by round. A second lab without rules shows what two equal labs differ by: the noise. What the rules have
of conntrack and of masquerade, and what of policies, is told apart by a lab with a single rule on a connection's
state, and one with nfagent's rules for a cluster without policies.
"""

from __future__ import annotations

import random
from collections.abc import Iterator
from contextlib import ExitStack

import msgspec

from benchmarks.harness.packet_labs import AGAIN, CONNTRACK, EBPF, FAR, FEW, FREE, MANY, NEAR, NONE, Server, ways
from benchmarks.harness.traffic import Client, Traffic
from benchmarks.registry import Run, bench
from benchmarks.results import Row, Target, at_least
from nfagent.errors import HostError
from nfagent.lab import ebpf_baseline


class Plan(msgspec.Struct, frozen=True):
    """How long to measure.

    streams, connections: rounds of each
    seconds:              of each measurement
    pods:                 of the large cluster
    """

    streams: int
    connections: int
    seconds: float
    pods: int


QUICK = Plan(streams=60, connections=40, seconds=0.012, pods=5_000)
FULL = Plan(streams=600, connections=300, seconds=0.012, pods=15_000)


@bench("packets", "TCP streams and short connections through a policy, beside no rules and the same policy in eBPF")
def packets(run: Run) -> Iterator[Row]:
    """Measure all ways in turns."""
    plan = QUICK if run.quick else FULL
    with ExitStack() as stack:
        traffic = stack.enter_context(Traffic())
        run.progress("labs")
        clients = {
            (way.name, server): way.client(stack, traffic, server)
            for way in ways(stack, plan.pods, run.seed)
            for server in (NEAR, FAR)
        }
        found = _measure(run, plan, clients)
    yield from _rows(found)
    if lack := ebpf_baseline.missing():
        raise HostError(f"rows beside eBPF: {lack}")


Measured = dict[tuple[str, Server], dict[str, list[float]]]
"""(kind, server) -> way -> a value a round."""


def _measure(run: Run, plan: Plan, clients: dict[tuple[str, Server], Client]) -> Measured:
    """Measure each way shortly and often, all of them in a round: what else the machine does hits them alike."""
    order = random.Random(run.seed)  # noqa: S311 - an order of measurements
    names = list(dict.fromkeys(name for name, _server in clients))
    kinds = {"stream": (Client.stream, plan.streams), "connections": (Client.connections, plan.connections)}
    found: Measured = {(kind, server): {way: [] for way in names} for kind in kinds for server in (NEAR, FAR)}
    for (kind, server), values in found.items():
        measure, rounds = kinds[kind]
        for turn in range(rounds + 1):
            run.progress(f"{kind} to {server[1]}: round {turn} of {rounds}")
            for way in order.sample(names, len(names)):
                value = measure(clients[way, server], plan.seconds)
                # The first round warms up.
                if turn:
                    values[way].append(value)
    return found


def _rows(found: Measured) -> Iterator[Row]:
    for (kind, server), values in found.items():
        words = (
            f"{'TCP stream' if kind == 'stream' else 'connections'}, {'one node' if server == NEAR else 'two nodes'}"
        )
        unit = "Gbit/CPU s" if kind == "stream" else "1/CPU s"
        # Design, section 7: throughput 0.97; connections 0.93, beside eBPF 0.95; flat in the number of policies.
        wanted: list[tuple[str, str, Target | None]] = [
            (AGAIN, FREE, None),
            (CONNTRACK, FREE, None),
            (NONE, FREE, None),
            (EBPF, FREE, None),
            (FEW, FREE, at_least("ratio", 0.97 if kind == "stream" else 0.93)),
            (MANY, FREE, at_least("ratio", 0.97 if kind == "stream" else 0.93)),
            (MANY, NONE, None),
            (MANY, FEW, at_least("ratio", 0.97)),
            (MANY, EBPF, None if kind == "stream" else at_least("ratio", 0.95)),
        ]
        for way, reference, target in wanted:
            # Without clang there is none by eBPF.
            if way in values and reference in values:
                yield Row(
                    name=f"{words}: {way}",
                    unit=unit,
                    values=values[way],
                    reference=values[reference],
                    reference_name=reference,
                    paired=True,
                    better="higher",
                    targets=() if target is None else (target,),
                )
