"""Every edge case of docs/semantics.md has a test with its number.

The number is in a test's name, `test_13_...`, or at the start of an id, `[13] ...`; not in a comment or docstring.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest

TESTS = Path(__file__).parents[1]
SEMANTICS = TESTS.parent / "docs" / "semantics.md"

NAMED = re.compile(r"test_(\d{1,2})_")
LISTED = re.compile(r"\[(\d{1,2})\] ")
KNOWN = frozenset(range(1, 52))
LATER = frozenset({45, 46, 47, 49})
"""Edge cases of the agent's lifecycle and of masquerade without a test so far."""


def numbers_in(source: str) -> Iterator[int]:
    """Return the numbers in a test module's names and ids."""
    tree = ast.parse(source)
    told = {id(node.value) for node in ast.walk(tree) if isinstance(node, ast.Expr)}
    for node in ast.walk(tree):
        found = None
        if isinstance(node, ast.FunctionDef):
            found = NAMED.match(node.name)
        elif isinstance(node, ast.Constant) and isinstance(node.value, str) and id(node) not in told:
            found = LISTED.match(node.value)
        if found is not None:
            yield int(found[1])


@cache
def carried() -> frozenset[int]:
    modules = [path.read_text(encoding="utf-8") for path in TESTS.rglob("test_*.py")]
    return frozenset(number for module in modules for number in numbers_in(module))


@pytest.mark.parametrize(
    ("source", "numbers"),
    [
        pytest.param("def test_13_a_port(): pass", [13], id="a test's name"),
        pytest.param("CASES = {'[7] from: []': 1, '[51] a node': 2}", [7, 51], id="keys of a table"),
        pytest.param("pytest.param(1, id='[22] overlaps')", [22], id="an id"),
        pytest.param(
            "# [13] a port\n'''[14] a port'''\ndef f():\n    '''[15] a port'''", [], id="comments and docstrings"
        ),
        pytest.param("def helps_test_13_(): pass\nx = '13 [14] y'", [], id="numbers elsewhere"),
    ],
)
def test_numbers_are_found_in(source: str, numbers: list[int]) -> None:
    assert list(numbers_in(source)) == numbers


def test_every_edge_case_has_a_test_with_its_number() -> None:
    assert sorted(KNOWN - LATER - carried()) == []


def test_every_edge_case_of_the_semantics_page_has_a_test() -> None:
    named = {int(number) for number in re.findall(r"\[(\d+)\](?!\()", SEMANTICS.read_text(encoding="utf-8"))}
    assert len(named) > 20
    assert sorted(named - carried()) == []
