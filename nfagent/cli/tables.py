"""Text for people: tables whose columns line up, and colour where somebody looks at it.

A colour is a mark that no text of others can hold, until `shown` makes a terminal's sequence of it: and an escape of
everything else that isn't printable.
"""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Collection, Iterable, Sequence
from typing import TextIO

from nfagent.model.printable import printable

_GAP = "  "
_NOTHING = "-"
_MARK = f"<{os.urandom(8).hex()}:"
"""Begins a mark, another in every process; its number is that of the sequence (ECMA-48, SGR), and `>` ends it."""

_MARKS = re.compile(rf"{_MARK}(\d+)>")
_NUMBERS = {"green": 32, "yellow": 33, "red": 31, "bold": 1}
_RESET = 0
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
    return marked(word, _COLOURS[word]) if word in _COLOURS and coloured() else word


def strong(words: str) -> str:
    """Make a heading stand out, where colour is wanted."""
    return marked(words, "bold") if coloured() else words


def marked(words: str, style: str) -> str:
    """Give words a style: green, yellow, red or bold."""
    return f"{_MARK}{_NUMBERS[style]}>{words}{_MARK}{_RESET}>"


def plain(text: str) -> str:
    """Take the styles out of a text."""
    return _MARKS.sub("", text)


def shown(line: str) -> str:
    """Write a line as a terminal gets it: styles as its sequences, nothing else that would steer it."""
    if _MARK not in line:
        return printable(line)
    parts = _MARKS.split(line)
    return "".join(f"\x1b[{part}m" if odd % 2 else printable(part) for odd, part in enumerate(parts))


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
    return len(printable(plain(cell))) if cell else len(_NOTHING)
