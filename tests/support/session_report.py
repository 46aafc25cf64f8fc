"""The end of a test run's output: skipped tests by their missing requirement, and tables that tests printed.

Both come from test reports, so that they are complete also with several processes.
"""

from __future__ import annotations

import ast
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path

import pytest

PRINTED = "printed"
"""The user property (record_property) whose text is shown when all tests have run."""


def skipped_lines(reports: Iterable[pytest.TestReport | pytest.CollectReport], root: Path) -> Iterator[str]:
    """Yield each missing requirement, then the modules with tests that need it: count and first docstring line."""
    lacks: dict[str, Counter[str]] = {}
    for report in reports:
        lacks.setdefault(_reason(report), Counter())[report.nodeid.partition("::")[0]] += 1
    for reason, modules in sorted(lacks.items(), key=lambda lack: (-lack[1].total(), lack[0])):
        yield f"{_count(modules.total())}: {reason}"
        for module, count in sorted(modules.items()):
            yield f"    {module} ({count}): {_about(root / module)}"


def printed_lines(reports: Iterable[pytest.TestReport]) -> Iterator[str]:
    """Yield the tables that tests printed."""
    for report in reports:
        for name, value in report.user_properties:
            if name == PRINTED:
                yield from str(value).splitlines()


def conclude(reporter: pytest.TerminalReporter, stats: Mapping[str, Sequence[pytest.TestReport]], root: Path) -> None:
    """Write both to the terminal."""
    for line in printed_lines(stats.get("passed", ())):
        reporter.write_line(line)
    skipped = stats.get("skipped", ())
    if skipped:
        reporter.section(f"not tested here: {_count(len(skipped))}", yellow=True)
        for line in skipped_lines(skipped, root):
            reporter.write_line(line)


def _reason(report: pytest.TestReport | pytest.CollectReport) -> str:
    said = report.longrepr
    words = said[2] if isinstance(said, tuple) else str(said)
    return words.removeprefix("Skipped: ")


def _about(module: Path) -> str:
    docstring = ast.get_docstring(ast.parse(module.read_text(encoding="utf-8"))) or ""
    return docstring.partition("\n")[0]


def _count(tests: int) -> str:
    return "1 test" if tests == 1 else f"{tests} tests"
