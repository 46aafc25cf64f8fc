"""`python -m benchmarks`: runs suites, shows a table, writes a JSON file."""

from __future__ import annotations

import importlib
import os
import sys
import time
import traceback
from pathlib import Path

import click
import msgspec

from benchmarks import report
from benchmarks.registry import BENCHES, SEED, Bench, Run
from benchmarks.results import Summary, summarise
from nfagent.errors import HostError
from nfagent.lab.demo.output import DemoOutput
from nfagent.system.gc_tuning import MALLOC_ENVIRONMENT

MODULES = (
    "benchmarks.suites.event_latency",
    "benchmarks.suites.policy_batches",
    "benchmarks.suites.large_policies",
    "benchmarks.suites.audit",
    "benchmarks.suites.outside_pods",
    "benchmarks.suites.introspection",
    "benchmarks.suites.operator_tools",
    "benchmarks.suites.live_page",
    "benchmarks.suites.matrix",
    "benchmarks.suites.metrics",
    "benchmarks.suites.packet_counts",
    "benchmarks.suites.manifests",
    "benchmarks.suites.idle",
    "benchmarks.suites.churn",
    "benchmarks.suites.apiserver",
    "benchmarks.suites.revocations",
    "benchmarks.suites.revocation_cpu",
    "benchmarks.suites.nflog",
    "benchmarks.suites.nflog_sustained",
    "benchmarks.suites.packets",
    "benchmarks.suites.packets_before",
    "benchmarks.suites.counting",
    "benchmarks.suites.outage",
    "benchmarks.suites.flushes",
    "benchmarks.suites.end_to_end",
    "benchmarks.suites.end_to_end_before",
    "benchmarks.suites.commits",
    "benchmarks.suites.backends",
    "benchmarks.suites.cold_start",
    "benchmarks.suites.boot",
    "benchmarks.suites.unknown_pods",
)
"""Modules of suites, in the order in which they run."""


class Session:
    """One run of some suites, and its results so far."""

    def __init__(self, stage: DemoOutput, run: Run) -> None:
        """Start without results."""
        self._stage = stage
        self._run = run
        self._began = report.now()
        self._machine = report.this_machine()
        self._rows: list[Summary] = []
        self._seconds: dict[str, float] = {}
        self._skipped: dict[str, str] = {}
        self.failed: dict[str, str] = {}

    def measure(self, bench: Bench) -> None:
        """Run a suite and show its rows; a lack of the machine, or a failure, is recorded and stops no other suite."""
        self._stage.step(f"{bench.name}: {bench.about}")
        began, rows = time.monotonic(), list[Summary]()
        try:
            for row in bench.function(self._run):
                rows.append(msgspec.structs.replace(summarise(row), suite=bench.name))
        except HostError as error:
            self._skipped[bench.name] = str(error)
        except Exception as error:  # noqa: BLE001 - a failing suite must not lose the others' figures
            self.failed[bench.name] = f"{type(error).__name__}: {error}"
            traceback.print_exc()
        self._stage.progress("")
        self._seconds[bench.name] = round(time.monotonic() - began, 1)
        if rows:
            report.table(self._stage, rows)
            report.notes(self._stage, rows)
        if bench.name in self._skipped:
            self._stage.text(f"skipped: {self._skipped[bench.name]}")
        if bench.name in self.failed:
            self._stage.fail(self.failed[bench.name])
        self._rows += rows

    def report(self) -> report.Report:
        """Return the report of the run."""
        return report.Report(
            self._began,
            self._run.quick,
            self._run.seed,
            self._machine,
            tuple(self._rows),
            self._seconds,
            self._skipped,
            self.failed,
        )


def _print_list(context: click.Context, _parameter: click.Parameter, wanted: bool) -> None:  # noqa: FBT001 - click's own
    if wanted:
        width = max(map(len, BENCHES))
        for bench in BENCHES.values():
            click.echo(f"{bench.name:{width}}  {bench.about}")
        context.exit()


@click.command()
@click.option("--quick", is_flag=True, help="Fewer rounds, smaller clusters: two minutes in all.")
@click.option("--only", multiple=True, metavar="NAME", help="Run this suite; may be given more than once.")
@click.option("--json", "json_path", type=click.Path(dir_okay=False, path_type=Path), help="Write figures to it.")
@click.option("--markdown", type=click.Path(dir_okay=False, path_type=Path), help="Write tables to it.")
@click.option("--seed", default=SEED, show_default=True, help="Seed of synthetic clusters and of measuring orders.")
@click.option("--list", is_flag=True, is_eager=True, expose_value=False, callback=_print_list, help="Print all names.")
def main(*, quick: bool, only: tuple[str, ...], json_path: Path | None, markdown: Path | None, seed: int) -> None:
    """Measure nfagent beside its references, in this machine's kernel (as root, for rows about packets).

    Exit code: 0 when every suite ran or was skipped, whether or not targets are met; 1 when a suite failed.

    \b
    Example:
      python -m benchmarks --quick --only packets --json figures.json
    """  # noqa: D301 - \b is click's mark for lines that stay as they are
    unknown = [name for name in only if name not in BENCHES]
    if unknown:
        raise click.BadParameter(f"no suite {unknown[0]!r}; there are {', '.join(BENCHES)}", param_hint="--only")
    for name, value in MALLOC_ENVIRONMENT.items():
        # Its processes start as an agent does. What the environment says wins: an empty value is glibc's default.
        os.environ.setdefault(name, value)
    stage = DemoOutput()
    session = Session(stage, Run(quick, stage.progress, seed))
    began = time.monotonic()
    for bench in BENCHES.values():
        if not only or bench.name in only:
            session.measure(bench)
    done = session.report()
    if json_path is not None:
        report.write(done, json_path)
    if markdown is not None:
        markdown.write_text(report.markdown(done, {bench.name: bench.about for bench in BENCHES.values()}), "utf-8")
    _summary(stage, done, time.monotonic() - began)
    sys.exit(1 if session.failed else 0)


def _summary(stage: DemoOutput, done: report.Report, seconds: float) -> None:
    targets = [one for row in done.rows for one in row.targets]
    machine = done.machine
    stage.step(f"{sum(one.met for one in targets)} of {len(targets)} targets met, in {seconds:.0f} s")
    stage.text(f"{machine.cores} cores of {machine.processor}, {machine.memory_mib:,} MiB, Linux {machine.kernel},")
    stage.text(f"Python {machine.python}; load {machine.load} at the start, seed {done.seed}")


for module in MODULES:
    importlib.import_module(module)

if __name__ == "__main__":
    main()
