"""What it costs a connection that unknown Pods are held: the same rules with the look-ups of its ends and without.

Both ends are Pods. On one node both are in its ranges: a new connection pays two look-ups there, and one on each node
between two nodes. A second lab without them shows by how much two equal labs differ. Labs are measured in turns, in
another order each round, and compared round by round.
"""

from __future__ import annotations

import functools
import itertools
import random
from collections.abc import Iterator
from contextlib import ExitStack

from benchmarks.harness.packet_labs import FAR, NEAR, NODES, PacketLab, Server, load, plan_topology, ruleset_of
from benchmarks.registry import Run, bench
from benchmarks.results import Row, at_least
from nfagent.lab.latency.traffic_rates import Client, Traffic
from nfagent.lab.objects.synthetic import Size, node_name, synthetic
from nfagent.lab.topology import netns
from nfagent.policy.options import PolicyOptions

_HELD, _PASSED, _PASSED_SECOND_LAB = "held", "passed", "passed (second lab)"
_LABS = (_HELD, _PASSED, _PASSED_SECOND_LAB)
_ROUNDS, _QUICK_ROUNDS = 300, 40
_SECONDS = 0.012
_LEAST = 0.97


@bench("unknown-pods", "short connections where packets of unknown Pods are held, beside the same rules without it")
def unknown_pods(run: Run) -> Iterator[Row]:
    """Measure the labs in turns."""
    with ExitStack() as stack:
        traffic = stack.enter_context(Traffic())
        run.progress("labs")
        labs = list(_labs(stack, run.seed))
        for server in (NEAR, FAR):
            clients = {lab.name: lab.client(stack, traffic, server) for lab in labs}
            yield from _rows(_measured(run, clients), server)


def _labs(stack: ExitStack, seed: int) -> Iterator[PacketLab]:
    cluster = synthetic(Size(100, 4, 20, 0), seed)
    for number, name in zip(itertools.count(), _LABS, strict=False):
        topology = stack.enter_context(plan_topology(number))
        options = PolicyOptions(unknown_pods="held" if name == _HELD else "passed")
        for node in NODES:
            ruleset = ruleset_of(cluster, topology, node, policy_options=options)
            netns.inside(topology.node_namespace(node_name(node)), functools.partial(load, ruleset))
        yield PacketLab(name, topology)


def _measured(run: Run, clients: dict[str, Client]) -> dict[str, list[float]]:
    order = random.Random(run.seed)  # noqa: S311 - an order of measurements
    found: dict[str, list[float]] = {name: [] for name in clients}
    rounds = _QUICK_ROUNDS if run.quick else _ROUNDS
    for turn in range(rounds + 1):
        run.progress(f"round {turn} of {rounds}")
        for name in order.sample(_LABS, len(_LABS)):
            value = clients[name].connections(_SECONDS)
            # The first round warms up.
            if turn:
                found[name].append(value)
    return found


def _rows(found: dict[str, list[float]], server: Server) -> Iterator[Row]:
    for name in (_PASSED_SECOND_LAB, _HELD):
        yield Row(
            name=f"connections, {'one node' if server == NEAR else 'two nodes'}: {name}",
            unit="1/CPU s",
            values=found[name],
            reference=found[_PASSED],
            reference_name=_PASSED,
            paired=True,
            better="higher",
            targets=(at_least("ratio", _LEAST),) if name == _HELD else (),
        )
