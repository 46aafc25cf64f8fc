"""A node's rules in iptables and ipset, in a process and a network namespace of its own: as `commits_child`.

python -m benchmarks.suites.backends_child nftables|iptables PODS POLICIES SEED
"""

from __future__ import annotations

import asyncio
import itertools
import sys
from collections.abc import Iterable

import msgspec

from benchmarks.data import events
from benchmarks.harness.child_process import say
from benchmarks.suites.commits_child import CALLERS, LoadedTable, NodeTableOwner, Stream, callers, estrangements
from nfagent.kernel.xt_client import XtClient
from nfagent.kernel.xt_features import open_xt_kernel
from nfagent.kernel.xt_programs import programs_of
from nfagent.lab.objects.synthetic import Size, synthetic
from nfagent.model.gvk import Item
from nfagent.system.gc_tuning import collect_and_freeze, relax_collection


class XtTableOwner(NodeTableOwner):
    """The desired state of a node, and the sets and chains that stand for it."""

    def __init__(self, items: Iterable[Item]) -> None:
        """Read a cluster's objects."""
        super().__init__(items)
        kernel, _features = open_xt_kernel(programs_of("legacy"))
        self.kernel = XtClient(kernel, self.desired.ruleset)

    async def load(self) -> LoadedTable:
        """Write the rules."""
        ruleset = self.desired.ruleset()
        self.desired.mark_synced()
        await self.kernel.apply((*await self.kernel.difference(ruleset), *self.desired.recheck_all()))
        await self.clear_recheck()
        elements = sum(len(shape.elements) for shape in ruleset.sets.values())
        return LoadedTable(len(ruleset.chains), len(ruleset.sets), elements)


async def _main(backend: str, pods: int, policies: int, seed: int) -> None:
    relax_collection()
    cluster = synthetic(Size(pods, policies, 250, 100), seed)
    owner = (XtTableOwner if backend == "iptables" else NodeTableOwner)(cluster.items())
    remote = list(itertools.islice(callers(owner.desired, cluster), CALLERS))
    streams: dict[str, Stream] = {
        "policy": lambda count: events.isolations(cluster, count),
        "label": lambda count: estrangements(cluster, remote, count),
    }
    loaded = await owner.load()
    collect_and_freeze()
    say(loaded)
    for line in sys.stdin.buffer:
        request = msgspec.json.decode(line)
        say(await owner.costs(streams[request["stream"]](request["count"])))
    owner.kernel.close()


if __name__ == "__main__":
    asyncio.run(_main(sys.argv[1], *map(int, sys.argv[2:5])))
