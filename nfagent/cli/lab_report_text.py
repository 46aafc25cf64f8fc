"""Text of a report and of a comparison: a table that fits a terminal of 80 columns, and what stands out in words."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import groupby

from nfagent.cli.tables import blocks, coloured, marked, strong
from nfagent.lab.report.comparison import Comparison, QuantileChange
from nfagent.lab.report.summary import Summary
from nfagent.lab.report.verdict import Outcome, RatioVerdict
from nfagent.lab.report.words import PATH_NAMES, plural, ratio_text

_COLOURS: dict[Outcome, str] = {
    "within": "green",
    "not within": "red",
    "not decided": "yellow",
    "not known": "yellow",
}


def summary_lines(summary: Summary) -> Iterator[str]:
    """Return the verdict of a run: what it lacks, one sentence, a table, what isn't within."""
    for gap in summary.gaps:
        yield f"incomplete: {gap}"
    yield strong(summary.headline)
    yield ""
    rows = [
        (
            f"{verdict.pair.scenario}, {plural(verdict.pair.pods, 'Pod', 'Pods')}",
            (f"{verdict.pair.policies:,}", *map(_verdict_cell, verdict.quantiles)),
        )
        for verdict in summary.verdicts
    ]
    yield from _grouped(("policies", "p50 by eBPF's", "p99 by eBPF's"), rows)
    for finding in summary.findings:
        yield f"{_painted(finding.outcome)}: {finding.text}"


def comparison_lines(comparison: Comparison, a: str, b: str) -> Iterator[str]:
    """Return a comparison of the runs in files A and B: what differs, one sentence, a table."""
    yield f"A: {a}"
    yield f"B: {b}"
    for gap in comparison.gaps:
        yield f"incomplete: {gap}"
    yield strong(comparison.headline)
    yield ""
    rows = [
        (
            f"{change.scenario}, {plural(change.pods, 'Pod', 'Pods')}",
            (f"{change.policies:,}", PATH_NAMES[change.path], *map(_change_cell, change.quantiles)),
        )
        for change in comparison.changes
    ]
    yield from _grouped(("policies", "path", "p50, B by A", "p99, B by A"), rows)
    yield "A ratio without a word: no difference shown, 1 is inside its confidence interval."
    for quantity, policies, _, path, *_, ratio in (change.row for change in comparison.rates):
        yield f"{quantity}, {policies} policies, {path}: {ratio}"
    for difference in comparison.differences:
        yield f"differs: {difference}"


def _grouped(header: tuple[str, ...], rows: list[tuple[str, tuple[str, ...]]]) -> Iterator[str]:
    """Return a table with a heading above the rows that have the same one, and an empty line after it."""
    if not rows:
        return
    head, *body = blocks(header, (cells for _, cells in rows), {0})
    yield from head
    rest = iter(body)
    for heading, of_heading in groupby(rows, key=lambda row: row[0]):
        yield heading
        for _ in of_heading:
            yield from next(rest)
    yield ""


def _verdict_cell(verdict: RatioVerdict) -> str:
    if verdict.ratio is None:
        return _painted(verdict.outcome)
    return f"{ratio_text(verdict.ratio)} {_painted(verdict.outcome)}"


def _change_cell(change: QuantileChange) -> str:
    if change.ratio is None:
        return change.reason
    return (
        f"{ratio_text(change.ratio)} {change.change}"
        if change.change in {"shorter", "longer"}
        else ratio_text(change.ratio)
    )


def _painted(outcome: Outcome) -> str:
    return marked(outcome, _COLOURS[outcome]) if coloured() else outcome
