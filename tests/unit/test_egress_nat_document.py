"""The precedence table of docs/egress-nat.md: every row has its tests, and every test of the lab has its row."""

from __future__ import annotations

import re
from pathlib import Path

ROOT = Path(__file__).parents[2]
DOCUMENT = (ROOT / "docs" / "egress-nat.md").read_text("utf-8")
LAB = (ROOT / "tests" / "kernel" / "test_egress_nat_lab.py").read_text("utf-8")
ROW_IDS = set(re.findall(r'\bid="([^"]+)"', LAB))
FUNCTIONS = set(re.findall(r"^def (test_\w+)", LAB, re.MULTILINE))


def table() -> list[str]:
    """Return the lines of the table below the heading Precedence."""
    section = DOCUMENT.split("\n## Precedence\n")[1].split("\n## ")[0]
    return [line for line in section.splitlines() if line.startswith("|")][2:]


def test_every_row_of_the_precedence_names_tests_that_exist() -> None:
    rows = table()
    named = [re.findall(r"`([^`]+)`", row.rstrip("| ").split(" | ")[-1]) for row in rows]
    assert len(rows) >= 8
    assert [row for row, tests in zip(rows, named, strict=True) if not tests] == []
    assert {test for tests in named for test in tests} <= ROW_IDS | FUNCTIONS


def test_every_row_of_the_lab_is_named_in_the_document() -> None:
    assert {name for name in ROW_IDS if f"`{name}`" not in DOCUMENT} == set()
