"""A node's rules in iptables and ipset, in a process and a network namespace of its own: as `commits_child`.

python -m benchmarks.suites.backends_child nftables|iptables dual|IPv4 PODS POLICIES SEED
"""

from __future__ import annotations

import asyncio
import itertools
import sys
from collections.abc import Iterable, Iterator

import msgspec

from benchmarks.data import events
from benchmarks.harness.child_process import say
from benchmarks.suites.commits_child import (
    CALLERS,
    LoadedTable,
    NodeTableOwner,
    Stream,
    callers,
    cpu_seconds,
    estrangements,
)
from nfagent.kernel.xt_client import XtClient
from nfagent.kernel.xt_features import open_xt_kernel
from nfagent.kernel.xt_programs import programs_of
from nfagent.lab.objects.synthetic import Size, synthetic
from nfagent.model.gvk import Item
from nfagent.model.netaddr import FAMILIES, Family, family_of
from nfagent.model.objects import Pod
from nfagent.system.gc_tuning import collect_and_freeze, relax_collection


class Restores(msgspec.Struct, frozen=True):
    """The CPU time of each restore, of all families together, in ms."""

    cpu: list[float]


class XtTableOwner(NodeTableOwner):
    """The desired state of a node, and the sets and chains that stand for it."""

    def __init__(self, items: Iterable[Item]) -> None:
        """Read a cluster's objects."""
        super().__init__(items)
        self.programs = programs_of("legacy")
        kernel, _features = open_xt_kernel(self.programs)
        self.kernel = XtClient(kernel, self.desired.ruleset)

    async def load(self) -> LoadedTable:
        """Write the rules."""
        ruleset = self.desired.ruleset()
        self.desired.mark_synced()
        await self.kernel.apply((*await self.kernel.difference(ruleset), *self.desired.recheck_all()))
        await self.clear_recheck()
        elements = sum(len(shape.elements) for shape in ruleset.sets.values())
        return LoadedTable(len(ruleset.chains), len(ruleset.sets), elements)

    def restores(self, families: tuple[Family, ...], count: int) -> Iterator[float]:
        """Yield the CPU time, in ms, of iptables-restore for a chain that comes and goes, beside the node's rules."""
        for _ in range(count):
            began = cpu_seconds()
            for family in families:
                self.programs.restore(family, "*mangle\n:nfa-alone - [0:0]\n-X nfa-alone\nCOMMIT\n")
            yield (cpu_seconds() - began) * 1e3


def _of_ipv4(pod: Pod) -> Pod:
    return msgspec.structs.replace(pod, addresses=tuple(one for one in pod.addresses if family_of(one) == 4))


async def _main(backend: str, families: str, size: Size, seed: int) -> None:
    relax_collection()
    cluster = synthetic(size, seed)
    if families == "IPv4":
        cluster.pods = list(map(_of_ipv4, cluster.pods))
    owner = (XtTableOwner if backend == "iptables" else NodeTableOwner)(cluster.items())
    remote = list(itertools.islice(callers(owner.desired, cluster), CALLERS))
    streams: dict[str, Stream] = {
        "one": lambda count: events.policies_of_one_pod(cluster, count),
        "policy": lambda count: events.isolations(cluster, count),
        "label": lambda count: estrangements(cluster, remote, count),
    }
    loaded = await owner.load()
    collect_and_freeze()
    say(loaded)
    for line in sys.stdin.buffer:
        request = msgspec.json.decode(line)
        if request["do"] == "restores" and isinstance(owner, XtTableOwner):
            say(Restores(list(owner.restores((4,) if families == "IPv4" else FAMILIES, request["count"]))))
            continue
        say(await owner.costs(streams[request["stream"]](request["count"])))
    owner.kernel.close()


if __name__ == "__main__":
    asyncio.run(_main(sys.argv[1], sys.argv[2], Size(int(sys.argv[3]), int(sys.argv[4]), 250, 100), int(sys.argv[5])))
