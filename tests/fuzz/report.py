"""Shows progress and results of a run."""

from __future__ import annotations

import sys
import time

import msgspec

from nfagent.lab.demo.output import DemoOutput
from tests.fuzz.case import Finding
from tests.fuzz.folder import LabForm
from tests.fuzz.stats import Counts

_LINE_SECONDS = 10.0


class Found(msgspec.Struct, frozen=True):
    """A failing case.

    folder:    folder of the case; replay: the command that repeats it
    documents: number of documents when the case failed, and after shrinking; steps likewise
    repeated:  whether the finding was repeated; if not, the case isn't shrunk
    """

    finding: Finding
    folder: str
    replay: str
    documents: tuple[int, int]
    steps: tuple[int, int]
    repeated: bool


class Report(msgspec.Struct, frozen=True):
    """A run, as `-o json` prints it."""

    seed: int
    seconds: float
    packets: bool
    counts: Counts
    found: Found | None = None
    lab: LabForm | None = None


class Replayed(msgspec.Struct, frozen=True):
    """A repeated case, as `-o json` prints it: the finding then, and now; None where all oracles agree."""

    folder: str
    then: Finding
    now: Finding | None


class Progress:
    """Shows progress: on a terminal in one line that changes, elsewhere in a line every ten seconds."""

    def __init__(self, stage: DemoOutput, *, quiet: bool) -> None:
        """Write to a demo output; a quiet one writes nothing."""
        self._stage = stage
        self._quiet = quiet
        self._said = time.monotonic()

    def show(self, words: str) -> None:
        """Show the progress, if it is time to."""
        if self._quiet:
            return
        if sys.stdout.isatty():
            self._stage.progress(words)
        elif time.monotonic() - self._said > _LINE_SECONDS:
            self._said = time.monotonic()
            self._stage.text(words)


def progress_text(counts: Counts, left: float) -> str:
    """Return the progress as one line."""
    flows, packets = counts.first + counts.established, counts.probes + counts.long_lived
    return f"{counts.cases:,} cases, {flows:,} flows checked, {packets:,} by packets, {max(0.0, left):.0f} s left"


def show_report(stage: DemoOutput, report: Report) -> None:
    """Show the counts, and the finding."""
    counts, found = report.counts, report.found
    stage.progress("")
    rows = [
        ("evaluate, rules", "first packets", counts.first, counts.cases),
        ("evaluate, rules", "established connections", counts.established, counts.cases),
        ("evaluate, rules, packets", "first packets", counts.probes, counts.packet_cases),
        ("evaluate, packets", "established connections", counts.long_lived, counts.packet_cases),
        ("evaluate, packets", "link-local, broadcast, multicast", counts.link_scope, counts.packet_cases),
    ]
    asked = [row for row in rows if report.packets or "packets" not in row[0]]
    width = max(len(f"{number:,}") for row in asked for number in row[2:])
    stage.table(
        ("ORACLES", "CHECKED", f"{'FLOWS':>{width}}", f"{'CASES':>{width}}"),
        [(runner, what, f"{flows:{width},}", f"{cases:{width},}") for runner, what, flows, cases in asked],
    )
    if counts.table_cases:
        tables = f"{_counted(counts.tables, 'table')} in {_counted(counts.table_cases, 'case')}"
        stage.text(f"{tables} compared: by text with by bytes")
    if counts.again:
        stage.text(f"{_counted(counts.again, 'flow')} repeated: packets had another verdict at first")
    if found is not None:
        _show_found(stage, found)
    lab = f"; {report.lab.attachment} Pods, {report.lab.backend}" if report.lab is not None else ""
    done = f"{_counted(counts.cases, 'case')}, {_counted(counts.steps, 'step')}, {report.seconds:.0f} s"
    stage.summary(f"{done}; seed {report.seed}{lab}", as_expected=found is None)


def _counted(number: int, word: str) -> str:
    return f"{number:,} {word}{'' if number == 1 else 's'}"


def _show_found(stage: DemoOutput, found: Found) -> None:
    stage.fail(str(found.finding))
    if found.repeated:
        (documents, fewer), (steps, few) = found.documents, found.steps
        before, after = f"{_counted(documents, 'document')} in {_counted(steps, 'step')}", f"{fewer} in {few}"
        stage.text(f"shrunk from {before} to {after}: {found.folder}")
    else:
        stage.text(f"the finding was not repeated; the case as it was drawn is in {found.folder}")
    stage.text(f"replay: {found.replay}")


def show_replayed(stage: DemoOutput, replayed: Replayed) -> None:
    """Show the verdicts, then and now."""
    then, now = replayed.then, replayed.now
    stage.progress("")
    stage.text(f"{then.question or 'no flow'}, after step {then.step + 1} of {replayed.folder}")
    runner = dict.fromkeys((*then.verdicts, *(now.verdicts if now is not None else ())))
    said = now.verdicts if now is not None else dict.fromkeys(runner, "agrees")
    stage.table(
        ("ORACLE", "THEN", "NOW"), [(judge, then.verdicts.get(judge, "-"), said.get(judge, "-")) for judge in runner]
    )
    if now is not None and now.place:
        stage.text(now.place)
    stage.summary("It fails." if now is not None else "It fails no longer.", as_expected=now is None)
