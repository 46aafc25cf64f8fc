"""The command: which suites run, what happens with one that fails or can't run, and what is written."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest
from click.testing import CliRunner, Result

from benchmarks import registry
from benchmarks.__main__ import main
from benchmarks.registry import Run, bench
from benchmarks.report import number
from benchmarks.results import Row, at_least, at_most
from nfagent.errors import HostError


@pytest.fixture(autouse=True)
def _benches(monkeypatch: pytest.MonkeyPatch) -> None:
    """Register three suites instead of the real ones: one that measures, one that can't, one that fails."""
    for name in list(registry.BENCHES):
        monkeypatch.delitem(registry.BENCHES, name)

    @bench("measures", "a figure")
    def measures(run: Run) -> Iterator[Row]:
        run.progress("under way")
        targets = (at_most("p50", 1), at_most("p99", 5))
        yield Row(name="event", unit="ms", values=[0.5, 0.5, 7.0], targets=targets, note="three of them")
        ratio = (at_least("ratio", 0.9),)
        values = [1.0] if run.quick else [1.0, 1.0]
        reference = [2.0] * len(values)
        yield Row(name="rate", unit="1/s", values=values, reference=reference, reference_name="twice", targets=ratio)

    @bench("lacks", "a figure, and what needs clang")
    def lacks(_run: Run) -> Iterator[Row]:
        yield Row(name="before", unit="ms", values=[1.0])
        raise HostError("clang is missing: apt-get install clang")

    @bench("fails", "nothing")
    def fails(_run: Run) -> Iterator[Row]:
        yield Row(name="first", unit="ms", values=[1.0])
        raise RuntimeError("the kernel said no")


def run(*arguments: str) -> Result:
    return CliRunner().invoke(main, arguments)


def test_only_the_named_suites_run() -> None:
    done = run("--only", "measures")
    assert done.exit_code == 0
    assert "event" in done.output
    assert "before" not in done.output


def test_rows_line_up_with_a_line_for_each_target() -> None:
    lines = run("--only", "measures").output.splitlines()
    [header] = [line for line in lines if "worst" in line]
    table = lines[lines.index(header) : lines.index(header) + 4]
    assert [re.split(r"\s{2,}", line.strip()) for line in table] == [
        ["measured", "p50", "p99", "worst", "unit", "reference", "ratio", "target", "met"],
        ["event", "0.5", "7", "7", "ms", "p50 <= 1", "yes"],
        ["p99 <= 5", "no: 7"],
        ["rate", "1", "1", "1", "1/s", "twice 2", "0.5", "ratio >= 0.9", "no: 0.5"],
    ]
    assert len({line.index(word) for line, word in zip(table, ("target", "p50 <= 1", "p99 <= 5"), strict=False)}) == 1
    assert "event: three of them" in "\n".join(lines)
    assert "1 of 3 targets met" in lines[-3]


def test_a_lack_of_the_machine_is_shown_and_is_no_failure() -> None:
    done = run("--only", "lacks")
    assert done.exit_code == 0
    assert "before" in done.output
    assert "skipped: clang is missing: apt-get install clang" in done.output


def test_a_failing_suite_is_shown_keeps_its_rows_and_stops_no_other(tmp_path: Path) -> None:
    path = tmp_path / "figures.json"
    done = run("--quick", "--seed", "7", "--json", str(path))
    assert done.exit_code == 1
    assert "NOT AS EXPECTED: RuntimeError: the kernel said no" in done.output
    written: dict[str, Any] = msgspec.json.decode(path.read_bytes())
    assert [row["name"] for row in written["rows"]] == ["event", "rate", "before", "first"]
    assert (written["quick"], written["seed"]) == (True, 7)
    assert written["skipped"] == {"lacks": "clang is missing: apt-get install clang"}
    assert written["failed"] == {"fails": "RuntimeError: the kernel said no"}
    assert written["suite_seconds"].keys() == {"measures", "lacks", "fails"}
    assert written["rows"][1]["count"] == 1
    assert written["rows"][0]["targets"][1] == {"target": "p99 <= 5", "value": 7.0, "met": False}


def test_an_unknown_name_is_answered_with_all_names() -> None:
    done = run("--only", "measure")
    assert done.exit_code == 2
    assert "no suite 'measure'; there are measures, lacks, fails" in done.output


def test_the_list_has_all_names() -> None:
    assert run("--list").output.splitlines() == [
        "measures  a figure",
        "lacks     a figure, and what needs clang",
        "fails     nothing",
    ]


def test_a_name_is_registered_once() -> None:
    with pytest.raises(ValueError, match="a suite 'lacks' already"):
        bench("lacks", "again")(lambda _run: [])


@pytest.mark.parametrize(
    ("value", "written"),
    [
        (0, "0"),
        (0.00012, "1.2e-04"),
        (0.05, "0.05"),
        (1.234, "1.23"),
        (99.94, "99.9"),
        (1234.5, "1,234"),
        (5e4, "50,000"),
    ],
)
def test_figures_have_three_significant_digits(value: float, written: str) -> None:
    assert number(value) == written
