"""What it costs a connection that its verdicts are counted by Pod: the same rules with these counters and without.

Each verdict chain ends in a chain that looks the Pod up in a set whose elements count. Without counting, this chain
applies the verdict at once. A second lab without counting shows by how much two equal labs differ. Labs are measured in
turns, in another order each round, and compared round by round.
"""

from __future__ import annotations

import functools
import itertools
import random
from collections.abc import Iterator
from contextlib import ExitStack

import msgspec

from benchmarks.harness.packet_labs import FAR, NEAR, NODES, PacketLab, Server, load, plan_topology, ruleset_of
from benchmarks.registry import Run, bench
from benchmarks.results import Row, at_least
from nfagent.lab.latency.traffic_rates import Client, Traffic
from nfagent.lab.objects.synthetic import Size, node_name, synthetic
from nfagent.lab.topology import netns
from nfagent.nftables.objects import Ruleset
from nfagent.nftables.pod_counts import count_chains

_COUNTED, _UNCOUNTED, _UNCOUNTED_SECOND_LAB = "counted", "not counted", "not counted (second lab)"
_LABS = (_COUNTED, _UNCOUNTED, _UNCOUNTED_SECOND_LAB)
_ROUNDS, _QUICK_ROUNDS = 300, 40
_SECONDS = 0.012
_LEAST = 0.97


@bench("counting", "short connections with verdicts counted by Pod, beside the same rules that count none")
def counting(run: Run) -> Iterator[Row]:
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
        for node in NODES:
            ruleset = ruleset_of(cluster, topology, node)
            wanted = ruleset if name == _COUNTED else uncounted(ruleset)
            netns.inside(topology.node_namespace(node_name(node)), functools.partial(load, wanted))
        yield PacketLab(name, topology)


def uncounted(ruleset: Ruleset) -> Ruleset:
    """Return the rules with chains that apply the verdict without looking the Pod up."""
    chains = dict(ruleset.chains)
    for name, chain in count_chains():
        chains[name] = msgspec.structs.replace(chain, rules=chain.rules[-1:])
    return msgspec.structs.replace(ruleset, chains=chains)


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
    for name in (_UNCOUNTED_SECOND_LAB, _COUNTED):
        yield Row(
            name=f"connections, {'one node' if server == NEAR else 'two nodes'}: {name}",
            unit="1/CPU s",
            values=found[name],
            reference=found[_UNCOUNTED],
            reference_name=_UNCOUNTED,
            paired=True,
            better="higher",
            targets=(at_least("ratio", _LEAST),) if name == _COUNTED else (),
        )
