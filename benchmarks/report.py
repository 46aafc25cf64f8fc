"""Writes rows as a table for people, and as JSON for programs."""

from __future__ import annotations

import os
import platform
import re
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path

import msgspec

from benchmarks.results import Summary, TargetResult
from nfagent.lab.demo.output import DemoOutput

HEADER = ("measured", "p50", "p99", "worst", "unit", "CPU s", "MiB", "reference", "ratio", "target", "met")


class Machine(msgspec.Struct, frozen=True):
    """The machine of a run; load: mean run queue of the last minute, at the start."""

    processor: str
    cores: int
    memory_mib: int
    kernel: str
    python: str
    load: float


class Report(msgspec.Struct, frozen=True):
    """A run.

    started:       RFC 3339
    suite_seconds: suite -> duration
    skipped:       suite -> what the machine lacks
    failed:        suite -> error
    """

    started: str
    quick: bool
    seed: int
    machine: Machine
    rows: tuple[Summary, ...]
    suite_seconds: dict[str, float]
    skipped: dict[str, str]
    failed: dict[str, str]


def this_machine() -> Machine:
    """Return this machine's description, without its name."""
    cpus = Path("/proc/cpuinfo").read_text("utf-8")
    model = re.search(r"^(?:model name|Model)\s*: (.+)$", cpus, re.MULTILINE)
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") >> 20
    cores = len(os.sched_getaffinity(0))
    processor = model[1] if model else platform.machine()
    load = round(os.getloadavg()[0], 2)
    return Machine(processor, cores, memory, platform.release(), platform.python_version(), load)


def now() -> str:
    """Return the time as RFC 3339 in UTC, to the second."""
    return datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def write(report: Report, path: Path) -> None:
    """Write the report as JSON. Raises OSError."""
    path.write_bytes(msgspec.json.format(msgspec.json.encode(report), indent=2) + b"\n")


def markdown(report: Report, about: Mapping[str, str]) -> str:
    """Return the report as Markdown: the machine, then a table for each suite; `about` describes suites by name."""
    machine = report.machine
    parts = [
        (
            f"Measured {report.started} on {machine.cores} cores of {machine.processor}, {machine.memory_mib:,} MiB, "
            f"Linux {machine.kernel}, Python {machine.python}; load {machine.load} at the start, seed {report.seed}.\n"
        )
    ]
    for suite, seconds in report.suite_seconds.items():
        rows = [row for row in report.rows if row.suite == suite]
        parts.append(f"### {suite}\n\n{about[suite][:1].upper()}{about[suite][1:]} ({seconds:,.0f} s).\n")
        if suite in report.skipped:
            parts.append(f"Skipped: {report.skipped[suite]}.\n")
        if rows:
            lines = ["| measured | p50 | p99 | unit | reference | ratio | target |", "|---|---|---|---|---|---|---|"]
            parts.append("\n".join([*lines, *map(_markdown_row, rows)]) + "\n")
            parts += [f"*{row.name}*: {row.note}.\n" for row in rows if row.note]
    return "\n".join(parts)


def table(stage: DemoOutput, rows: Sequence[Summary]) -> None:
    """Show rows in aligned columns; columns that no row fills are omitted."""
    cells = [line for row in rows for line in _cells(stage, row)]
    shown = [column for column in range(len(HEADER)) if any(line[column] for line in cells)]
    stage.table([HEADER[column] for column in shown], [[line[column] for column in shown] for line in cells])


def notes(stage: DemoOutput, rows: Sequence[Summary]) -> None:
    """Show the notes of rows."""
    for row in rows:
        if row.note:
            stage.text(f"{row.name}: {row.note}")


def target_text(target: TargetResult) -> str:
    """Return whether a target is met: `yes`, `no: 7.2`, or `not measured`."""
    if target.value is None:
        return "not measured"
    return "yes" if target.met else f"no: {number(target.value)}"


def number(value: float) -> str:
    """Return a figure with three significant digits, large ones as whole numbers with thousands separators."""
    if value == 0:
        return "0"
    if abs(value) >= 100:
        return f"{value:,.0f}"
    return f"{value:.3g}" if abs(value) >= 0.001 else f"{value:.1e}"


def _markdown_row(row: Summary) -> str:
    reference = f"{row.reference_name} {number(row.reference_p50)}" if row.reference_p50 is not None else ""
    ratio = number(row.ratio) if row.ratio is not None else ""
    if row.ratio_p25 is not None and row.ratio_p75 is not None:
        ratio += f" ({number(row.ratio_p25)} to {number(row.ratio_p75)})"
    tail = number(row.p99) if row.better == "lower" and row.count > 1 else ""
    extra = [f"{number(row.cpu_seconds)} s of CPU"] if row.cpu_seconds is not None else []
    extra += [f"{number(row.rss_mib)} MiB"] if row.rss_mib is not None else []
    name = f"{row.name} ({', '.join(extra)})" if extra else row.name
    targets = "; ".join(f"{one.target}: {target_text(one)}" for one in row.targets)
    return f"| {name} | {number(row.p50)} | {tail} | {row.unit} | {reference} | {ratio} | {targets} |"


def _cells(stage: DemoOutput, row: Summary) -> list[list[str]]:
    reference, ratio = "", ""
    if row.reference_p50 is not None:
        reference = f"{row.reference_name} {number(row.reference_p50)}"
        ratio = number(row.ratio or 0.0)
        if row.ratio_p25 is not None and row.ratio_p75 is not None:
            ratio += f" ({number(row.ratio_p25)} to {number(row.ratio_p75)})"
    tail = number(row.p99) if row.better == "lower" else ""
    cpu = number(row.cpu_seconds) if row.cpu_seconds is not None else ""
    rss = number(row.rss_mib) if row.rss_mib is not None else ""
    first = [row.name, number(row.p50), tail, number(row.worst), row.unit, cpu, rss, reference, ratio]
    if not row.targets:
        return [[*first, "", ""]]
    blank = [""] * len(first)
    return [
        [*(blank if place else first), target.target, (stage.good if target.met else stage.bad)(target_text(target))]
        for place, target in enumerate(row.targets)
    ]
