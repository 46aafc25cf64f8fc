"""What it costs a connection that unknown Pods are held: the same rules with the look-ups of its ends and without.

Both ends are Pods. On one node both are in its ranges: a new connection pays two look-ups there, and one on each node
between two nodes.
"""

from __future__ import annotations

import functools
from collections.abc import Iterator
from contextlib import ExitStack

from benchmarks.harness.connection_turns import Compared, compare
from benchmarks.harness.packet_labs import NODES, PacketLab, load, plan_topology, ruleset_of
from benchmarks.registry import Run, bench
from benchmarks.results import Row
from nfagent.lab.objects.synthetic import Size, node_name, synthetic
from nfagent.lab.topology import netns
from nfagent.policy.options import PolicyOptions

_COMPARED = Compared(judged="held", reference="passed", second="passed (second lab)", least=0.97)


@bench("unknown-pods", "short connections where packets of unknown Pods are held, beside the same rules without it")
def unknown_pods(run: Run) -> Iterator[Row]:
    """Measure the labs in turns."""
    with ExitStack() as stack:
        yield from compare(run, stack, _labs(stack, run.seed), _COMPARED)


def _labs(stack: ExitStack, seed: int) -> Iterator[PacketLab]:
    cluster = synthetic(Size(100, 4, 20, 0), seed)
    for number, name in enumerate(_COMPARED.labs):
        topology = stack.enter_context(plan_topology(number))
        options = PolicyOptions(unknown_pods="held" if name == _COMPARED.judged else "passed")
        for node in NODES:
            ruleset = ruleset_of(cluster, topology, node, policy_options=options)
            netns.inside(topology.node_namespace(node_name(node)), functools.partial(load, ruleset))
        yield PacketLab(name, topology)
