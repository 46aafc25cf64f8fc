"""Cost of an event: from the bytes of a watch event to the kernel's commit, at three sizes of the cluster.

Every size runs in a process (`benchmarks.suites.event_latency_child`) and a network namespace of its own, so that
memory is that of one cluster. The references are measured there too, in the same run, on the same table.
"""

from __future__ import annotations

import subprocess
import sys
import uuid
from collections.abc import Iterator

import msgspec

from benchmarks.harness.child_process import ROOT
from benchmarks.registry import Run, bench
from benchmarks.results import Row, Target, at_most
from benchmarks.scaling_fit import Line, fit, plot
from benchmarks.suites.event_latency_child import Figures
from nfagent.errors import KernelError
from nfagent.lab.topology import netns

PLOT = ROOT / "docs" / "event-cost.svg"
QUICK_SIZES = (1_000, 15_000)
FULL_SIZES = (1_000, 15_000, 150_000)
LARGEST = 150_000
_SECONDS = 900.0


@bench("event-latency", "events, event storms, cold start and memory at growing sizes of the cluster")
def event_latency(run: Run) -> Iterator[Row]:
    """Measure each size, then how the figures grow with it."""
    found: dict[int, Figures] = {}
    for size in QUICK_SIZES if run.quick else FULL_SIZES:
        run.progress(f"{size:,} Pods")
        found[size] = _measure(size, run)
        yield from _rows(size, found[size])
    yield from _growth(run, found)


def _measure(size: int, run: Run) -> Figures:
    """Run a child in a namespace of its own. Raises KernelError with its message where it fails."""
    name = f"nfagent-bench-{uuid.uuid4().hex[:8]}"
    netns.make([name])
    try:
        command = [
            sys.executable,
            "-m",
            "benchmarks.suites.event_latency_child",
            str(size),
            str(run.seed),
            str(int(run.quick)),
        ]
        done = subprocess.run(  # noqa: S603 - our own module
            ["ip", "netns", "exec", name, *command],  # noqa: S607 - root's PATH
            cwd=ROOT,
            capture_output=True,
            check=False,
            timeout=_SECONDS,
        )
    finally:
        netns.remove([name])
    if done.returncode:
        raise KernelError(done.stderr.decode(errors="replace")[-2000:])
    return msgspec.json.decode(done.stdout, type=Figures)


def _rows(size: int, figures: Figures) -> Iterator[Row]:
    pods = f"{size:,} Pods"
    largest = size == LARGEST
    events: tuple[Target, ...] = (at_most("p50", 1), at_most("p99", 5)) if largest else ()
    yield Row(
        name=f"a Pod joins or leaves a peer set, {pods}",
        unit="ms",
        values=figures.event,
        reference=figures.event_by_libnftables,
        reference_name="by libnftables",
        targets=events,
        note=f"{figures.sets} sets, {figures.elements:,} elements in the table; decoding included",
    )
    yield Row(
        name=f"the same, reference full compile, {pods}",
        unit="ms",
        values=figures.event,
        reference=figures.event_by_full_compile,
        reference_name="full compile",
    )
    yield Row(
        name=f"commit of its element, {pods}",
        unit="ms",
        values=figures.commit,
        reference=figures.map_update or None,
        reference_name="eBPF map update",
    )
    yield Row(
        name=f"a policy that isolates {figures.isolated} local Pods, {pods}",
        unit="ms",
        values=figures.policy,
        targets=(at_most("p99", 20),) if largest else (),
    )
    yield Row(
        name=f"cold start, {pods}",
        unit="s",
        values=[figures.cold_start],
        reference=[figures.plain_decoding],
        reference_name="plain dict decoding",
        cpu_seconds=figures.cold_start_cpu,
        rss_mib=figures.peak_rss,
        targets=(at_most("max", 10), at_most("rss_mib", 350)) if largest else (),
        note="bytes through a pipe to ruleset committed; memory is the peak",
    )
    yield Row(
        name=f"memory after the cold start, {pods}",
        unit="MiB",
        values=[figures.steady_rss],
        targets=(at_most("max", 250),) if largest else (at_most("max", 100),),
        note=f"of these, {figures.bare_rss:.0f} MiB are the interpreter and its modules",
    )
    yield Row(
        name=f"CPU at 100 Pod events a second, {pods}",
        unit="% of a core",
        values=[figures.cpu_per_event * 100 * 100],
        targets=(at_most("max", 10),),
    )
    yield Row(
        name=f"wait for the commit in a storm of {figures.storm_events:,} events, {pods}",
        unit="ms",
        values=figures.storm_waits,
        targets=(at_most("max", 50),),
        note=f"{figures.storm_transactions} transactions",
    )
    yield Row(
        name=f"longest turn of the event loop in the storm, {pods}",
        unit="ms",
        values=[figures.longest_turn],
        targets=(at_most("max", 20),),
    )


def _growth(run: Run, found: dict[int, Figures]) -> Iterator[Row]:
    lines = [
        Line("event", {size: _median(figures.event) for size, figures in found.items()}),
        Line("policy", {size: _median(figures.policy) for size, figures in found.items()}),
        Line("full compile", {size: _median(figures.event_by_full_compile) for size, figures in found.items()}),
    ]
    for line in lines:
        growth = fit(line.points)
        yield Row(
            name=f"growth of the cost of '{line.name}' from {min(found):,} to {max(found):,} Pods",
            unit="times",
            values=[growth.ratio],
            targets=(at_most("max", 1.5),) if line.name == "event" else (),
            note=str(growth),
        )
    memory = fit({size: figures.steady_rss - figures.bare_rss for size, figures in found.items()})
    yield Row(name="growth of memory", unit="times", values=[memory.ratio], note=str(memory))
    if not run.quick:
        PLOT.parent.mkdir(exist_ok=True)
        plot(PLOT, "Cost of an event, bytes received to kernel commit", "ms", lines)


def _median(values: list[float]) -> float:
    ordered = sorted(values)
    return ordered[len(ordered) // 2]
