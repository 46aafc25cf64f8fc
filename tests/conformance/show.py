"""A report for people: a table whose columns line up, what wasn't judged and why, and the failures."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence

from nfagent.cli.tables import line, strong, table, widths
from nfagent.lab.demo.output import DemoOutput
from tests.conformance.report import Aside, Count, Failed, Report, Row

_SHOWN = 8
_NUMBERS_FROM = 2
_BAR = 30
_BLANK = " "


def show(stage: DemoOutput, report: Report) -> None:
    """Show all of it."""
    stage.step("cases by suite, support level and tag")
    _say(stage, _table(stage, report.rows))
    if report.not_applicable:
        stage.step("probes that are not applicable, and why")
        _say(stage, _asides(report.not_applicable))
    if report.failures:
        stage.step("failures")
        _say(stage, _failures(report.failures))


def bar(done: int, of: int, words: str) -> str:
    """Draw how far a run is."""
    filled = _BAR * done // of
    return f"{'#' * filled}{'.' * (_BAR - filled)} {done:>{len(str(of))}} of {of}  {words}"


def _table(stage: DemoOutput, rows: Sequence[Row]) -> Iterator[str]:
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


def _cells(stage: DemoOutput, count: Count) -> list[str]:
    failed = str(count.failed)
    return [str(count.passed), stage.bad(failed) if count.failed else failed, str(count.not_applicable)]


def _asides(asides: Sequence[Aside]) -> Iterator[str]:
    readings: dict[tuple[str, int, str], list[str]] = {}
    for one in asides:
        readings.setdefault((one.suite, one.probes, one.reason), []).append(one.reading)
    cells = [[f"{probes:,}", suite, ", ".join(names), reason] for (suite, probes, reason), names in readings.items()]
    sizes = widths(cells)
    for row in cells:
        yield line(row, sizes, {0})


def _failures(failures: Sequence[Failed]) -> Iterator[str]:
    """Yield a table for each step that failed, and the commands that show it again."""
    steps: dict[tuple[str, str, int], list[Failed]] = {}
    for failed in failures:
        steps.setdefault((failed.case, failed.title, failed.step), []).append(failed)
    for (case, title, step), found in steps.items():
        yield strong(f"{case}, step {step} ({title})")
        yield from _probes(found)
        yield f"objects:  {found[0].manifests}"
        yield f"why:      {found[0].explain}"
        attachment = next((f" --attachment {one.reading}" for one in found if one.reading == "bridge"), "")
        yield f"again:    python -m tests.conformance --case {case}{attachment}"


def _probes(failures: Sequence[Failed]) -> Iterator[str]:
    same: dict[tuple[str, ...], tuple[dict[str, None], dict[str, None]]] = {}
    for one in failures:
        key = (one.source, one.destination, one.port, one.expected, one.found)
        families, readings = same.setdefault(key, ({}, {}))
        readings[one.reading] = None
        if one.source_address:
            families["IPv6" if ":" in one.source_address else "IPv4"] = None
    rows = [(*key, ", ".join(families), ", ".join(readings)) for key, (families, readings) in same.items()]
    yield from table(("source", "destination", "port", "expected", "found", "family", "reading"), rows[:_SHOWN])
    if len(rows) > _SHOWN:
        yield f"and {len(rows) - _SHOWN} more; -o json has all"


def _say(stage: DemoOutput, lines: Iterable[str]) -> None:
    for text in lines:
        stage.text(text)
