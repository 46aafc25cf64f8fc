"""The table of docs/reliability.md: a row for each fault, from all its tries. Pure, but for the machine's facts."""

from __future__ import annotations

import os
import platform
import statistics
from collections import defaultdict
from collections.abc import Iterable, Sequence

import msgspec

import nfagent
from tests.fault_injection.trial import Try

BEGIN = "<!-- written by `make faults`: do not edit -->"
END = "<!-- end of what `make faults` writes -->"


class Row(msgspec.Struct, frozen=True, kw_only=True):
    """One fault over all its tries; seconds. `during` counts tries whose change was in force while the fault lasted."""

    fault: str
    tries: int
    wrong: int
    failed: int
    during: int
    healed: list[float]
    cleared: list[float]
    calls: int
    cpu: float


def rows_of(tries: Iterable[Try]) -> list[Row]:
    """Return a row for each fault, in the order of their first tries. Crashes have a row for each kind of step."""
    by_name: dict[str, list[Try]] = defaultdict(list)
    for one in tries:
        by_name[_group(one.fault)].append(one)
    return [
        Row(
            fault=name,
            tries=len(its),
            wrong=sum(one.wrong_packets for one in its),
            failed=sum(not one.right for one in its),
            during=sum(one.during for one in its),
            healed=[one.healed for one in its],
            cleared=[one.cleared for one in its],
            calls=max(one.hits for one in its),
            cpu=max(one.cpu for one in its),
        )
        for name, its in by_name.items()
    ]


def _group(name: str) -> str:
    head, call, _ = name.rpartition(" call ")
    return f"{head} call" if call else name


def markdown(
    rows: Sequence[Row], tries: Sequence[Try], seconds: float, arguments: Sequence[str], broken: Sequence[str] = ()
) -> str:
    """Return the report: what was run and where, the totals, and the table; broken: parts that broke off."""
    packets, wrong = sum(one.packets for one in tries), sum(one.wrong_packets for one in tries)
    spacing = statistics.median([one.spacing for one in tries if one.spacing] or [0.0])
    gap = max((one.longest_gap for one in tries), default=0.0)
    command = " ".join(["python -m tests.fault_injection", *arguments])
    machine = (
        f"{platform.machine()}, {os.cpu_count()} CPUs, Linux {platform.release()}, Python {platform.python_version()}"
    )
    head = "fault | tried | wrong packets | in force meanwhile | heals: p50, max | report ends: p50, max | calls | CPU"
    lines = [
        f"`{command}`: nfagent {nfagent.__version__}; {machine}; {seconds / 60:.0f} minutes.",
        "",
        (
            f"**{len(tries)} tries of {len(rows)} faults, {packets:,} packets, {wrong} wrong.** "
            f"Median spacing of a connection's packets: {spacing * 1000:.2f} ms; the longest gap: {gap * 1000:.0f} ms. "
            f"Tries with anything else than expected: {sum(row.failed for row in rows)}."
        ),
        "",
        *([f"**Broke off, so that faults are missing: {', '.join(broken)}.**", ""] if broken else ()),
        f"| {head} |",
        "|---|--:|--:|--:|--:|--:|--:|--:|",
        *(_line(row) for row in rows),
    ]
    return "\n".join(lines) + "\n"


def _line(row: Row) -> str:
    cells = (
        row.fault,
        str(row.tries),
        str(row.wrong),
        str(row.during),
        _quantiles(row.healed),
        _quantiles(row.cleared),
        str(row.calls),
        f"{row.cpu:.2f}",
    )
    return f"| {' | '.join(cells)} |"


def _quantiles(values: Sequence[float]) -> str:
    return f"{statistics.median(values):.2f} s, {max(values):.2f} s"


def insert(page: str, text: str) -> str:
    """Return a page with the text between its two markers. Raises ValueError for a page without them."""
    head, begin, rest = page.partition(BEGIN)
    _, end, tail = rest.partition(END)
    if not (begin and end):
        raise ValueError(f"the page has no lines {BEGIN} and {END}")
    return f"{head}{begin}\n\n{text}\n{end}{tail}"
