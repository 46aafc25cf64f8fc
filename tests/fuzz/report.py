"""What people see of a run: where it is, what was asked, and what was found."""

from __future__ import annotations

import sys
import time

import msgspec

from nfagent.lab.demo_output import DemoOutput
from nfagent.lab.topology_plan import Attachment
from tests.fuzz.case import Finding
from tests.fuzz.stats import Tally

_LINE_SECONDS = 10.0


class Found(msgspec.Struct, frozen=True):
    """What was found.

    folder:    where the case is, and replay the command that asks again
    documents: how many the case had when it failed, and how many are left; steps likewise
    repeated:  whether it was found again, alone; where it wasn't, the case is whole, as it was drawn
    """

    finding: Finding
    folder: str
    replay: str
    documents: tuple[int, int]
    steps: tuple[int, int]
    repeated: bool


class Report(msgspec.Struct, frozen=True):
    """A run, as `-o json` has it."""

    seed: int
    seconds: float
    packets: bool
    tally: Tally
    found: Found | None = None
    attachment: Attachment | None = None


class Replayed(msgspec.Struct, frozen=True):
    """A case asked again, as `-o json` has it: what was found then, and now; None where all judges agree."""

    folder: str
    then: Finding
    now: Finding | None


class Progress:
    """Says where a run is: on a terminal in one line that changes, elsewhere in a line every ten seconds."""

    def __init__(self, stage: DemoOutput, *, quiet: bool) -> None:
        """Speak on a stage; a quiet one says nothing."""
        self._stage = stage
        self._quiet = quiet
        self._said = time.monotonic()

    def show(self, words: str) -> None:
        """Say it, if it is time to."""
        if self._quiet:
            return
        if sys.stdout.isatty():
            self._stage.progress(words)
        elif time.monotonic() - self._said > _LINE_SECONDS:
            self._said = time.monotonic()
            self._stage.say(words)


def under_way(tally: Tally, left: float) -> str:
    """Say in a line what was done and how long it goes on."""
    flows, packets = tally.first + tally.established, tally.probes + tally.standing
    return f"{tally.cases:,} cases, {flows:,} flows judged, {packets:,} by packets, {max(0.0, left):.0f} s left"


def show_report(stage: DemoOutput, report: Report) -> None:
    """Show what was asked, and what was found."""
    tally, found = report.tally, report.found
    stage.progress("")
    rows = [
        ("evaluate, rules", "first packets", tally.first, tally.cases),
        ("evaluate, rules", "living connections", tally.established, tally.cases),
        ("evaluate, rules, packets", "first packets", tally.probes, tally.packet_cases),
        ("evaluate, packets", "living connections", tally.standing, tally.packet_cases),
        ("evaluate, packets", "link-local, broadcast, multicast", tally.link_scope, tally.packet_cases),
    ]
    asked = [row for row in rows if report.packets or "packets" not in row[0]]
    width = max(len(f"{number:,}") for row in asked for number in row[2:])
    stage.table(
        ("JUDGES", "ASKED ABOUT", f"{'FLOWS':>{width}}", f"{'CASES':>{width}}"),
        [(judges, what, f"{flows:{width},}", f"{cases:{width},}") for judges, what, flows, cases in asked],
    )
    if tally.again:
        stage.say(f"{_counted(tally.again, 'flow')} asked again: packets said otherwise at first")
    if found is not None:
        _show_found(stage, found)
    lab = f"; {report.attachment} Pods" if report.attachment is not None else ""
    done = f"{_counted(tally.cases, 'case')}, {_counted(tally.steps, 'step')}, {report.seconds:.0f} s"
    stage.closing(f"{done}; seed {report.seed}{lab}", as_expected=found is None)


def _counted(number: int, word: str) -> str:
    return f"{number:,} {word}{'' if number == 1 else 's'}"


def _show_found(stage: DemoOutput, found: Found) -> None:
    stage.fail(str(found.finding))
    if found.repeated:
        (documents, fewer), (steps, few) = found.documents, found.steps
        before, after = f"{_counted(documents, 'document')} in {_counted(steps, 'step')}", f"{fewer} in {few}"
        stage.say(f"shrunk from {before} to {after}: {found.folder}")
    else:
        stage.say(f"it didn't happen again when it was asked alone; the whole case is in {found.folder}")
    stage.say(f"once more: {found.replay}")


def show_replayed(stage: DemoOutput, replayed: Replayed) -> None:
    """Show who says what, then and now."""
    then, now = replayed.then, replayed.now
    stage.progress("")
    stage.say(f"{then.question or 'no flow'}, after step {then.step + 1} of {replayed.folder}")
    judges = dict.fromkeys((*then.verdicts, *(now.verdicts if now is not None else ())))
    said = now.verdicts if now is not None else dict.fromkeys(judges, "agrees")
    stage.table(
        ("JUDGE", "THEN", "NOW"), [(judge, then.verdicts.get(judge, "-"), said.get(judge, "-")) for judge in judges]
    )
    if now is not None and now.place:
        stage.say(now.place)
    stage.closing("It fails." if now is not None else "It fails no longer.", as_expected=now is None)
