"""Text for people: tables whose columns line up, and colour where somebody looks at it."""

from __future__ import annotations

import os
import sys
from collections.abc import Collection, Iterable, Sequence
from typing import TextIO

import click

_GAP = "  "
_NOTHING = "-"
_COLOURS = {
    "ok": "green",
    "allow": "green",
    "allowed": "green",
    "equal": "green",
    "warn": "yellow",
    "warning": "yellow",
    "FAIL": "red",
    "FAILS CLOSED": "red",
    "NOT ENFORCED": "red",
    "FAIL CLOSED": "red",
    "deny": "red",
    "denied": "red",
    "DENIED": "red",
    "error": "red",
    "ALLOWED": "green",
}


def coloured(stream: TextIO | None = None) -> bool:
    """Tell whether colour is wanted: on a terminal, unless NO_COLOR is set (no-color.org)."""
    return (stream or sys.stdout).isatty() and not os.environ.get("NO_COLOR")


def paint(word: str) -> str:
    """Give a verdict or a result its colour, where colour is wanted."""
    return click.style(word, fg=_COLOURS.get(word)) if word in _COLOURS and coloured() else word


def strong(words: str) -> str:
    """Make a heading stand out, where colour is wanted."""
    return click.style(words, bold=True) if coloured() else words


def widths(rows: Iterable[Sequence[str]], least: Sequence[int] = ()) -> list[int]:
    """Give each column's width: its longest cell, and no less than `least` says."""
    found = list(least)
    for row in rows:
        found += [0] * (len(row) - len(found))
        for column, cell in enumerate(row):
            found[column] = max(found[column], _width(cell))
    return found


def line(row: Sequence[str], columns: Sequence[int], right: Collection[int] = ()) -> str:
    """Write one row; columns in `right` are set flush right. Nothing trails behind the last cell."""
    cells = []
    for column, (cell, width) in enumerate(zip(row, columns, strict=False)):
        shown = cell or _NOTHING
        fill = " " * (width - _width(cell))
        cells.append(fill + shown if column in right else shown + fill)
    return _GAP.join(cells).rstrip()


def table(header: Sequence[str], rows: Iterable[Sequence[str]], right: Collection[int] = ()) -> list[str]:
    """Write a table, its header in capitals; an empty cell is shown as `-`."""
    all_rows = [[cell.upper() for cell in header], *map(list, rows)]
    columns = widths(all_rows)
    head, *body = (line(row, columns, right) for row in all_rows)
    return [strong(head), *body]


def facts(pairs: Iterable[tuple[str, str]]) -> list[str]:
    """Write names and what they are, beneath each other."""
    known = list(pairs)
    columns = widths([(name,) for name, _ in known])
    return [line((name, words), [columns[0], 0]) for name, words in known]


def _width(cell: str) -> int:
    return len(click.unstyle(cell)) if cell else len(_NOTHING)
