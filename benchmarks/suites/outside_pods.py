"""Pods outside every Node's range: cost of an event, a full plan, and memory, where none or all are outside.

Each case runs in a process of its own: memory is that of one cluster.
"""

from __future__ import annotations

import gc
import itertools
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from typing import Literal

import msgspec

from benchmarks.harness.child_process import ROOT
from benchmarks.harness.process_usage import rss_mib
from benchmarks.registry import Run, bench
from benchmarks.results import Row, Target, at_most
from nfagent.desired.state import DesiredState
from nfagent.errors import KernelError
from nfagent.lab.objects.synthetic import SIZES, Synthetic, synthetic

Case = Literal["none", "all"]
_SECONDS = 600.0
_EVENTS = 500


class Figures(msgspec.Struct, frozen=True):
    """Milliseconds of CPU: events, a full plan and its longest step, a Node's deletion; MiB for Pods outside."""

    events: list[float]
    plan: float
    longest: float
    node: float
    node_longest: float
    memory: float


@bench("outside-pods", "Pods of other nodes outside every Node's range: an event, a full plan, memory")
def outside(run: Run) -> Iterator[Row]:
    """Measure both cases at the largest size of the cluster."""
    size = 15_000 if run.quick else 150_000
    cases: tuple[Case, Case] = ("none", "all")
    for case in cases:
        run.progress(f"{case} of {size:,} Pods")
        yield from _rows(f"{case} of {size:,} Pods outside", _measured(size, run.seed, case))


def _measured(size: int, seed: int, case: Case) -> Figures:
    command = [sys.executable, "-m", "benchmarks.suites.outside_pods", str(size), str(seed), case]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, check=False, timeout=_SECONDS)  # noqa: S603 - ours
    if done.returncode:
        raise KernelError(done.stderr.decode(errors="replace")[-2000:])
    return msgspec.json.decode(done.stdout, type=Figures)


def _rows(case: str, found: Figures) -> Iterator[Row]:
    turn: tuple[Target, ...] = (at_most("max", 20),)
    yield Row(name=f"a Pod's address changes, {case}", unit="ms", values=found.events, targets=(at_most("p50", 1),))
    yield Row(
        name=f"longest step of a full plan, {case}",
        unit="ms",
        values=[found.longest],
        targets=turn,
        note=f"{found.plan:.0f} ms of CPU in all; {found.memory:.0f} MiB more than before",
    )
    yield Row(
        name=f"longest step after a Node's deletion, {case}",
        unit="ms",
        values=[found.node_longest],
        targets=turn,
        note=f"{found.node:.0f} ms of CPU in all",
    )


def measure(cluster: Synthetic, case: Case) -> Figures:
    """Measure one case in this process."""
    nodes = cluster.nodes
    if case == "all":
        nodes = [msgspec.structs.replace(node, pod_cidrs=()) for node in nodes]
    desired = DesiredState(cluster.node)
    for group in (cluster.namespaces, nodes, cluster.pods):
        for item in group:
            desired.put(item)
    gc.collect()
    gc.freeze()
    before = rss_mib()
    plan, longest = _steps(desired)
    desired.drain_changes()
    memory = rss_mib() - before
    desired.remove(nodes[-1].ref)
    node, node_longest = _steps(desired)
    desired.drain_changes()
    events = [_timed(_changing(desired, cluster, number)) for number in range(_EVENTS)]
    return Figures(events, plan, longest, node, node_longest, memory)


def _steps(desired: DesiredState) -> tuple[float, float]:
    """Process all pending changes; return the CPU time of all steps, and of the longest, in ms."""
    moments = [time.thread_time()]
    moments += [time.thread_time() for _ in desired.prepare()]
    moments.append(time.thread_time())
    steps = [after - before for before, after in itertools.pairwise(moments)]
    return sum(steps) * 1e3, max(steps) * 1e3


def _changing(desired: DesiredState, cluster: Synthetic, number: int) -> Callable[[], None]:
    pod = cluster.pods[-1 - number]
    changed = msgspec.structs.replace(pod, addresses=(f"11.0.{number >> 8}.{number & 255}",))

    def work() -> None:
        desired.put(changed)
        desired.drain_changes()

    return work


def _timed(work: Callable[[], None]) -> float:
    began = time.thread_time()
    work()
    return (time.thread_time() - began) * 1e3


if __name__ == "__main__":
    drawn = synthetic(SIZES[int(sys.argv[1])], int(sys.argv[2]))
    sys.stdout.buffer.write(msgspec.json.encode(measure(drawn, "all" if sys.argv[3] == "all" else "none")))
