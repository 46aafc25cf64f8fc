"""`nfagent logs --summary` and `--top` as text."""

from __future__ import annotations

from collections.abc import Collection, Sequence

from nfagent.cli.log_times import shown_time
from nfagent.cli.tables import facts, paint, table, terminal_width
from nfagent.model.plurals import counted
from nfagent.verdicts.record_summary import NameCount, SummaryView, TopView

_NARROW = 100


def summary_lines(view: SummaryView, time_format: str) -> list[str]:
    """Return who talks to whom."""
    verdicts = ", ".join(f"{count} {paint(verdict)}" for verdict, count in view.verdicts.items())
    lines = facts([("records", f"{view.records}: {verdicts}"), _span(view, time_format)])
    rows = [
        [
            pair.source,
            pair.destination,
            paint(pair.verdict),
            str(pair.packets),
            str(pair.records),
            shown_time(pair.latest, time_format),
        ]
        for pair in view.pairs
    ]
    header = ("source", "destination", "verdict", "packets", "records", "latest")
    lines += ["", *table(*_fitting(header, rows, right={3, 4}))]
    left = view.pairs_in_all - len(view.pairs)
    return lines + ([f"and {left} more; --summary {view.pairs_in_all} shows all"] if left else []) + _error(view.error)


def top_lines(view: TopView, time_format: str) -> list[str]:
    """Return what is denied most."""
    lines = facts([("denied", counted(view.denied, "record")), _span(view, time_format)])
    found = (
        ("denied source", view.sources),
        ("denied destination", view.destinations),
        ("denied port", view.ports),
        ("denying policy", view.policies),
    )
    for header, names in found:
        lines += ["", *table(*_fitting((header, "packets", "records", "latest"), _rows(names, time_format), {1, 2}))]
    return lines + _error(view.error)


def _fitting(
    header: Sequence[str], rows: Sequence[Sequence[str]], right: Collection[int]
) -> tuple[Sequence[str], Sequence[Sequence[str]], Collection[int]]:
    """Return what `table` takes; in a narrow terminal without the last two columns, records and the latest time."""
    width = terminal_width()
    if width is None or width >= _NARROW:
        return header, rows, right
    return header[:-2], [row[:-2] for row in rows], {column for column in right if column < len(header) - 2}


def _rows(names: Sequence[NameCount], time_format: str) -> list[list[str]]:
    return [[item.name, str(item.packets), str(item.records), shown_time(item.latest, time_format)] for item in names]


def _span(view: SummaryView | TopView, time_format: str) -> tuple[str, str]:
    times = [shown_time(when, time_format) for when in (view.first, view.last) if when]
    return "time", " to ".join(times)


def _error(error: int) -> list[str]:
    """Return that rare names were forgotten."""
    return [f"there are many names: counts may be too low by {counted(error, 'packet')}"] if error else []
