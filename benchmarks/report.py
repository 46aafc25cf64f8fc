"""Rows for people, as a table, and for machines, as JSON."""

from __future__ import annotations

import os
import platform
import re
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path

import msgspec

from benchmarks.results import Judged, Summary
from nfagent.lab.demo_output import DemoOutput

HEADER = ("what", "p50", "p99", "worst", "unit", "CPU s", "MiB", "reference", "ratio", "target", "met")


class Machine(msgspec.Struct, frozen=True):
    """Where the figures were measured. load: the run queue's mean of the last minute, when it began."""

    processor: str
    cores: int
    memory_mib: int
    kernel: str
    python: str
    load: float


class Report(msgspec.Struct, frozen=True):
    """One run. skipped: benchmark -> what this machine lacks; failed: benchmark -> what went wrong."""

    began: str
    quick: bool
    seed: int
    machine: Machine
    rows: tuple[Summary, ...]
    seconds: dict[str, float]
    skipped: dict[str, str]
    failed: dict[str, str]


def this_machine() -> Machine:
    """Describe this machine, without its name."""
    cpus = Path("/proc/cpuinfo").read_text("utf-8")
    model = re.search(r"^(?:model name|Model)\s*: (.+)$", cpus, re.MULTILINE)
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") >> 20
    cores = len(os.sched_getaffinity(0))
    processor = model[1] if model else platform.machine()
    load = round(os.getloadavg()[0], 2)
    return Machine(processor, cores, memory, platform.release(), platform.python_version(), load)


def now() -> str:
    """Give the time as RFC 3339 in UTC, to the second."""
    return datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def write(report: Report, path: Path) -> None:
    """Write the report as JSON. Raises OSError."""
    path.write_bytes(msgspec.json.format(msgspec.json.encode(report), indent=2) + b"\n")


def table(stage: DemoOutput, rows: Sequence[Summary]) -> None:
    """Show rows in columns that line up; columns that no row fills are left out."""
    cells = [line for row in rows for line in _lines(stage, row)]
    shown = [column for column in range(len(HEADER)) if any(line[column] for line in cells)]
    stage.table([HEADER[column] for column in shown], [[line[column] for column in shown] for line in cells])


def notes(stage: DemoOutput, rows: Sequence[Summary]) -> None:
    """Show what has to be known beside the numbers."""
    for row in rows:
        if row.note:
            stage.say(f"{row.name}: {row.note}")


def verdict(judged: Judged) -> str:
    """Say whether a target is met: `yes`, `no: 7.2`, or that there is no figure for it."""
    if judged.value is None:
        return "not measured"
    return "yes" if judged.met else f"no: {number(judged.value)}"


def number(value: float) -> str:
    """Write a figure with three digits that count, large ones in whole numbers with a comma every thousand."""
    if value == 0:
        return "0"
    if abs(value) >= 100:
        return f"{value:,.0f}"
    return f"{value:.3g}" if abs(value) >= 0.001 else f"{value:.1e}"


def _lines(stage: DemoOutput, row: Summary) -> list[list[str]]:
    reference, ratio = "", ""
    if row.reference_p50 is not None:
        reference = f"{row.reference_name} {number(row.reference_p50)}"
        ratio = number(row.ratio or 0.0)
        if row.ratio_low is not None and row.ratio_high is not None:
            ratio += f" ({number(row.ratio_low)} to {number(row.ratio_high)})"
    tail = number(row.p99) if row.better == "lower" else ""
    cpu = number(row.cpu_seconds) if row.cpu_seconds is not None else ""
    rss = number(row.rss_mib) if row.rss_mib is not None else ""
    first = [row.name, number(row.p50), tail, number(row.worst), row.unit, cpu, rss, reference, ratio]
    if not row.targets:
        return [[*first, "", ""]]
    blank = [""] * len(first)
    return [
        [*(blank if place else first), judged.target, (stage.good if judged.met else stage.bad)(verdict(judged))]
        for place, judged in enumerate(row.targets)
    ]
