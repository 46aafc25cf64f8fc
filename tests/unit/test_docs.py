"""Tests, modules and files that the documents name exist."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path

import pytest

from tests.fuzz_decoders.targets import TARGETS

ROOT = Path(__file__).parents[2]
SENTENCE = 60
"""Characters beyond which an equal line is a copy."""
DOCUMENTS = sorted([*ROOT.glob("*.md"), *(ROOT / "docs").glob("*.md")])
MODULES = [
    "/" + path.relative_to(ROOT).as_posix()
    for folder in ("nfagent", "tests", "benchmarks")
    for path in (ROOT / folder).rglob("*.py")
]
TESTS = {path.name for path in (ROOT / "tests").rglob("test_*.py")}


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.name)
def test_every_test_that_a_document_names_exists(document: Path) -> None:
    named = set(re.findall(r"\btest_\w+\.py\b", document.read_text(encoding="utf-8")))
    assert named - TESTS == set()


def _words(text: str) -> str:
    return " ".join(re.findall(r"[a-z0-9]+", text.replace("'", "").lower()))


def _quoted(document: Path) -> Iterator[tuple[str, str]]:
    """Yield each test that is quoted behind the name of its file, `test_x.py`: *what it says …*, with that name."""
    for line in document.read_text(encoding="utf-8").splitlines():
        file = ""
        for found in re.finditer(r"`(test_\w+\.py)`|(?<![\w*])\*([a-zA-Z0-9][^*|`]{8,}?)\*(?!\*)", line):
            file = found[1] or file
            if found[2] and file:
                yield file, found[2]


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.name)
def test_every_test_that_a_document_quotes_is_in_the_file_that_it_names(document: Path) -> None:
    said: dict[str, str] = {}
    for path in (ROOT / "tests").rglob("test_*.py"):
        said[path.name] = f"{said.get(path.name, '')} {_words(path.read_text(encoding='utf-8'))}"
    assert [(file, text) for file, text in _quoted(document) if _words(text) not in said.get(file, "")] == []


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.name)
def test_every_module_that_a_document_names_exists(document: Path) -> None:
    named = re.findall(r"`([\w/]+\.py)`", document.read_text(encoding="utf-8"))
    assert [name for name in named if not any(module.endswith("/" + name) for module in MODULES)] == []


@pytest.mark.parametrize("package", sorted(path.name for path in (ROOT / "nfagent").iterdir() if path.is_dir()))
def test_every_package_is_in_the_architectures_table(package: str) -> None:
    assert package == "__pycache__" or f"| `{package}/` |" in (ROOT / "ARCHITECTURE.md").read_text(encoding="utf-8")


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.name)
def test_every_benchmark_suite_that_a_document_names_exists(document: Path) -> None:
    suites = "".join(path.read_text(encoding="utf-8") for path in (ROOT / "benchmarks" / "suites").glob("*.py"))
    named = set(re.findall(r"\bONLY=([\w-]+)", document.read_text(encoding="utf-8")))
    assert named - set(re.findall(r'@bench\(\s*"([\w-]+)"', suites)) == set()


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.name)
def test_every_file_that_a_document_links_to_exists(document: Path) -> None:
    linked = re.findall(r"\]\((?!https?:|#)([^)#]+)", document.read_text(encoding="utf-8"))
    assert [path for path in linked if not (document.parent / path).exists()] == []


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.name)
def test_no_sentence_and_no_row_is_in_a_document_twice(document: Path) -> None:
    lines = document.read_text(encoding="utf-8").splitlines()
    heads = {line for line, below in pairwise(lines) if below.startswith("|-")}
    said = [line for line in lines if len(line) > SENTENCE and not line.startswith("    ") and line not in heads]
    assert [line for line, times in Counter(said).items() if times > 1] == []


def test_the_security_page_names_tests() -> None:
    text = (ROOT / "docs" / "security.md").read_text(encoding="utf-8")
    assert len(set(re.findall(r"\btest_\w+\.py\b", text))) > 10


def _threats() -> list[dict[str, str]]:
    """Return the rows of the threat model that say who holds them, by the names of their columns."""
    found, columns = [], list[str]()
    for line in (ROOT / "docs" / "threat-model.md").read_text(encoding="utf-8").splitlines():
        cells = [cell.strip() for cell in line.strip("|").split("|")] if line.startswith("|") else []
        if not columns or not cells:
            columns = cells
        elif "held by" in columns and not set(line) <= set("|-"):
            found.append(dict(zip(columns, cells, strict=True)))
    return found


def test_every_protection_of_the_threat_model_names_its_test() -> None:
    rows = _threats()
    assert len(rows) > 30
    claims = ("what stops it", "what stops them", "what bounds it", "what the agent does")
    for row in rows:
        claimed = any(row.get(column) for column in claims)
        # What no program stops says what remains instead.
        assert "test_" in row["held by"] or (row["what remains"] and not row["held by"]), row
        assert not claimed or row["held by"] or row["what remains"], row


def test_the_threat_model_names_every_target_of_the_fuzzer() -> None:
    text = (ROOT / "docs" / "threat-model.md").read_text(encoding="utf-8").partition("## Decoders")[2]
    assert {target.name for target in TARGETS} <= set(re.findall(r"`([\w-]+)`", text))
