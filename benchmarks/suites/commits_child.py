"""A node's table in a process and a network namespace of its own: commits events, and says what each one cost.

    python -m benchmarks.suites.commits_child pods 150000 SEED    the local node of a synthetic cluster
    python -m benchmarks.suites.commits_child chains 700 SEED     a table of so many chains, and as many sets

Events are decoded from the bytes of a watch and committed as the agent's reconciler commits them. Only what this
version of nfagent has in common with earlier ones is used here: the suite runs this module with both.
"""

from __future__ import annotations

import asyncio
import gc
import itertools
import resource
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

import msgspec

from benchmarks.data import events
from benchmarks.data.events import Event
from benchmarks.data.node_tables import node_table
from benchmarks.harness.child_process import say
from nfagent.decode.registry import DECODERS
from nfagent.desired.state import DesiredState
from nfagent.kernel.nft_client import NftClient
from nfagent.lab.objects.documents import document
from nfagent.lab.objects.synthetic import NODE, SIZES, Synthetic, synthetic
from nfagent.model.gvk import Item
from nfagent.model.objects import Pod
from nfagent.nftables.diff import diff
from nfagent.nftables.objects import ABSENT
from nfagent.system.gc_tuning import collect_and_freeze, relax_collection

Stream = Callable[[int], Iterator[Event]]
CALLERS = 50


class LoadedTable(msgspec.Struct, frozen=True):
    """The table after the cold start: numbers of its objects."""

    chains: int
    sets: int
    elements: int


class EventCosts(msgspec.Struct, frozen=True):
    """The cost of each event, in ms.

    took:         from its bytes to the commit
    commit:       the commit only
    cpu:          CPU time of the process, its threads included, and of programs that it ran
    user, system: CPU time of all events together, of which the kernel's share is `system`
    """

    took: list[float]
    commit: list[float]
    cpu: list[float]
    user: float
    system: float


class NodeTableOwner:
    """The desired state of a node, and the kernel's table that equals it."""

    def __init__(self, items: Iterable[Item]) -> None:
        """Read a cluster's objects."""
        self.desired = DesiredState(NODE)
        for item in items:
            self.desired.put(item)
        self.kernel: Any = NftClient()  # or another client of the same methods

    async def load(self) -> LoadedTable:
        """Write the table."""
        ruleset = self.desired.ruleset()
        self.desired.mark_synced()
        await self.kernel.apply((*diff(ABSENT, ruleset), *self.desired.recheck_all()))
        await self.clear_recheck()
        elements = sum(len(shape.elements) for shape in ruleset.sets.values())
        return LoadedTable(len(ruleset.chains), len(ruleset.sets), elements)

    async def costs(self, stream: Iterable[Event]) -> EventCosts:
        """Commit events one by one; between two of them, untimed, the re-check sets are cleared as the agent does."""
        encoded = [(event.ref, b"" if event.item is None else _encoded(event.item)) for event in stream]
        found: list[tuple[float, float, float]] = []
        user, system = 0.0, 0.0
        gc.collect()
        for ref, line in encoded:
            usage, cpu, began = resource.getrusage(resource.RUSAGE_SELF), cpu_seconds(), time.perf_counter()
            item = _decoded(line) if line else None
            if item is None:
                self.desired.remove(ref)
            else:
                self.desired.put(item)
            transaction = self.desired.drain_changes()
            computed = time.perf_counter()
            await self.kernel.apply(transaction)
            ended, used = time.perf_counter(), cpu_seconds() - cpu
            after = resource.getrusage(resource.RUSAGE_SELF)
            found.append(((ended - began) * 1e3, (ended - computed) * 1e3, used * 1e3))
            user, system = user + after.ru_utime - usage.ru_utime, system + after.ru_stime - usage.ru_stime
            await self.clear_recheck()
        took, commit, used_cpu = zip(*found, strict=True)
        return EventCosts(list(took), list(commit), list(used_cpu), user * 1e3, system * 1e3)

    async def clear_recheck(self) -> None:
        """Clear the re-check sets."""
        self.desired.clear_recheck(self.desired.recheck_addresses)
        transaction = self.desired.drain_changes()
        if transaction:
            await self.kernel.apply(transaction)


def cpu_seconds() -> float:
    """Return the CPU time of this process, and of its children that have ended."""
    ended = resource.getrusage(resource.RUSAGE_CHILDREN)
    return time.process_time() + ended.ru_utime + ended.ru_stime


def _encoded(item: Item) -> bytes:
    return msgspec.json.encode(document(item))


def _decoded(line: bytes) -> Item | None:
    read: dict[str, Any] = msgspec.json.decode(line)
    return DECODERS[read["apiVersion"], read["kind"]](read)


def _opened(kind: str, size: int, seed: int) -> tuple[NodeTableOwner, dict[str, Stream]]:
    """Return a node's table, and its streams of events by name."""
    if kind == "chains":
        table = node_table(size)
        return NodeTableOwner(table.items), {"policy": table.changes}
    cluster = synthetic(SIZES[size], seed)
    owner = NodeTableOwner(cluster.items())
    remote = list(itertools.islice(callers(owner.desired, cluster), CALLERS))
    streams: dict[str, Stream] = {
        "policy": lambda count: events.isolations(cluster, count),
        "Pod": lambda count: events.peer_churn(cluster, count),
        "label": lambda count: estrangements(cluster, remote, count),
    }
    return owner, streams


def callers(desired: DesiredState, cluster: Synthetic) -> Iterator[Pod]:
    """Yield Pods on other nodes that local Pods allow by their labels: without these, connections must end."""
    desired.ruleset()
    desired.mark_synced()
    for pod in events.remote_peers(cluster):
        desired.put(_stranger(pod))
        desired.drain_changes()
        blocks = bool(desired.recheck_addresses)
        desired.put(pod)
        desired.drain_changes()
        desired.clear_recheck(desired.recheck_addresses)
        desired.drain_changes()
        if blocks:
            yield pod


def estrangements(cluster: Synthetic, pods: Sequence[Pod], count: int) -> Iterator[Event]:
    """Yield events in which one of some callers loses its labels, and gets them back."""
    for _pair in range((count + 1) // 2):
        pod = cluster.rng.choice(pods)
        yield events.put(_stranger(pod))
        yield events.put(pod)


def _stranger(pod: Pod) -> Pod:
    return msgspec.structs.replace(pod, labels=(("app", "stranger"),))


async def _main(kind: str, size: int, seed: int) -> None:
    relax_collection()
    owner, streams = _opened(kind, size, seed)
    loaded = await owner.load()
    collect_and_freeze()
    say(loaded)
    for line in sys.stdin.buffer:
        request = msgspec.json.decode(line)
        say(await owner.costs(streams[request["stream"]](request["count"])))
    owner.kernel.close()


if __name__ == "__main__":
    asyncio.run(_main(sys.argv[1], int(sys.argv[2]), int(sys.argv[3])))
