"""Text output: aligned tables, coloured on a terminal.

A colour is a random mark, which input can't contain, until `shown` turns it into a terminal sequence; `shown` escapes
every other character that isn't printable.
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
"""Start of a mark, random in each process; then the number of the sequence (ECMA-48, SGR), and `>`."""

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
    "audit-deny": "yellow",
    "deny": "red",
    "denied": "red",
    "DENIED": "red",
    "error": "red",
    "ALLOWED": "green",
}


def coloured(stream: TextIO | None = None) -> bool:
    """Return whether to use colour: on a terminal, unless NO_COLOR is set (no-color.org)."""
    return (stream or sys.stdout).isatty() and not os.environ.get("NO_COLOR")


def paint(word: str) -> str:
    """Return a verdict or result with its colour, if colour is used."""
    return marked(word, _COLOURS[word]) if word in _COLOURS and coloured() else word


def strong(words: str) -> str:
    """Return a heading in bold, if colour is used."""
    return marked(words, "bold") if coloured() else words


def marked(words: str, style: str) -> str:
    """Return a text with a style: green, yellow, red or bold."""
    return f"{_MARK}{_NUMBERS[style]}>{words}{_MARK}{_RESET}>"


def plain(text: str) -> str:
    """Return a text without its styles."""
    return _MARKS.sub("", text)


def shown(line: str) -> str:
    """Return a line for a terminal: styles as escape sequences, all other control characters escaped."""
    if _MARK not in line:
        return printable(line)
    parts = _MARKS.split(line)
    return "".join(f"\x1b[{part}m" if odd % 2 else printable(part) for odd, part in enumerate(parts))


def widths(rows: Iterable[Sequence[str]], least: Sequence[int] = ()) -> list[int]:
    """Return the width of each column: its longest cell, and at least `least`."""
    found = list(least)
    for row in rows:
        found += [0] * (len(row) - len(found))
        for column, cell in enumerate(row):
            found[column] = max(found[column], _width(cell))
    return found


def line(row: Sequence[str], columns: Sequence[int], right: Collection[int] = ()) -> str:
    """Return one row; columns in `right` are right-aligned. There is no trailing space."""
    cells = []
    for column, (cell, width) in enumerate(zip(row, columns, strict=False)):
        shown = cell or _NOTHING
        fill = " " * (width - _width(cell))
        cells.append(fill + shown if column in right else shown + fill)
    return _GAP.join(cells).rstrip()


def table(header: Sequence[str], rows: Iterable[Sequence[str]], right: Collection[int] = ()) -> list[str]:
    """Return the lines of a table, its header in capitals; an empty cell is shown as `-`."""
    all_rows = [[cell.upper() for cell in header], *map(list, rows)]
    columns = widths(all_rows)
    head, *body = (line(row, columns, right) for row in all_rows)
    return [strong(head), *body]


def facts(pairs: Iterable[tuple[str, str]]) -> list[str]:
    """Return a table of names and values without a header."""
    known = list(pairs)
    columns = widths([(name,) for name, _ in known])
    return [line((name, words), [columns[0], 0]) for name, words in known]


def _width(cell: str) -> int:
    return len(printable(plain(cell))) if cell else len(_NOTHING)
