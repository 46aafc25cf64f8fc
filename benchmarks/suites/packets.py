"""Cost of rules for packets: throughput of a TCP stream, and short connections a second, through a policy that allows.

Each kind of rules has a lab of its own, so that nothing is reloaded between measurements: two nodes, a client and a
server on the first, another server on the second. Labs are measured in turns, in another order each round, and compared
round by round. A second lab without rules shows by how much two equal labs differ: the noise. A lab with a single
conntrack rule, and one with nfagent's rules for a cluster without policies, separate the cost of conntrack and
masquerade from that of policies.
"""

from __future__ import annotations

import random
from collections.abc import Iterator
from contextlib import ExitStack

import msgspec

from benchmarks.harness.packet_labs import (
    CONNTRACK,
    EBPF,
    FAR,
    FEW,
    MANY,
    NEAR,
    NO_POLICIES,
    NO_RULES,
    NO_RULES_SECOND_LAB,
    Server,
    packet_labs,
)
from benchmarks.registry import Run, bench
from benchmarks.results import Row, Target, at_least
from nfagent.errors import HostError
from nfagent.lab.ebpf import program as ebpf_program
from nfagent.lab.latency.traffic_rates import Client, Traffic


class Plan(msgspec.Struct, frozen=True):
    """The amount of measuring.

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
    """Measure all labs in turns."""
    plan = QUICK if run.quick else FULL
    with ExitStack() as stack:
        traffic = stack.enter_context(Traffic())
        run.progress("labs")
        clients = {
            (lab.name, server): lab.client(stack, traffic, server)
            for lab in packet_labs(stack, plan.pods, run.seed)
            for server in (NEAR, FAR)
        }
        found = _measure(run, plan, clients)
    yield from _rows(found)
    if lack := ebpf_program.missing():
        raise HostError(f"rows with the reference eBPF: {lack}")


Measured = dict[tuple[str, Server], dict[str, list[float]]]
"""(kind, server) -> lab -> a value per round."""


def _measure(run: Run, plan: Plan, clients: dict[tuple[str, Server], Client]) -> Measured:
    """Measure each lab briefly and often, all of them in a round: other load of the machine affects all alike."""
    order = random.Random(run.seed)  # noqa: S311 - an order of measurements
    names = list(dict.fromkeys(name for name, _server in clients))
    kinds = {"stream": (Client.stream, plan.streams), "connections": (Client.connections, plan.connections)}
    found: Measured = {(kind, server): {lab: [] for lab in names} for kind in kinds for server in (NEAR, FAR)}
    for (kind, server), values in found.items():
        measure, rounds = kinds[kind]
        for turn in range(rounds + 1):
            run.progress(f"{kind} to {server[1]}: round {turn} of {rounds}")
            for lab in order.sample(names, len(names)):
                value = measure(clients[lab, server], plan.seconds)
                # The first round warms up.
                if turn:
                    values[lab].append(value)
    return found


def _rows(found: Measured) -> Iterator[Row]:
    for (kind, server), values in found.items():
        words = (
            f"{'TCP stream' if kind == 'stream' else 'connections'}, {'one node' if server == NEAR else 'two nodes'}"
        )
        unit = "Gbit/CPU s" if kind == "stream" else "1/CPU s"
        # Targets: throughput 0.97 and connections 0.93 of no rules; connections 0.95 of eBPF; constant in the policies.
        wanted: list[tuple[str, str, Target | None]] = [
            (NO_RULES_SECOND_LAB, NO_RULES, None),
            (CONNTRACK, NO_RULES, None),
            (NO_POLICIES, NO_RULES, None),
            (EBPF, NO_RULES, None),
            (FEW, NO_RULES, at_least("ratio", 0.97 if kind == "stream" else 0.93)),
            (MANY, NO_RULES, at_least("ratio", 0.97 if kind == "stream" else 0.93)),
            (MANY, NO_POLICIES, None),
            (MANY, FEW, at_least("ratio", 0.97)),
            (MANY, EBPF, None if kind == "stream" else at_least("ratio", 0.95)),
        ]
        for lab, reference, target in wanted:
            # Without clang there is no lab with eBPF.
            if lab in values and reference in values:
                yield Row(
                    name=f"{words}: {lab}",
                    unit=unit,
                    values=values[lab],
                    reference=values[reference],
                    reference_name=reference,
                    paired=True,
                    better="higher",
                    targets=() if target is None else (target,),
                )
