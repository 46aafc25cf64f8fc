"""Results of `make fuzz-decoders`: read from the worker's lines, kept, and shown."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.fuzz_decoders import report
from tests.fuzz_decoders.run import FuzzResult, add_line

LINES = (
    "longest: 0.3 ms",
    "#2\tINITED cov: 40 ft: 60 corp: 3/97b exec/s: 0 rss: 44Mb",
    "longest: 1.9 ms",
    "#4096\tpulse  cov: 51 ft: 130 corp: 66/2kb lim: 40 exec/s: 2048 rss: 55Mb",
    "#5000\tDONE   cov: 51 ft: 131 corp: 66/2kb lim: 40 exec/s: 2500 rss: 55Mb",
    "Done 5000 runs in 2 second(s)",
)


def result(*lines: str) -> FuzzResult:
    made = FuzzResult("netlink")
    for line in lines:
        add_line(made, line)
    return made


def test_the_result_is_what_the_last_lines_of_the_worker_say() -> None:
    found = result(*LINES)
    assert (found.inputs, found.coverage, found.features) == (5000, 51, 131)
    assert (found.longest_ms, found.peak_mb, found.failed) == (1.9, 55, False)


def test_an_input_that_was_written_to_a_file_is_a_failure() -> None:
    found = result(*LINES[:4], "artifact_prefix='b/'; Test unit written to b/crash-00ff")
    assert found.failed
    assert (found.found, found.inputs) == ("b/crash-00ff", 4096)
    assert report.row(found)[-1] == "failed"


def test_a_worker_that_ended_early_failed() -> None:
    found = result(*LINES[:4])
    found.code = -9
    assert found.failed


def test_a_worker_that_was_told_to_end_did_not_fail() -> None:
    found = result(*LINES[:4], "==7== libFuzzer: run interrupted; exiting")
    found.code = 72
    assert (found.failed, found.inputs) == (False, 4096)


def test_an_input_that_was_slow_by_the_clock_on_the_wall_is_no_failure() -> None:
    assert not result(*LINES, "artifact_prefix='b/'; Test unit written to b/slow-unit-00ff").failed


def test_results_of_several_runs_make_one_table(tmp_path: Path) -> None:
    for name, inputs in (("nflog", 7), ("netlink", 1_000_000)):
        (tmp_path / name).mkdir()
        report.save(FuzzResult(name, inputs=inputs, seconds=35.6), tmp_path / name)
    results = report.saved(tmp_path, ("netlink", "conntrack", "nflog"))
    assert [found.name for found in results] == ["netlink", "nflog"]
    lines = report.markdown(results).splitlines()
    assert len({line.count("|") for line in lines}) == 1
    assert lines[2] == "| `netlink` | 1,000,000 | 0 | 0 | 36 | 0.0 | 0 | no failure |"
    shown = report.text(results).splitlines()
    assert len({len(line) for line in shown}) == 1


def test_the_table_of_the_page_is_written_anew() -> None:
    page = f"before\n{report.BEGIN}\nold\n{report.END}\nafter\n"
    assert report.insert(page, "new") == f"before\n{report.BEGIN}\n\nnew\n\n{report.END}\nafter\n"
    with pytest.raises(ValueError, match="no lines"):
        report.insert("a page", "new")
