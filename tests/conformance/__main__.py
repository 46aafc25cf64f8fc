"""`python -m tests.conformance`: every case of every suite, by every reading."""

from __future__ import annotations

import json
import os
import shutil
import signal
import sys
import tempfile
import time
from collections import deque
from collections.abc import Iterator, Sequence
from pathlib import Path

import click
import msgspec

from nfagent.cli.tables import counted
from nfagent.errors import MachineError, NfagentError, UsageError
from nfagent.lab import netns
from nfagent.lab.plan import Attachment
from nfagent.lab.stage import Stage
from tests.conformance import FOLDER, readings, report
from tests.conformance.packets import TAG, ConformanceLab
from tests.conformance.results import Result
from tests.conformance.show import bar, show
from tests.conformance.suites import NAMES, Suite, read

_REPLAYS = Path("build", "conformance")


class _Run:
    """The results so far, and where the run is."""

    def __init__(self, stage: Stage, suites: Sequence[Suite]) -> None:
        self._stage = stage
        self._suites = suites
        self._of = sum(len(suite.cases) for suite in suites)
        self.results: list[Result] = []

    def by_values(self) -> None:
        self._stage.step(f"evaluate, and both nodes' rules interpreted: {counted(self._of, 'case')}")
        pairs = (readings.judge(suite, case) for suite in self._suites for case in suite.cases)
        for done, pair in enumerate(pairs, start=1):
            self._note(done, pair)

    def by_packets(self, attachment: Attachment, scratch: Path) -> None:
        self._stage.step(f"packets, {attachment}: {counted(self._of, 'case')}")
        for done, result in enumerate(self._sent(attachment, scratch), start=1):
            self._note(done, (result,))

    def _sent(self, attachment: Attachment, scratch: Path) -> Iterator[Result]:
        waiting = deque((suite, case) for suite in self._suites for case in suite.cases)
        while waiting:
            folder = Path(tempfile.mkdtemp(dir=scratch))
            with ConformanceLab(waiting[0][0].nodes, attachment, folder).running() as lab:
                broken = False
                while waiting and not broken and waiting[0][0].nodes == lab.nodes:
                    result = lab.judge(*waiting.popleft())
                    yield result
                    broken = result.broken

    def _note(self, done: int, results: Sequence[Result]) -> None:
        """Show where the run is: a bar on a terminal, a line a case elsewhere."""
        self.results += results
        case = results[0].case
        failed = [result for result in results if result.failures]
        words = self._stage.bad("failed") if failed else "passed"
        if sys.stdout.isatty():
            self._stage.progress(bar(done, self._of, case.id) if done < self._of else "")
        if failed or not sys.stdout.isatty():
            names = ", ".join(result.reading for result in failed or results)
            asked = counted(sum(result.asked for result in results), "probe")
            self._stage.say(f"{case.id}  {words}  {names}: {asked}")


def _load(names: Sequence[str], ids: Sequence[str]) -> list[Suite]:
    """Read the suites, and leave only the cases that are wanted; no id means all. Raises MachineError, UsageError."""
    missing = [f"{name}.json" for name in names if not (FOLDER / f"{name}.json").exists()]
    if missing:
        raise MachineError(f"no {', '.join(missing)} in {FOLDER}: set NFAGENT_CONFORMANCE to the folder that has them")
    suites = [read(name, json.loads((FOLDER / f"{name}.json").read_bytes())) for name in names]
    unknown = set(ids) - {case.id for suite in suites for case in suite.cases}
    if unknown:
        raise UsageError(f"no case {sorted(unknown)[0]!r} in {', '.join(names)}; one is {suites[0].cases[0].id}")
    kept = [suite._replace(cases=tuple(one for one in suite.cases if not ids or one.id in ids)) for suite in suites]
    return [suite for suite in kept if suite.cases]


def _interrupt(_number: int, _frame: object) -> None:
    raise KeyboardInterrupt


@click.command()
@click.option(
    "--suite", "names", multiple=True, type=click.Choice(NAMES), help="This suite; may be given more than once."
)
@click.option(
    "--case", "ids", multiple=True, metavar="ID", help="This case, like cyc-001; may be given more than once."
)
@click.option(
    "--attachment",
    "attachments",
    multiple=True,
    default=("routed",),
    show_default=True,
    type=click.Choice(("routed", "bridge")),
    help="How Pods hang on their node; may be given more than once.",
)
@click.option("--packets/--no-packets", default=True, help="Whether packets are sent: that needs root.")
@click.option(
    "--replays",
    default=_REPLAYS,
    show_default=True,
    type=click.Path(path_type=Path),
    help="Where the objects of a failed step are written.",
)
@click.option(
    "-o",
    "output",
    type=click.Choice(("text", "json")),
    default="text",
    show_default=True,
    help="How the report is written.",
)
def main(
    *,
    names: tuple[str, ...],
    ids: tuple[str, ...],
    attachments: tuple[Attachment, ...],
    packets: bool,
    replays: Path,
    output: str,
) -> None:
    """Judge the recorded conformance cases: by `evaluate`, by both nodes' rules interpreted, and by packets in a lab.

    Exit code: 0 when no case failed, 1 when one did, 2 when they couldn't be run.

    \b
    Example:
      python -m tests.conformance --suite tiers-v1alpha2 --attachment routed --attachment bridge
      python -m tests.conformance --case cyc-193 -o json
    """  # noqa: D301 - \b is click's mark for lines that stay as they are
    began = time.monotonic()
    stage = Stage(quiet=output == "json")
    try:
        if packets and os.geteuid() != 0:
            raise MachineError("packets need network namespaces: run it as root, or with --no-packets")
        suites = _load(names or NAMES, ids)
        run = _Run(stage, suites)
        run.by_values()
        if packets:
            _send(run, attachments)
    except NfagentError as error:
        click.echo(f"conformance: {error}", err=True)
        sys.exit(2)
    done = report.make(suites, run.results, time.monotonic() - began, replays)
    if output == "json":
        click.echo(msgspec.json.format(msgspec.json.encode(done), indent=2))
    else:
        _close(stage, done)
    sys.exit(0 if done.good else 1)


def _send(run: _Run, attachments: Sequence[Attachment]) -> None:
    netns.sweep(TAG)
    before = signal.signal(signal.SIGTERM, _interrupt)
    scratch = Path(tempfile.mkdtemp(prefix="nfagent-conformance-"))
    try:
        for attachment in dict.fromkeys(attachments):
            run.by_packets(attachment, scratch)
    finally:
        shutil.rmtree(scratch, ignore_errors=True)
        signal.signal(signal.SIGTERM, before)


def _close(stage: Stage, done: report.Report) -> None:
    stage.step("what came of it")
    show(stage, done)
    failed = {failed.case for failed in done.failures}
    cases = sum(row.cases for row in done.rows if row.by == "suite")
    verdict = f"{cases} cases" if done.good else f"{len(failed)} of {cases} cases failed: {', '.join(sorted(failed))}"
    stage.closing(f"{verdict}, {done.seconds:.0f} s.", as_expected=done.good)


if __name__ == "__main__":
    main()
