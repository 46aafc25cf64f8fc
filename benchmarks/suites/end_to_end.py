"""From a change to the first packet with the new verdict: through a real API server, beside a folder of manifests.

    python -m benchmarks.suites.end_to_end [--quick] [--json FILE]     the whole table, with p95; the rows are part of
    all others

Both ways are measured in turns, change by change, in twin labs (`twins`), in a small cluster and in one of 5,000 Pods
and 1,000 policies. A packet is sent every 0.2 ms of a connection that conntrack calls new, and of a live one. Time
counts from when the request is sent, over a TLS connection that is kept, or the file renamed.
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
from benchmarks.harness.paired_labs import CYCLE, Change, Scene, Twin, large, small, twins
from benchmarks.harness.prober import INTERVAL_US
from benchmarks.harness.process_usage import rss_mib
from benchmarks.registry import Run, bench
from benchmarks.results import Row, at_most, percentile
from benchmarks.suites.idle import SIZE
from nfagent.lab.demo_output import DemoOutput

API, FOLDER = "API server", "folder"
_REST_SECONDS = 60.0

_REVOKING_SECONDS = 0.7
"""Between two changes of a lab that block: an agent looks for connections to end again only after a pause."""

_QUIET_SECONDS = 0.06
_QUIET_CPU_SECONDS = 0.0005
_QUIET_MOST = 3.0
_LOOK_SECONDS = 0.01
_MS = 1e3


class Felix(msgspec.Struct, frozen=True):
    """What Calico Felix (nftables mode) was measured at: the design's figures, of another run on another such machine.

    p50:  ms from an API write to the first packet with the new verdict, lowest and highest
    cpu:  ms an event
    """

    p50: tuple[float, float]
    cpu: float


FELIX_SMALL = Felix((31.0, 31.0), 12.0)
FELIX_LARGE = Felix((35.0, 58.0), 107.0)
_SHARE = 3
"""The aim: a third of Felix' lower figure."""
_ELSEWHERE = "the design's figures of Calico Felix (nftables mode), measured elsewhere, not in this run"


class Try(msgspec.Struct, frozen=True):
    """One change by one way. Times are in ms.

    fresh, live: from the change to the first packet with the new verdict, of a new and of a live connection
    answer:      from the change to the API server's answer; of the folder None
    gap:         how exact `fresh` is
    cpu:         what the agent used, until it had nothing left to do
    """

    change: Change
    way: str
    fresh: float
    live: float
    answer: float | None
    gap: float
    cpu: float


class Standing(msgspec.Struct, frozen=True):
    """An agent after all tries: MiB resident, percent of a core at rest, over how many seconds."""

    rss: float
    rest: float
    seconds: float


class Outcome(msgspec.Struct, frozen=True):
    """One cluster's tries. load: the run queue's mean of the last minute, before and after."""

    scene: str
    felix: Felix
    tries: tuple[Try, ...]
    standing: dict[str, Standing]
    load: tuple[float, float]

    def of(self, change: Change, way: str) -> list[Try]:
        """Give the tries of one change by one way, in their order."""
        return [one for one in self.tries if (one.change, one.way) == (change, way)]


def outcomes(*, quick: bool, seed: int, progress: Callable[[str], None]) -> Iterator[Outcome]:
    """Measure the small cluster, then, where it needn't be quick, the large one. Raises MachineError, KernelError."""
    rounds, seconds = (10, 3.0) if quick else (100, _REST_SECONDS)
    scenes = [(small(), FELIX_SMALL), *([] if quick else [(large(SIZE, seed), FELIX_LARGE)])]
    for scene, felix in scenes:
        with tempfile.TemporaryDirectory(prefix="nfagent-latency-") as folder:
            progress(f"{scene.name}: labs")
            before = os.getloadavg()[0]
            with twins(scene, Path(folder)) as pair:
                for twin in pair:
                    _quiet(twin.pid)
                tries = tuple(_tries(pair, scene, rounds, progress))
                progress(f"{scene.name}: at rest")
                standing = _stand(pair, seconds)
            yield Outcome(scene.name, felix, tries, standing, (round(before, 2), round(os.getloadavg()[0], 2)))


def _tries(pair: tuple[Twin, Twin], scene: Scene, rounds: int, progress: Callable[[str], None]) -> Iterator[Try]:
    blocked_at = dict.fromkeys(pair, 0.0)
    # One round more warms up.
    for turn in range(rounds + 1):
        progress(f"{scene.name}: round {turn} of {rounds}")
        gc.collect()
        for change, blocked in CYCLE:
            for twin in pair if turn % 2 else pair[::-1]:
                if blocked:
                    # Else it would find them in the next change's time, and on that one's account.
                    time.sleep(max(0.0, blocked_at[twin] + _REVOKING_SECONDS - time.monotonic()))
                found = _try(twin, change, blocked=blocked)
                if blocked:
                    blocked_at[twin] = time.monotonic()
                if turn:
                    yield found


def _try(twin: Twin, change: Change, *, blocked: bool) -> Try:
    before = cpu_seconds(twin.pid)
    twin.prober.watch(blocked=blocked)
    written = twin.way.make(change)
    first = twin.prober.first()
    return Try(
        change=change,
        way=twin.name,
        fresh=(first.fresh - written.at) * _MS,
        live=(first.live - written.at) * _MS,
        answer=None if written.answered is None else (written.answered - written.at) * _MS,
        gap=first.gap * _MS,
        cpu=(_quiet(twin.pid) - before) * _MS,
    )


def _stand(pair: tuple[Twin, Twin], seconds: float) -> dict[str, Standing]:
    before, began = {twin: _quiet(twin.pid) for twin in pair}, time.monotonic()
    time.sleep(seconds)
    took = time.monotonic() - began
    return {
        twin.name: Standing(rss_mib(twin.pid), (cpu_seconds(twin.pid) - before[twin]) / took * 100, took)
        for twin in pair
    }


def _quiet(pid: int) -> float:
    """Return when a process has nothing to do, or after a while: the CPU seconds that it has used by then."""
    end, since, used = time.monotonic() + _QUIET_MOST, time.monotonic(), cpu_seconds(pid)
    while (now := time.monotonic()) < end and now - since < _QUIET_SECONDS:
        time.sleep(_LOOK_SECONDS)
        found = cpu_seconds(pid)
        if found - used > _QUIET_CPU_SECONDS:
            since, used = now, found
    return cpu_seconds(pid)


def cpu_seconds(pid: int) -> float:
    """Give what a process' threads of now have used, to the microsecond (Documentation/scheduler/sched-stats.rst)."""
    tasks = Path(f"/proc/{pid}/task").iterdir()
    return sum(int((task / "schedstat").read_text("ascii").split()[0]) for task in tasks) / 1e9


def table(found: Iterable[Outcome]) -> list[list[str]]:
    """Give a line for each cluster, change and way; the first line says what the columns are.

    Ratios are the medians of the pairs' ratios, API server by folder. Figures of Felix are marked.
    """
    header = ["cluster", "change", "way", "p50 ms", "p95 ms", "worst", "live p50", "p95"]
    header += ["after answer p50", "p95", "CPU ms p50", "mean", "ratio"]
    lines = [header]
    for outcome in found:
        for change, _blocked in CYCLE:
            both = outcome.of(change, API), outcome.of(change, FOLDER)
            lines += [[outcome.scene, change, *_line(tries)] for tries in both]
            lines[-2].append(report.number(statistics.median(_ratios(*both))))
        low, high = outcome.felix.p50
        p50 = f"{low:g}" if low == high else f"{low:g} to {high:g}"
        lines.append([outcome.scene, "any", "Felix, elsewhere", p50, *[""] * 6, f"{outcome.felix.cpu:g}", ""])
    return lines


def _line(tries: Sequence[Try]) -> list[str]:
    fresh, live, cpu = ([getattr(one, field) for one in tries] for field in ("fresh", "live", "cpu"))
    after = [one.fresh - one.answer for one in tries if one.answer is not None]
    blocks = dict(CYCLE)[tries[0].change]
    figures = [*_percentiles(fresh), max(fresh), *(_percentiles(live) if blocks else ("", ""))]
    figures += [*(_percentiles(after) if after else ("", "")), statistics.median(cpu), statistics.fmean(cpu)]
    return [tries[0].way, *(one if isinstance(one, str) else report.number(one) for one in figures)]


def _percentiles(values: Sequence[float]) -> tuple[float, float]:
    return statistics.median(values), percentile(values, 0.95)


def _ratios(ours: Sequence[Try], others: Sequence[Try]) -> list[float]:
    return [one.fresh / other.fresh for one, other in zip(ours, others, strict=True)]


@bench("latency", "a change to the first packet with the new verdict, by a real API server and by a folder")
def latency(run: Run) -> Iterator[Row]:
    """Make each change 100 times by each way, 10 where it has to be quick."""
    for outcome in outcomes(quick=run.quick, seed=run.seed, progress=run.progress):
        yield from rows(outcome)


def rows(outcome: Outcome) -> Iterator[Row]:
    """Give a cluster's rows, each of the API server beside the folder."""
    for change, blocked in CYCLE:
        ours, others = outcome.of(change, API), outcome.of(change, FOLDER)
        p95 = (percentile([one.fresh for one in tries], 0.95) for tries in (ours, others))
        yield Row(
            name=f"{outcome.scene}, {change}: API write to packet",
            unit="ms",
            values=[one.fresh for one in ours],
            reference=[one.fresh for one in others],
            reference_name="folder",
            paired=True,
            targets=(at_most("p50", round(outcome.felix.p50[0] / _SHARE, 1)),),
            note="p95 {} ms, by the folder {} ms".format(*map(report.number, p95)),
        )
        if blocked:
            yield Row(
                name=f"{outcome.scene}, {change}: API write to a live connection's last packet",
                unit="ms",
                values=[one.live for one in ours],
                reference=[one.live for one in others],
                reference_name="folder",
                paired=True,
            )
    yield Row(
        name=f"{outcome.scene}: API server's answer to packet",
        unit="ms",
        values=[one.fresh - one.answer for one in outcome.tries if one.answer is not None],
        note=f"below zero: before the answer; a packet every {INTERVAL_US / 1e3:g} ms; load {outcome.load}",
    )
    for blocks, words in ((True, "blocks"), (False, "lets pass")):
        changes = [change for change, blocked in CYCLE if blocked == blocks]
        yield Row(
            name=f"{outcome.scene}: agent's CPU for a change that {words}",
            unit="ms",
            values=[one.cpu for change in changes for one in outcome.of(change, API)],
            reference=[one.cpu for change in changes for one in outcome.of(change, FOLDER)],
            reference_name="folder",
            targets=(at_most("p50", round(outcome.felix.cpu / _SHARE, 1)),),
            note=f"targets in ms are a third of {_ELSEWHERE}",
        )
    api, folder = outcome.standing[API], outcome.standing[FOLDER]
    yield Row(
        name=f"{outcome.scene}: agent's memory, by the API server",
        unit="MiB",
        values=[api.rss],
        reference=[folder.rss],
        reference_name="folder",
        targets=(at_most("max", 100),),
    )
    yield Row(
        name=f"{outcome.scene}: agent's CPU at rest, by the API server",
        unit="% of a core",
        values=[api.rest],
        reference=[folder.rest],
        reference_name="folder",
        targets=(at_most("max", 0.5),),
        note=f"over {api.seconds:.0f} s with live watches",
    )


@click.command()
@click.option("--quick", is_flag=True, help="10 tries instead of 100, and the small cluster only.")
@click.option("--json", "json_path", type=click.Path(dir_okay=False, path_type=Path), help="Write every try there.")
@click.option("--seed", default=20_240, show_default=True, help="Draw the large cluster by this number.")
def main(*, quick: bool, json_path: Path | None, seed: int) -> None:
    """Measure from a change to the first packet with the new verdict (as root).

    \b
    Example:
      python -m benchmarks.suites.end_to_end --quick --json latency.json
    """  # noqa: D301 - \b is click's mark for lines that stay as they are
    stage = DemoOutput()
    stage.title("From a change to the first packet with the new verdict")
    found = []
    for outcome in outcomes(quick=quick, seed=seed, progress=stage.progress):
        stage.progress("")
        found.append(outcome)
        if json_path is not None:
            json_path.write_bytes(msgspec.json.format(msgspec.json.encode(found), indent=1) + b"\n")
    header, *lines = table(found)
    stage.table(header, lines)
    for outcome in found:
        for way, one in outcome.standing.items():
            stage.say(f"{outcome.scene}, {way}: {one.rss:.0f} MiB, {one.rest:.2f} % of a core over {one.seconds:.0f} s")
        gaps = [one.gap for one in outcome.tries]
        exact = f"{statistics.median(gaps):.2f} ms, at worst {max(gaps):.2f} ms"
        stage.say(f"{outcome.scene}: load {outcome.load[0]} to {outcome.load[1]}; exact to {exact}")
    stage.say(f"Felix, elsewhere: {_ELSEWHERE}; it had 127 to 153 MiB at 5,000 Pods, 1.5 to 2 % of a core at rest")


if __name__ == "__main__":
    main()
