"""Output of the demo: numbered steps, tables, commands with their output; colour only on a terminal."""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Iterable, Sequence

_COLOUR = re.compile(r"\x1b\[\d*m")
_INDENT = "   "


class DemoOutput:
    """Writes to standard output; nothing with `quiet`."""

    def __init__(self, *, quiet: bool = False) -> None:
        """Use colour on a terminal, unless NO_COLOR is set."""
        self._quiet = quiet
        self._colour = sys.stdout.isatty() and "NO_COLOR" not in os.environ
        self._steps = 0

    def title(self, words: str) -> None:
        """Write the title."""
        self._write(self._paint("1", words))

    def step(self, words: str) -> None:
        """Write the next step's number and title."""
        self._steps += 1
        self._write(f"\n{self._paint('1', f'{self._steps}. {words}')}")

    def text(self, words: str) -> None:
        """Write a sentence."""
        self._write(f"{_INDENT}{words}")

    def block(self, lines: Iterable[str]) -> None:
        """Write lines unchanged."""
        for line in lines:
            self._write(f"{_INDENT}{self._paint('2', '|')} {line}")

    def command(self, command: str, output: Sequence[str]) -> None:
        """Write a command and its output."""
        self._write(f"{_INDENT}{self._paint('36', f'# {command}')}")
        self.block(output)

    def table(self, header: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
        """Write rows in aligned columns."""
        width = max(len(row) for row in (header, *rows))
        everything = [[*row, *[""] * (width - len(row))] for row in (header, *rows)]
        sizes = [max(len(_plain(row[column])) for row in everything) for column in range(width)]
        for number, row in enumerate(everything):
            cells = [cell + " " * (size - len(_plain(cell))) for cell, size in zip(row, sizes, strict=True)]
            line = "  ".join(cells).rstrip()
            self._write(_INDENT + (self._paint("2", line) if number == 0 else line))

    def progress(self, words: str) -> None:
        """Write the progress of a long step, on a terminal only; '' removes it."""
        if sys.stdout.isatty() and not self._quiet:
            sys.stdout.write(f"\r\x1b[K{_INDENT}{words}" if words else "\r\x1b[K")
            sys.stdout.flush()

    def good(self, words: str) -> str:
        """Return text in green."""
        return self._paint("32", words)

    def bad(self, words: str) -> str:
        """Return text in red."""
        return self._paint("31", words)

    def fail(self, words: str) -> None:
        """Write a result that isn't the expected one."""
        self._write(f"{_INDENT}{self.bad('NOT AS EXPECTED:')} {words}")

    def summary(self, words: str, *, as_expected: bool) -> None:
        """Write the last line: whether all results are as expected."""
        verdict = self.good("All as expected.") if as_expected else self.bad("Some results not as expected.")
        self._write(f"\n{verdict} {words}")

    def _paint(self, colour: str, words: str) -> str:
        return f"\x1b[{colour}m{words}\x1b[0m" if self._colour else words

    def _write(self, line: str) -> None:
        if not self._quiet:
            sys.stdout.write(f"{line}\n")
            sys.stdout.flush()


def _plain(cell: str) -> str:
    return _COLOUR.sub("", cell)
