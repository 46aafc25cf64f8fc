"""A report for people: a table whose columns line up, what wasn't judged and why, and the failures."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence

from nfagent.cli.tables import counted, line, widths
from nfagent.lab.stage import Stage
from tests.conformance.report import Aside, Count, Failed, Report, Row
from tests.conformance.results import Reading

_SHOWN_OF_A_CASE = 5
_NUMBERS_FROM = 2
_BAR = 30
_BLANK = " "


def show(stage: Stage, report: Report) -> None:
    """Show all of it."""
    _say(stage, _table(stage, report.rows))
    if report.not_applicable:
        _say(stage, ["", "Not applicable, in probes:", *_asides(report.not_applicable)])
    shown: Counter[tuple[str, Reading]] = Counter()
    for failed in report.failures:
        shown[failed.case, failed.reading] += 1
        if shown[failed.case, failed.reading] <= _SHOWN_OF_A_CASE:
            _fail(stage, failed)
    for (case, reading), count in shown.items():
        if count > _SHOWN_OF_A_CASE:
            stage.say(f"{case}, {reading}: {counted(count - _SHOWN_OF_A_CASE, 'failure')} more; -o json has all")


def bar(done: int, of: int, words: str) -> str:
    """Draw how far a run is."""
    filled = _BAR * done // of
    return f"{'#' * filled}{'.' * (_BAR - filled)} {done:>{len(str(of))}} of {of}  {words}"


def _table(stage: Stage, rows: Sequence[Row]) -> Iterator[str]:
    readings = list(dict.fromkeys(reading for row in rows for reading in row.readings))
    above = [_BLANK, _BLANK, _BLANK, *(cell for reading in readings for cell in (reading.upper(), _BLANK, _BLANK))]
    header = ["SUITE", "OF", "CASES", *("PASSED", "FAILED", "N/A") * len(readings)]
    body = [
        [row.suite if row.by == "suite" else _BLANK, _name(row), str(row.cases)]
        + [cell for reading in readings for cell in _cells(stage, row.readings.get(reading, Count()))]
        for row in rows
    ]
    sizes = widths([above, header, *body])
    numbers = set(range(_NUMBERS_FROM, len(header)))
    for cells in (above, header, *body):
        yield line(cells, sizes, numbers)


def _name(row: Row) -> str:
    return "all" if row.by == "suite" else row.name if row.by == "tag" else f"{row.name} support"


def _cells(stage: Stage, count: Count) -> list[str]:
    failed = str(count.failed)
    return [str(count.passed), stage.bad(failed) if count.failed else failed, str(count.not_applicable)]


def _asides(asides: Sequence[Aside]) -> Iterator[str]:
    cells = [[f"{one.probes:,}", one.suite, one.reading, one.reason] for one in asides]
    sizes = widths(cells)
    for row in cells:
        yield line(row, sizes, {0})


def _fail(stage: Stage, failed: Failed) -> None:
    stage.fail(f"{failed.case} ({failed.title}), {failed.reading}, {failed.words}")
    stage.say(f"    objects: {failed.manifests}")
    stage.say(f"    why:     {failed.explain}")


def _say(stage: Stage, lines: Sequence[str] | Iterator[str]) -> None:
    for text in lines:
        stage.say(text)
