"""The table of results: for the terminal, and for docs/threat-model.md."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path

import msgspec

from tests.fuzz_decoders.run import FuzzResult

BEGIN = "<!-- written by `make fuzz-decoders`: do not edit -->"
END = "<!-- end of what `make fuzz-decoders` writes -->"
_COLUMNS = ("target", "inputs", "branches", "features", "CPU seconds", "longest input, ms", "peak MiB", "result")
_FILE = "result.json"


def save(result: FuzzResult, folder: Path) -> None:
    """Keep a result in its target's folder, for tables of runs with other targets."""
    (folder / _FILE).write_bytes(msgspec.json.encode(result))


def saved(build: Path, names: Iterable[str]) -> list[FuzzResult]:
    """Return the last result of each of these targets that has one."""
    files = (build / name / _FILE for name in names)
    return [msgspec.json.decode(file.read_bytes(), type=FuzzResult) for file in files if file.exists()]


def row(result: FuzzResult) -> tuple[str, ...]:
    """Return the cells of a result."""
    return (
        result.name,
        f"{result.inputs:,}",
        str(result.coverage),
        str(result.features),
        f"{result.seconds:.0f}",
        f"{result.longest_ms:.1f}",
        str(result.peak_mb),
        "failed" if result.failed else "no failure",
    )


def text(results: Sequence[FuzzResult]) -> str:
    """Return the table for a terminal."""
    lines = [_COLUMNS, *map(row, results)]
    widths = [max(len(cells[column]) for cells in lines) for column in range(len(_COLUMNS))]
    return "\n".join("  ".join([cells[0].ljust(widths[0]), *map(str.rjust, cells[1:], widths[1:])]) for cells in lines)


def markdown(results: Sequence[FuzzResult]) -> str:
    """Return the table as Markdown."""
    rows = [f"| `{name}` | {' | '.join(cells)} |" for name, *cells in map(row, results)]
    numbers = "--:|" * (len(_COLUMNS) - 2)
    return "\n".join([f"| {' | '.join(_COLUMNS)} |", f"|---|{numbers}---|", *rows])


def insert(page: str, table: str) -> str:
    """Return a page with the table between its two markers. Raises ValueError for a page without them."""
    head, begin, rest = page.partition(BEGIN)
    _, end, tail = rest.partition(END)
    if not (begin and end):
        raise ValueError(f"the page has no lines {BEGIN} and {END}")
    return f"{head}{begin}\n\n{table}\n\n{end}{tail}"
