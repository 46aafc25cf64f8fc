"""The report of a run as Markdown: a table for each suite."""

from __future__ import annotations

import msgspec

from benchmarks.report import Machine, Report, markdown
from benchmarks.results import Row, Summary, at_most, summarise

MACHINE = Machine("CPU", 2, 1024, "6.18", "3.11.2", 0.5)
ROW = Row(
    name="commit",
    unit="ms",
    values=(1.0, 2.0, 4.0),
    reference=(2.0, 4.0, 8.0),
    reference_name="full compile",
    paired=True,
    targets=(at_most("p50", 1),),
    note="in one run",
)


def report(*, quick: bool, rows: tuple[Summary, ...], seconds: dict[str, float], skipped: dict[str, str]) -> Report:
    return Report("2026-01-01T00:00:00Z", quick, 7, MACHINE, rows, seconds, skipped, {})


def test_each_suite_has_a_table_with_reference_ratio_and_target() -> None:
    summary = msgspec.structs.replace(summarise(ROW), suite="event-latency")
    found = report(quick=True, rows=(summary,), seconds={"event-latency": 1.5}, skipped={})
    assert markdown(found, {"event-latency": "one event"}).splitlines()[2:] == [
        "### event-latency",
        "",
        "One event (2 s).",
        "",
        "| measured | p50 | p99 | unit | reference | ratio | target |",
        "|---|---|---|---|---|---|---|",
        "| commit | 2 | 4 | ms | full compile 4 | 0.5 (0.5 to 0.5) | p50 <= 1: no: 2 |",
        "",
        "*commit*: in one run.",
    ]


def test_a_skipped_suite_says_what_the_machine_lacks() -> None:
    found = report(quick=False, rows=(), seconds={"packets": 0.0}, skipped={"packets": "root"})
    text = markdown(found, {"packets": "streams"})
    assert "Skipped: root." in text
    assert "|" not in text.partition("###")[2]
