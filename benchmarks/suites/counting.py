"""What it costs a connection that its verdicts are counted by Pod: the same rules with these counters and without.

Each verdict chain ends in a chain that looks the Pod up in a set whose elements count. Without counting, this chain
applies the verdict at once.
"""

from __future__ import annotations

import functools
from collections.abc import Iterator
from contextlib import ExitStack

import msgspec

from benchmarks.harness.connection_turns import Compared, compare
from benchmarks.harness.packet_labs import NODES, PacketLab, load, plan_topology, ruleset_of
from benchmarks.registry import Run, bench
from benchmarks.results import Row
from nfagent.lab.objects.synthetic import Size, node_name, synthetic
from nfagent.lab.topology import netns
from nfagent.nftables.objects import Ruleset
from nfagent.nftables.pod_counts import count_chains

_COMPARED = Compared(judged="counted", reference="not counted", second="not counted (second lab)", least=0.97)


@bench("counting", "short connections with verdicts counted by Pod, beside the same rules that count none")
def counting(run: Run) -> Iterator[Row]:
    """Measure the labs in turns."""
    with ExitStack() as stack:
        yield from compare(run, stack, _labs(stack, run.seed), _COMPARED)


def _labs(stack: ExitStack, seed: int) -> Iterator[PacketLab]:
    cluster = synthetic(Size(100, 4, 20, 0), seed)
    for number, name in enumerate(_COMPARED.labs):
        topology = stack.enter_context(plan_topology(number))
        for node in NODES:
            ruleset = ruleset_of(cluster, topology, node)
            wanted = ruleset if name == _COMPARED.judged else uncounted(ruleset)
            netns.inside(topology.node_namespace(node_name(node)), functools.partial(load, wanted))
        yield PacketLab(name, topology)


def uncounted(ruleset: Ruleset) -> Ruleset:
    """Return the rules with chains that apply the verdict without looking the Pod up."""
    chains = dict(ruleset.chains)
    for name, chain in count_chains():
        chains[name] = msgspec.structs.replace(chain, rules=chain.rules[-1:])
    return msgspec.structs.replace(ruleset, chains=chains)
