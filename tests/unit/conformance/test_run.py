"""The command that runs the suites: without packets, so that it needs no root."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from nfagent.cli import nfagent
from nfagent.egress.masquerade import MasqueradeSettings
from nfagent.manifests.snapshot import read_state
from tests.conformance import small
from tests.conformance.__main__ import main


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Return a folder with one suite, in which every verdict is right."""
    write(tmp_path, small.content())
    return tmp_path


def write(folder: Path, content: dict[str, Any]) -> None:
    (folder / "cyclonus.json").write_text(json.dumps(content), encoding="utf-8")


def run(folder: Path, *arguments: str) -> Result:
    fixed = ["--folder", str(folder), "--suite", "cyclonus", "--no-packets", "--replays", str(folder / "replays")]
    return CliRunner().invoke(main, [*fixed, *arguments])


def test_a_run_in_which_all_pass_ends_with_0_and_a_table(folder: Path) -> None:
    done = run(folder)
    assert done.exit_code == 0, done.stderr
    lines = [line.split() for line in done.stdout.splitlines()]
    assert ["SUITE", "OF", "CASES", *["PASSED", "FAILED", "N/A"] * 2] in lines
    assert ["cyclonus", "all", "2", "2", "0", "0", "2", "0", "0"] in lines
    assert ["core", "support", "1", "1", "0", "0", "1", "0", "0"] in lines
    assert ["create-pod", "1", "1", "0", "0", "1", "0", "0"] in lines
    assert "All as expected. 2 cases" in done.stdout
    assert not (folder / "replays").exists()


def test_a_wrong_verdict_ends_with_1_and_is_shown_with_all_that_is_needed_to_see_it_again(folder: Path) -> None:
    write(folder, small.with_rows("11", "10"))
    done = run(folder)
    assert done.exit_code == 1
    lines = [line.strip() for line in done.stdout.splitlines()]
    objects = folder / "replays" / "small-1-step-1"
    assert "small-1, step 1 (isolate, create-pod)" in lines
    assert ["x/a", "x/b", "80/tcp", "allowed", "denied", "IPv4,", "IPv6", "evaluate,", "rules"] in map(str.split, lines)
    assert f"objects:  {objects}" in lines
    command = f"nfagent explain --manifests {objects} --node a 10.64.0.11 10.64.1.11:80/tcp"
    assert f"why:      {command}" in lines
    assert "again:    python -m tests.conformance --case small-1" in lines
    explained = CliRunner().invoke(nfagent, command.split()[1:])
    assert explained.exit_code == 1, explained.stderr
    assert "NetworkPolicy x/deny" in explained.stdout


def test_the_objects_of_a_failed_step_are_those_that_were_there_after_it(folder: Path) -> None:
    write(folder, small.with_rows("11", "10"))
    run(folder)
    desired, problems = read_state(folder / "replays" / "small-1-step-1", "a", MasqueradeSettings(), 100)
    assert problems == ()
    assert [str(ref) for ref in desired.index.policies] == ["NetworkPolicy x/deny"]
    assert sorted(desired.cluster.pods) == [("x", "a"), ("x", "b")]


def test_json_has_every_count_and_every_failure(folder: Path) -> None:
    write(folder, small.with_rows("11", "10"))
    done = run(folder, "-o", "json")
    report = json.loads(done.stdout)
    whole = next(row for row in report["rows"] if row["by"] == "suite")
    assert whole["cases"] == 2
    assert whole["readings"]["rules"] == {"passed": 1, "failed": 1, "not_applicable": 0, "probes": 15}
    assert {(one["reading"], one["source_address"]) for one in report["failures"]} == {
        (reading, address) for reading in ("evaluate", "rules") for address in ("10.64.0.11", "2001:db8:0:a::b")
    }
    assert {(one["reading"], one["probes"]) for one in report["not_applicable"]} == {
        ("evaluate", 1),
        ("rules", 1),
        ("rules", 10),
    }


def test_one_case_can_be_run(folder: Path) -> None:
    write(folder, small.with_rows("11", "10"))
    assert run(folder, "--case", "small-2").exit_code == 0
    assert run(folder, "--case", "small-1").exit_code == 1


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        pytest.param(
            ["--case", "small-3"], "no case 'small-3' in cyclonus; one is small-1", id="a case that isn't there"
        ),
        pytest.param(["--suite", "tiers-v1alpha1"], "give the folder", id="a suite that isn't there"),
    ],
)
def test_a_run_that_cannot_start_exits_with_2_and_names_what_is_missing(
    folder: Path, arguments: list[str], words: str
) -> None:
    done = run(folder, *arguments)
    assert done.exit_code == 2
    assert words in done.stderr
