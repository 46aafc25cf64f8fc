"""nfagent logs: which records, how many, in which form; sums of them; and what is wrong with a request or a log."""

from __future__ import annotations

import io
import json
import subprocess
import sys
from pathlib import Path

import pytest

from nfagent.cli.log_backwards import newest_first, split_end
from nfagent.desired.state import DesiredState
from nfagent.introspection.freshness import Freshness
from nfagent.introspection.http_stream import view_route
from nfagent.time_slices import TimeSlices
from nfagent.verdicts.log_file import RotatingFile
from nfagent.verdicts.records import encode
from tests.support.two_node_cluster import TwoNodeCluster, pod
from tests.unit.cli.agents import introspection, running
from tests.unit.cli.called import Call
from tests.unit.cli.test_logs import DB, OUTSIDE, WEB, log, numbers, record, write

__all__ = ["log"]


@pytest.fixture
def many(log: Path) -> Path:
    """Write 50 records over several rotated files."""
    writer = RotatingFile(log, max_bytes=3000, backups=30)
    for number in range(50):
        writer.write([encode(record(number, denied=number % 2 == 1))])
    writer.close()
    assert log.with_name(f"{log.name}.5").exists()
    return log


@pytest.mark.usefixtures("many")
@pytest.mark.parametrize(
    ("options", "kept"),
    [
        (["--last", "3"], [47, 48, 49]),
        (["--last", "60"], list(range(50))),
        (["--last", "3", "--verdict", "deny"], [45, 47, 49]),
        (["--first", "3"], [0, 1, 2]),
        (["--first", "2", "--verdict", "dropped"], [1, 3]),
        (["--all"], list(range(50))),
        (["--last", "2", "--not", "--verdict", "deny"], [46, 48]),
        (["--last", "2", "--not", "--to-port=80", "--not", "-n", "data"], []),
        (["--from-port", "10-12", "--not", "--from-port", "11"], [10, 12]),
        (["--port", "49", "--port", "7"], [7, 49]),
        (["-4", "-6", "--last", "1"], [49]),
        (["-6"], []),
        (["--from", "shop", "--to-pod", "data/d*", "--last", "1"], [49]),
        (["--from-ip", "10.0.0.1", "--from-ip", "192.0.2.0/24", "--last", "1"], [49]),
        (["--from-namespace", "shop", "--from-pod", "data/db"], []),
        (["--until", "2020-01-01"], []),
        (["--since", "2020-01-01T00:00:00Z", "--until", "1m", "--all"], []),
    ],
    ids=lambda value: " ".join(value) if value and isinstance(value[0], str) else None,
)
def test_options_select_records(call: Call, options: list[str], kept: list[int]) -> None:
    said = call("logs", "-o", "json", *options)
    assert said.code == (0 if kept else 2)
    assert numbers(said.out) == kept


@pytest.mark.usefixtures("many")
def test_on_a_terminal_the_last_twenty_are_shown_and_more_are_mentioned(
    call: Call, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True)
    said = call("logs", "-o", "json", "--color", "never")
    assert numbers(said.out) == list(range(30, 50))
    assert "the last 20 records; --last N shows more, --all all" in said.err
    assert len(numbers(call("logs", "-o", "json", "--all").out)) == 50


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--last", "1", "--first", "1"], "--first and --last exclude each other"),
        (["--all", "--last", "1"], "--last and --all exclude each other"),
        (["-f", "--first", "1"], "-f and --first exclude each other"),
        (["-f", "--until", "1m"], "-f and --until exclude each other"),
        (["--summary", "--top"], "--summary and --top exclude each other"),
        (["-f", "--top"], "-f and --top exclude each other"),
        (["--not"], "--not reverses the filter behind it, and there is none"),
        (["--not", "--all"], "'--all' isn't; write it like --not --to-port 53"),
        (["--not", "--not", "--port", "1"], "'--not' isn't"),
        (["--since", "yesterday"], "write a span (90s, 5m, 1h30m, 2d), a time of today (10:15), or a date like"),
        (["--from", "Shop"], "write a Pod (shop/web), a namespace (shop), a label selector"),
        (["--to-label", "a=b=c"], "write one like app=web"),
        (["--last", "0"], "0 is not in the range x>=1"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else None,
)
def test_a_request_that_cannot_be_met_is_refused(call: Call, options: list[str], said: str) -> None:
    answer = call("logs", *options)
    assert (answer.code, answer.out) == (2, "")
    assert said in answer.err


def test_without_the_state_of_the_cluster_labels_are_refused(call: Call, log: Path) -> None:
    write(log, record(1), record(2, source=OUTSIDE), record(3, source=DB, destination=WEB))
    said = call("logs", "-o", "json", "--from", "app=web")
    assert said.code == 2
    assert "label selectors, node and world need the state of the cluster, and no agent listens at" in said.err
    assert "give --manifests DIR" in said.err


def test_the_running_agent_tells_labels(call: Call, log: Path) -> None:
    write(log, record(1), record(2, source=OUTSIDE), record(3, source=DB, destination=WEB))
    desired = TwoNodeCluster(pod("shop/web", "a", 10, app="web"), pod("data/db", "a", 20, app="db")).views["a"]
    answers = introspection(desired)
    with running(answers, routes=[view_route("/v1/peers", answers.peers, TimeSlices())]):
        assert numbers(call("logs", "-o", "json", "--from", "app=web").out) == [1]
        assert numbers(call("logs", "-o", "json", "--to-label", "app in (web,db)", "--not", "-l", "app=x").out) == [
            1,
            2,
            3,
        ]
        assert numbers(call("logs", "-o", "json", "--from", "world").out) == [2]


def test_an_agent_that_has_not_read_the_cluster_decides_about_no_label(call: Call, log: Path) -> None:
    write(log, record(1))
    answers = introspection(DesiredState("a"), freshness=Freshness(unread=("Pod",)))
    with running(answers, routes=[view_route("/v1/peers", answers.peers, TimeSlices())]):
        said = call("logs", "--from", "app=web")
    assert (said.code, said.out) == (2, "")
    assert "the filter has no verdict yet: the agent hasn't read the whole cluster yet" in said.err


def test_an_agent_of_another_version_is_named_as_such(call: Call, log: Path) -> None:
    write(log, record(1))
    with running(introspection(DesiredState("a"))):
        said = call("logs", "--from", "app=web")
    assert (said.code, said.out) == (2, "")
    assert "the running agent is older than this command; systemctl restart nfagent" in said.err


def test_manifests_tell_labels_too(call: Call, log: Path, manifests: Path) -> None:
    write(log, record(1), record(2, source=OUTSIDE), record(3, source=DB, destination=WEB))
    said = call("logs", "-o", "json", "--from", "app=web", "--manifests", manifests)
    assert numbers(said.out) == [1]
    assert "labels of Pods that are gone aren't known, so no selector matches data/db" in said.err
    assert numbers(call("logs", "-o", "json", "--not", "--from", "app=web", "--manifests", manifests).out) == [2, 3]


def test_a_log_of_another_program_is_named_as_such(call: Call, log: Path) -> None:
    log.parent.mkdir()
    log.write_text("Jan 1 kernel: DROP\n" * 3)
    said = call("logs")
    assert said.code == 2
    assert f"none of the lines of {log} is a record" in said.err
    assert "skipped 3 invalid lines" in said.err


def test_without_a_log_nothing_is_said_but_that(call: Call, log: Path) -> None:
    said = call("logs")
    assert (said.code, said.err.count("\n")) == (2, 1)
    assert f"{log}: no verdict log yet" in said.err


def test_without_a_log_an_agent_that_is_not_there_is_said_and_another_file_by_its_name(call: Call, log: Path) -> None:
    assert f"{log}: no verdict log yet, and no agent listens at" in call("logs").err
    assert "there is no such file; without --file:" in call("logs", "--file", log.with_name("other")).err


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (("--since", "1m", "--until", "2m"), "isn't before --until"),
        (("--since", "2999-01-01"), "is in the future"),
    ],
    ids=["an end before the begin", "the future"],
)
def test_times_between_which_no_record_can_be_are_wrong_usage(
    call: Call, log: Path, options: tuple[str, ...], words: str
) -> None:
    write(log, record(1))
    said = call("logs", *options)
    assert (said.code, said.out) == (2, "")
    assert words in said.err


def test_a_command_that_follows_ends_when_its_reader_leaves(log: Path) -> None:
    """Without a record to write, the broken pipe would show never."""
    write(log, record(1))
    command = [sys.executable, "-m", "nfagent", "logs", "-f", "--file", str(log)]
    with subprocess.Popen(command, stdout=subprocess.PIPE) as following:
        assert following.stdout is not None
        assert following.stdout.readline()
        following.stdout.close()
        try:
            assert following.wait(60) == 130
        finally:
            following.kill()


def test_stdin_is_read(call: Call, monkeypatch: pytest.MonkeyPatch) -> None:
    lines = b"".join(encode(record(number)) for number in range(30))
    for options, kept in ((["--last", "2"], [28, 29]), (["--first", "1"], [0])):
        monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(lines)))
        assert numbers(call("logs", "--file", "-", "-o", "json", *options).out) == kept


def test_wide_has_addresses_kinds_and_the_node(call: Call, log: Path) -> None:
    write(log, record(1, denied=True))
    header, row = call("logs", "-o", "wide").out.splitlines()
    assert header.split() == [
        "TIME", "NODE", "VERDICT", "DIRECTION", "SOURCE", "DESTINATION", "PROTOCOL", "POLICIES", "COUNT",
    ]  # fmt: skip
    assert row.split()[1:] == [
        "node-a", "deny", "ingress", "shop/web", "(10.0.0.1:1)", "data/db", "(10.0.0.2:80)", "tcp",
        "NetworkPolicy", "data/wall", "1",
    ]  # fmt: skip


@pytest.mark.parametrize("columns", [40, 60])
@pytest.mark.parametrize("form", ["compact", "wide"])
def test_in_a_narrow_terminal_each_record_has_lines_of_its_own(
    call: Call, log: Path, monkeypatch: pytest.MonkeyPatch, columns: int, form: str
) -> None:
    monkeypatch.setenv("COLUMNS", str(columns))
    write(log, record(1, denied=True))
    lines = call("logs", "-o", form).out.splitlines()
    assert max(map(len, lines)) <= columns
    text = " ".join(" ".join(lines).split())
    assert "deny ingress" in text
    assert ("shop/web -> data/db:80/tcp by data/wall" if form == "compact" else "on node-a") in text


@pytest.mark.parametrize(
    ("form", "shown"),
    [
        ("RFC3339", "2026-01-02T03:04:05Z"),
        ("rfc3339nano", "2026-01-02T03:04:05.678901234Z"),
        ("StampMilli", "Jan  2 03:04:05.678"),
        ("RFC1123Z", "Fri, 02 Jan 2026 03:04:05 +0000"),
        ("YearMonthDayHour", "2026-01-02T03+0000"),
    ],
)
def test_times_are_shown_in_the_formats_that_hubble_has(
    call: Call, log: Path, monkeypatch: pytest.MonkeyPatch, form: str, shown: str
) -> None:
    monkeypatch.setenv("TZ", "UTC")
    log.parent.mkdir()
    log.write_bytes(encode(record(1)).replace(json.loads(encode(record(1)))["timestamp"].encode(), b""))
    line = json.loads(encode(record(1)))
    line["timestamp"] = "2026-01-02T03:04:05.678901234Z"
    log.write_text(json.dumps(line) + "\n")
    assert call("logs", "--time-format", form).out.splitlines()[1].startswith(shown)


def test_color_can_be_forced_and_switched_off(call: Call, log: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write(log, record(1, denied=True))
    assert "\x1b[31mdeny\x1b[0m" in call("logs", "--color", "always").out
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True)
    assert "\x1b" not in call("logs", "--color", "never").out


@pytest.mark.usefixtures("many")
def test_a_summary_says_who_talks_to_whom(call: Call) -> None:
    said = call("logs", "--summary")
    lines = said.out.splitlines()
    assert lines[0].split() == ["records", "50:", "25", "allow,", "25", "deny"]
    assert [line.split()[:5] for line in lines[3:]] == [
        ["SOURCE", "DESTINATION", "VERDICT", "PACKETS", "RECORDS"],
        ["shop/web", "data/db:80/tcp", "deny", "25", "25"],
        ["shop/web", "data/db:80/tcp", "allow", "25", "25"],
    ]
    value = json.loads(call("logs", "--summary", "1", "-o", "json").out)
    assert (len(value["pairs"]), value["pairs_in_all"], value["error"]) == (1, 2, 0)


@pytest.mark.usefixtures("many")
def test_top_says_what_is_denied_most(call: Call) -> None:
    out = call("logs", "--top", "--last", "10").out
    assert "denied  5 records" in out
    for header, name in (("SOURCE", "shop/web"), ("DESTINATION", "data/db"), ("PORT", "80/tcp")):
        lines = out.splitlines()
        at = next(number for number, line in enumerate(lines) if line.startswith(f"DENIED {header}"))
        assert lines[at + 1].split()[:3] == [name, "5", "5"]
    assert json.loads(call("logs", "--top", "-o", "json").out)["policies"][0]["name"] == "data/wall"


def test_a_sum_of_nothing_is_reported_as_nothing(call: Call, log: Path) -> None:
    write(log, record(1))
    said = call("logs", "--top", "-n", "elsewhere")
    assert (said.code, said.out) == (2, "")
    assert "none of 1 record matches" in said.err


@pytest.mark.parametrize("size", [0, 1, 10, 1000])
def test_lines_are_read_from_the_end_whatever_the_size_of_a_block(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, size: int
) -> None:
    lines = [b"x" * (number * 7 % 41) + b"\n" for number in range(60)]
    lines = [line for line in lines if line.strip()]
    path = tmp_path / "log"
    path.write_bytes(b"".join(lines) + b"unfinished")
    monkeypatch.setattr("nfagent.cli.log_backwards._BLOCK", size or 64)
    with path.open("rb") as file:
        end, unfinished = split_end(file)
        assert unfinished == b"unfinished"
        assert [line for batch in newest_first(file, end) for line in batch] == lines[::-1]
    assert end == path.stat().st_size - len(b"unfinished")
