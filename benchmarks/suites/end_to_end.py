"""Time from a change to the first packet with the new verdict: through a real API server, and by a manifest folder.

    python -m benchmarks.suites.end_to_end [--quick] [--json FILE]     the whole table, with p95

Both sources are measured in turns, change by change, in paired labs, in a small cluster and in one of 5,000 Pods and
1,000 policies. A packet is sent every 0.2 ms on a connection that conntrack considers new, and on an established one.
Time counts from sending the request, over a TLS connection that is kept, or from renaming the file.
"""

from __future__ import annotations

import gc
import os
import statistics
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path

import click
import msgspec

from benchmarks import report
from benchmarks.harness.paired_labs import CYCLE, ChangeKind, PairedLab, Scenario, large, paired_labs, small
from benchmarks.harness.process_usage import rss_mib
from benchmarks.registry import Run, bench
from benchmarks.results import Row, at_most, percentile
from benchmarks.suites.idle import SIZE
from nfagent.lab.demo.output import DemoOutput
from nfagent.lab.latency.prober import INTERVAL_US
from nfagent.lab.latency.process_cpu import cpu_seconds

API, FOLDER = "API server", "folder"
_REST_SECONDS = 60.0

_REVOKING_SECONDS = 1.3
"""Between two changes of a lab that block: an agent checks connections again only after a pause."""

_QUIET_SECONDS = 0.06
_QUIET_CPU_SECONDS = 0.0005
_QUIET_TIMEOUT = 3.0
_LOOK_SECONDS = 0.01
_MS = 1e3


class Felix(msgspec.Struct, frozen=True):
    """Figures of Calico Felix (nftables mode), measured in another run on another machine of the same size.

    p50:  ms from an API write to the first packet with the new verdict, lowest and highest
    cpu:  ms per event
    """

    p50: tuple[float, float]
    cpu: float


FELIX_SMALL = Felix((31.0, 31.0), 12.0)
FELIX_LARGE = Felix((35.0, 58.0), 107.0)
_FELIX_FRACTION = 3
"""Target: a third of Felix' lower figure."""
_ELSEWHERE = "the figures of Calico Felix (nftables mode), measured in another run"


class Measurement(msgspec.Struct, frozen=True):
    """One change in one lab. Times are in ms.

    fresh, live: from the change to the first packet with the new verdict, of a new and of an established connection
    answer:      from the change to the API server's response; None for the folder
    gap:         accuracy of `fresh`
    cpu:         CPU time of the agent, until it was idle
    """

    change: ChangeKind
    source: str
    fresh: float
    live: float
    answer: float | None
    gap: float
    cpu: float


class IdleUsage(msgspec.Struct, frozen=True):
    """An agent after all measurements: MiB resident, percent of a core while idle, over how many seconds."""

    rss: float
    rest: float
    seconds: float


class ScenarioResult(msgspec.Struct, frozen=True):
    """One cluster's measurements. load: mean run queue of the last minute, before and after."""

    scenario: str
    felix: Felix
    measurements: tuple[Measurement, ...]
    idle: dict[str, IdleUsage]
    load: tuple[float, float]

    def of(self, change: ChangeKind, source: str) -> list[Measurement]:
        """Return the measurements of one change by one source, in their order."""
        return [one for one in self.measurements if (one.change, one.source) == (change, source)]


def results(*, quick: bool, seed: int, progress: Callable[[str], None]) -> Iterator[ScenarioResult]:
    """Measure the small cluster, then, unless quick, the large one. Raises HostError, KernelError."""
    rounds, seconds = (10, 3.0) if quick else (100, _REST_SECONDS)
    scenarios = [(small(), FELIX_SMALL), *([] if quick else [(large(SIZE, seed), FELIX_LARGE)])]
    for scenario, felix in scenarios:
        with tempfile.TemporaryDirectory(prefix="nfagent-latency-") as folder:
            progress(f"{scenario.name}: labs")
            before = os.getloadavg()[0]
            with paired_labs(scenario, Path(folder)) as pair:
                for lab in pair:
                    wait_until_idle(lab.pid)
                measurements = tuple(measured(pair, scenario, rounds, progress))
                progress(f"{scenario.name}: idle")
                idle = _idle_usage(pair, seconds)
            yield ScenarioResult(
                scenario.name, felix, measurements, idle, (round(before, 2), round(os.getloadavg()[0], 2))
            )


def measured(
    pair: tuple[PairedLab, PairedLab], scenario: Scenario, rounds: int, progress: Callable[[str], None]
) -> Iterator[Measurement]:
    """Yield the measurements of all changes in both labs, round by round, the labs in turns."""
    blocked_at = dict.fromkeys(pair, 0.0)
    # One more round, to warm up.
    for turn in range(rounds + 1):
        progress(f"{scenario.name}: round {turn} of {rounds}")
        gc.collect()
        for change, blocked in CYCLE:
            for lab in pair if turn % 2 else pair[::-1]:
                if blocked:
                    # Else it would check connections during the next change, and that one's CPU time would include it.
                    time.sleep(max(0.0, blocked_at[lab] + _REVOKING_SECONDS - time.monotonic()))
                found = _measure(lab, change, blocked=blocked)
                if blocked:
                    blocked_at[lab] = time.monotonic()
                if turn:
                    yield found


def _measure(lab: PairedLab, change: ChangeKind, *, blocked: bool) -> Measurement:
    before = cpu_seconds(lab.pid)
    lab.prober.watch(blocked=blocked)
    written = lab.writer.make(change)
    first = lab.prober.first()
    return Measurement(
        change=change,
        source=lab.name,
        fresh=(first.fresh - written.at) * _MS,
        live=(first.live - written.at) * _MS,
        answer=None if written.answered is None else (written.answered - written.at) * _MS,
        gap=first.gap * _MS,
        cpu=(wait_until_idle(lab.pid) - before) * _MS,
    )


def _idle_usage(pair: tuple[PairedLab, PairedLab], seconds: float) -> dict[str, IdleUsage]:
    before, began = {lab: wait_until_idle(lab.pid) for lab in pair}, time.monotonic()
    time.sleep(seconds)
    took = time.monotonic() - began
    return {
        lab.name: IdleUsage(rss_mib(lab.pid), (cpu_seconds(lab.pid) - before[lab]) / took * 100, took) for lab in pair
    }


def wait_until_idle(pid: int) -> float:
    """Wait until a process is idle, or for a limited time; return the CPU seconds that it has used by then."""
    end, since, used = time.monotonic() + _QUIET_TIMEOUT, time.monotonic(), cpu_seconds(pid)
    while (now := time.monotonic()) < end and now - since < _QUIET_SECONDS:
        time.sleep(_LOOK_SECONDS)
        found = cpu_seconds(pid)
        if found - used > _QUIET_CPU_SECONDS:
            since, used = now, found
    return cpu_seconds(pid)


def table(found: Iterable[ScenarioResult]) -> list[list[str]]:
    """Return a line for each cluster, change and source; the first line is the header.

    Ratios are the medians of the pairs' ratios, API server by folder. Figures of Felix are marked.
    """
    header = ["cluster", "change", "source", "p50 ms", "p95 ms", "worst", "established p50", "p95"]
    header += ["after response p50", "p95", "CPU ms p50", "mean", "ratio"]
    lines = [header]
    for result in found:
        for change, _blocked in CYCLE:
            both = result.of(change, API), result.of(change, FOLDER)
            lines += [[result.scenario, change, *_line(measurements)] for measurements in both]
            lines[-2].append(report.number(statistics.median(_ratios(*both))))
        low, high = result.felix.p50
        p50 = f"{low:g}" if low == high else f"{low:g} to {high:g}"
        lines.append([result.scenario, "any", "Felix, other run", p50, *[""] * 6, f"{result.felix.cpu:g}", ""])
    return lines


def _line(measurements: Sequence[Measurement]) -> list[str]:
    fresh, live, cpu = ([getattr(one, field) for one in measurements] for field in ("fresh", "live", "cpu"))
    after = [one.fresh - one.answer for one in measurements if one.answer is not None]
    blocks = dict(CYCLE)[measurements[0].change]
    figures = [*_percentiles(fresh), max(fresh), *(_percentiles(live) if blocks else ("", ""))]
    figures += [*(_percentiles(after) if after else ("", "")), statistics.median(cpu), statistics.fmean(cpu)]
    return [measurements[0].source, *(one if isinstance(one, str) else report.number(one) for one in figures)]


def _percentiles(values: Sequence[float]) -> tuple[float, float]:
    return statistics.median(values), percentile(values, 0.95)


def _ratios(ours: Sequence[Measurement], others: Sequence[Measurement]) -> list[float]:
    return [one.fresh / other.fresh for one, other in zip(ours, others, strict=True)]


@bench("end-to-end", "time from a change to the first packet with the new verdict, by API server and by folder")
def end_to_end(run: Run) -> Iterator[Row]:
    """Make each change 100 times in each lab, 10 in a quick run."""
    for result in results(quick=run.quick, seed=run.seed, progress=run.progress):
        yield from rows(result)


def rows(result: ScenarioResult) -> Iterator[Row]:
    """Yield a cluster's rows, the API server's with the folder's as reference."""
    for change, blocked in CYCLE:
        ours, others = result.of(change, API), result.of(change, FOLDER)
        p95 = (percentile([one.fresh for one in measurements], 0.95) for measurements in (ours, others))
        yield Row(
            name=f"{result.scenario}, {change}: API write to packet",
            unit="ms",
            values=[one.fresh for one in ours],
            reference=[one.fresh for one in others],
            reference_name="folder",
            paired=True,
            targets=(at_most("p50", round(result.felix.p50[0] / _FELIX_FRACTION, 1)),),
            note="p95 {} ms, by the folder {} ms".format(*map(report.number, p95)),
        )
        if blocked:
            yield Row(
                name=f"{result.scenario}, {change}: API write to an established connection's last packet",
                unit="ms",
                values=[one.live for one in ours],
                reference=[one.live for one in others],
                reference_name="folder",
                paired=True,
            )
    yield Row(
        name=f"{result.scenario}: API server's response to packet",
        unit="ms",
        values=[one.fresh - one.answer for one in result.measurements if one.answer is not None],
        note=f"negative: before the response; a packet every {INTERVAL_US / 1e3:g} ms; load {result.load}",
    )
    for blocks, words in ((True, "blocks"), (False, "allows")):
        changes = [change for change, blocked in CYCLE if blocked == blocks]
        yield Row(
            name=f"{result.scenario}: agent's CPU for a change that {words}",
            unit="ms",
            values=[one.cpu for change in changes for one in result.of(change, API)],
            reference=[one.cpu for change in changes for one in result.of(change, FOLDER)],
            reference_name="folder",
            targets=(at_most("p50", round(result.felix.cpu / _FELIX_FRACTION, 1)),),
            note=f"targets in ms are a third of {_ELSEWHERE}",
        )
    api, folder = result.idle[API], result.idle[FOLDER]
    yield Row(
        name=f"{result.scenario}: agent's memory, API server as source",
        unit="MiB",
        values=[api.rss],
        reference=[folder.rss],
        reference_name="folder",
        targets=(at_most("max", 100),),
    )
    yield Row(
        name=f"{result.scenario}: idle agent's CPU, API server as source",
        unit="% of a core",
        values=[api.rest],
        reference=[folder.rest],
        reference_name="folder",
        targets=(at_most("max", 0.5),),
        note=f"over {api.seconds:.0f} s with live watches",
    )


@click.command()
@click.option("--quick", is_flag=True, help="10 measurements instead of 100, and the small cluster only.")
@click.option("--json", "json_path", type=click.Path(dir_okay=False, path_type=Path), help="Write measurements to it.")
@click.option("--seed", default=20_240, show_default=True, help="Seed of the large cluster.")
def main(*, quick: bool, json_path: Path | None, seed: int) -> None:
    """Measure the time from a change to the first packet with the new verdict (as root).

    \b
    Example:
      python -m benchmarks.suites.end_to_end --quick --json latency.json
    """  # noqa: D301 - \b is click's mark for lines that stay as they are
    stage = DemoOutput()
    stage.title("Time from a change to the first packet with the new verdict")
    found = []
    for result in results(quick=quick, seed=seed, progress=stage.progress):
        stage.progress("")
        found.append(result)
        if json_path is not None:
            json_path.write_bytes(msgspec.json.format(msgspec.json.encode(found), indent=1) + b"\n")
    header, *lines = table(found)
    stage.table(header, lines)
    for result in found:
        for source, one in result.idle.items():
            stage.text(
                f"{result.scenario}, {source}: {one.rss:.0f} MiB, {one.rest:.2f} % of a core over {one.seconds:.0f} s"
            )
        gaps = [one.gap for one in result.measurements]
        accuracy = f"{statistics.median(gaps):.2f} ms, at worst {max(gaps):.2f} ms"
        stage.text(f"{result.scenario}: load {result.load[0]} to {result.load[1]}; accuracy {accuracy}")
    stage.text(f"Felix: {_ELSEWHERE}; 127 to 153 MiB at 5,000 Pods, 1.5 to 2 % of a core when idle")


if __name__ == "__main__":
    main()
