"""`nfagent lab report` in the terminal."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from nfagent.lab.latency.samples import LabSamples, Rate, Series, Try, encode_samples
from tests.support.latency_samples import even_tries, latency_samples, whole_run
from tests.unit.cli.called import Call

COLUMNS = 80


@pytest.fixture(autouse=True)
def _matplotlib_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MPLCONFIGDIR", str(tmp_path / "matplotlib"))


def written(folder: Path, name: str, samples: LabSamples) -> Path:
    path = folder / name
    path.write_bytes(encode_samples(samples))
    return path


def small(slower: float = 1) -> LabSamples:
    return latency_samples(
        [
            Series("policy-created", 0, 10, "nftables", even_tries(1500 * slower, commit=900 * slower)),
            Series("policy-created", 0, 10, "ebpf", even_tries(1000, commit=400)),
        ],
        rates=[Rate("ebpf", "rss_bytes", 0, 10, [1e8])],
    )


def test_a_report_is_written_beside_its_samples(tmp_path: Path, call: Call) -> None:
    file = written(tmp_path, "run.json", small())
    said = call("lab", "report", file)
    assert (said.code, said.err) == (0, "")
    assert said.out.splitlines()[-1] == f"report: {tmp_path}/run-report/report.html"
    assert (tmp_path / "run-report" / "report.html").exists()
    assert "       0  1.50x (1.50 to 1.50) within  1.50x (1.50 to 1.50) within" in said.out.splitlines()


def test_what_a_run_lacks_comes_first(tmp_path: Path, call: Call) -> None:
    file = written(tmp_path, "run.json", latency_samples(small().series, incomplete="interrupted \x1b[31m"))
    lines = call("lab", "report", file, "--folder", tmp_path / "out").out.splitlines()
    assert lines[0] == r"incomplete: The run ended before its last try: interrupted \x1b[31m."
    assert lines[1].startswith("incomplete: Not measured: policy-deleted, ")
    assert lines[2].startswith("Netfilter is within 2x of eBPF")


def test_the_verdict_is_there_as_json(tmp_path: Path, call: Call) -> None:
    late = Series("policy-deleted", 0, 10, "nftables", [Try(None, {})] * 200)
    ebpf = Series("policy-deleted", 0, 10, "ebpf", even_tries(1000))
    file = written(tmp_path, "run.json", latency_samples([*small(3).series, late, ebpf]))
    said = call("lab", "report", file, "-o", "json")
    value = json.loads(said.out, parse_constant=lambda constant: pytest.fail(f"not JSON: {constant}"))
    assert value["report"] == f"{tmp_path}/run-report/report.html"
    assert value["complete"] is False
    created, deleted = value["verdicts"]
    assert created["p50"]["outcome"] == "not within"
    assert created["p50"]["stage"] == "commit"
    assert created["p50"]["ratio"]["value"] == pytest.approx(4.5, abs=0.01)
    assert deleted["p50"] == {
        "outcome": "not within",
        "ratio": {"value": None, "low": None, "high": None},
        "reason": "",
        "stage": "",
        "stage_us": 0.0,
    }


def test_two_runs_are_compared_in_a_table_that_fits_the_terminal(tmp_path: Path, call: Call) -> None:
    a = written(tmp_path, "a.json", whole_run(1, count=120))
    b = written(tmp_path, "b.json", whole_run(2, sizes=(0, 1000), count=120, slower=9))
    said = call("lab", "report", "--compare", a, b)
    assert (said.code, said.err) == (0, "")
    lines = said.out.splitlines()
    table = lines[lines.index("") : len(lines) - lines[::-1].index("")]
    assert len(table) == 1 + 1 + 7 * (1 + 6) + 1
    assert max(map(len, table)) <= COLUMNS
    assert ["10,000", "nftables", *2 * ["not", "measured", "in", "B"]] in [line.split() for line in table]
    assert sorted(path.name for path in tmp_path.iterdir() if path.is_dir()) in ([], ["matplotlib"])


def test_a_comparison_is_a_page_where_a_folder_is_given_and_json_where_asked(tmp_path: Path, call: Call) -> None:
    a, b = written(tmp_path, "a.json", small()), written(tmp_path, "b.json", small(2))
    said = call("lab", "report", "--compare", a, b, "--folder", tmp_path / "out", "-o", "json")
    value = json.loads(said.out)
    ours, theirs = value["changes"]
    (rate,) = value["rates"]
    assert (rate["quantity"], rate["path"], rate["ratio"]["value"]) == ("rss_bytes", "ebpf", 1.0)
    assert (ours["path"], ours["p50"]["change"]) == ("nftables", "longer")
    assert (theirs["path"], theirs["p50"]["change"]) == ("ebpf", "no difference shown")
    assert "2.00x (2.00 to 2.00), longer" in (tmp_path / "out" / "report.html").read_text("utf-8")


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        (["lab", "report"], "error: no samples given; give the file that `nfagent lab latency -o FILE` wrote"),
        (["lab", "report", "a.json", "--compare", "b.json", "c.json"], "error: --compare takes two files, and a.json"),
        (["lab", "report", "--compare", "a.json"], "error: Option '--compare' requires 2 arguments."),
        (["lab", "report", "absent.json"], "error: absent.json: cannot be read: No such file or directory"),
    ],
    ids=["no file", "a third file", "one file to compare", "a file that isn't there"],
)
def test_wrong_usage_is_named(call: Call, arguments: list[str], complaint: str) -> None:
    said = call(*arguments)
    assert said.code == 2
    assert said.err.startswith(complaint)
    assert said.out == ""


def test_damaged_samples_are_named_and_nothing_is_written(tmp_path: Path, call: Call) -> None:
    file = written(tmp_path, "run.json", small())
    file.write_bytes(file.read_bytes()[:-100])
    said = call("lab", "report", file)
    assert said.code == 2
    assert said.err.startswith(f"error: {file}: not JSON: ")
    assert not (tmp_path / "run-report").exists()
