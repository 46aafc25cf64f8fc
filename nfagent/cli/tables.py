"""Text output: aligned tables that fit the terminal, coloured there.

A colour is a random mark, which input can't contain, until `shown` turns it into a terminal sequence; `shown` escapes
every other character that isn't printable.

Tables are as wide as the terminal or COLUMNS at most: long cells are broken into lines, and where even that doesn't
fit, or a narrow column becomes long, each row becomes lines of a name and a value. Sentences go on in indented lines.
Elsewhere, as in a pipe, a row and a sentence are one line.
"""

from __future__ import annotations

import os
import re
import shutil
import sys
from collections.abc import Collection, Iterable, Iterator, Sequence
from typing import TextIO

import click

from nfagent.cli.wrapping import GAP, LONGEST_PIECE, breaks, hanging_indent, least_width, share
from nfagent.model.printable import printable

_GAP = " " * GAP
_NOTHING = "-"
_NARROW = 80
"""Up to this width of a terminal a cell of too many lines makes each row a list."""
_MOST_LINES = 6
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


def terminal_width(stream: TextIO | None = None) -> int | None:
    """Return the width that lines must fit into: COLUMNS, or that of the terminal; None in a pipe or a file.

    stream: stdout by default
    """
    named = os.environ.get("COLUMNS", "")
    if named.isascii() and named.isdecimal() and int(named):
        return int(named)
    if not (stream or sys.stdout).isatty():
        return None
    return shutil.get_terminal_size((0, 0)).columns or None


def coloured(stream: TextIO | None = None) -> bool:
    """Return whether to use colour: as --color says; else on a terminal, unless NO_COLOR is set (no-color.org)."""
    context = click.get_current_context(silent=True)
    if context is not None and context.color is not None:
        return context.color
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
    return [text for block in blocks(header, rows, right) for text in block]


def blocks(header: Sequence[str], rows: Iterable[Sequence[str]], right: Collection[int] = ()) -> list[list[str]]:
    """Return the lines of the header, and those of each row, where `table` has them one after another."""
    capitals = [cell.upper() for cell in header]
    body = [list(row) for row in rows]
    natural, limit = widths([capitals, *body]), terminal_width()
    columns = natural if limit is None else share(natural, _least([capitals, *body], right), limit)
    if columns is None or (limit is not None and limit <= _NARROW and _is_long(body, columns, limit)):
        return [[], *(_stacked(capitals, row, limit or 1, first=row is body[0]) for row in body)]
    head, *found = (list(row_lines(row, columns, right)) for row in (capitals, *body))
    return [[strong(text) for text in head], *found]


def facts(pairs: Iterable[tuple[str, str]]) -> list[str]:
    """Return a table of names and values without a header; a long value goes on below its begin."""
    known, limit = list(pairs), terminal_width()
    name = widths([(name,) for name, _ in known])[0] if known else 0
    if limit is None:
        return [line(pair, [name, 0]) for pair in known]
    if limit - name - GAP < name:
        return [text for pair in known for text in _below(*pair, limit)]
    return [text for pair in known for text in row_lines(pair, [name, limit - name - GAP], ())]


def fitted(sentence: str, width: int | None) -> list[str]:
    """Return a sentence in lines that fit, those below the first one indented; None: as one line."""
    if width is None or _width(sentence) <= width:
        return [sentence]
    indent = hanging_indent(printable(plain(sentence)), width)
    first, *rest = broken(sentence, width, indent, longest=width - indent)
    return [first, *(" " * indent + text for text in rest)]


def broken(cell: str, width: int, indent: int = 0, longest: int = LONGEST_PIECE) -> list[str]:
    """Return a text with its styles in lines of a width at most, as `breaks` breaks it."""
    styles: list[int] = []
    text = ""
    style = _RESET
    for odd, part in enumerate(_MARKS.split(cell)):
        if odd % 2:
            style = int(part)
        else:
            text += printable(part)
            styles += [style] * (len(text) - len(styles))
    return ["".join(_restyled(text, styles, begin, end)) for begin, end in breaks(text, max(1, width), indent, longest)]


def _restyled(text: str, styles: Sequence[int], begin: int, end: int) -> Iterator[str]:
    before = _RESET
    for at in range(begin, end):
        if styles[at] != before:
            before = styles[at]
            yield f"{_MARK}{before}>"
        yield text[at]
    if before != _RESET:
        yield f"{_MARK}{_RESET}>"


def row_lines(row: Sequence[str], columns: Sequence[int], right: Collection[int] = ()) -> Iterator[str]:
    """Yield the lines of one row, each cell broken to the width of its column."""
    cells = [broken(cell or _NOTHING, width) for cell, width in zip(row, columns, strict=False)]
    for number in range(max(map(len, cells), default=0)):
        shown_cells = [cell[number] if number < len(cell) else " " for cell in cells]
        yield line(shown_cells, columns, right)


def _is_long(rows: Sequence[Sequence[str]], columns: Sequence[int], limit: int) -> bool:
    """Return whether a cell takes many lines, of which most would be spared with the whole width for it."""
    return any(
        width < limit // 2 and _width(cell) > width * (_MOST_LINES - 1) and len(broken(cell, width)) > _MOST_LINES
        for row in rows
        for cell, width in zip(row, columns, strict=False)
    )


def _least(rows: Sequence[Sequence[str]], right: Collection[int]) -> list[int]:
    """Return how narrow each column may become; numbers are never broken."""
    found: list[int] = []
    for row in rows:
        found += [1] * (len(row) - len(found))
        for column, cell in enumerate(row):
            needed = _width(cell) if column in right else least_width(printable(plain(cell)))
            found[column] = max(found[column], needed)
    return found


def _stacked(header: Sequence[str], row: Sequence[str], limit: int, *, first: bool) -> list[str]:
    """Return the lines of a row in a narrow terminal: a name and a value each, behind an empty line."""
    lines = [text for pair in zip(header, row, strict=False) for text in _below(*pair, limit)]
    return lines if first else ["", *lines]


def _below(name: str, value: str, limit: int) -> list[str]:
    """Return a name with its value in the same line where it fits, else below it."""
    whole = f"{name}{_GAP}{value or _NOTHING}"
    if _width(whole) <= limit:
        return [whole]
    return [name, *(_GAP + text for text in broken(value or _NOTHING, limit - GAP))]


def _width(cell: str) -> int:
    return len(printable(plain(cell))) if cell else len(_NOTHING)
