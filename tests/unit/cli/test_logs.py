"""nfagent logs: filters, rotated files, following."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import click
import msgspec
import pytest

from nfagent.cli.log_times import parse_ago
from nfagent.config import load_settings
from nfagent.verdicts.log_file import RotatingFile
from nfagent.verdicts.records import PolicyName, Record, RecordConnection, RecordEndpoint, encode, timestamp
from tests.unit.cli.called import Call

WEB = RecordEndpoint(pod_name="web", workload_kind="Pod", workload_name="web", pod_namespace="shop", namespace="shop")
DB = RecordEndpoint(pod_name="db", workload_kind="Pod", workload_name="db", pod_namespace="data", namespace="data")
OUTSIDE = RecordEndpoint(instance="2001:db8::9")
A_FEW = 3


def record(
    number: int, *, age: int = 0, source: RecordEndpoint = WEB, destination: RecordEndpoint = DB, denied: bool = False
) -> Record:
    """Return a record that its source port identifies."""
    policies = (PolicyName("np", "data", "NetworkPolicy"),)
    return Record(
        connection=RecordConnection(
            src_ip="10.0.0.1", dest_ip="10.0.0.2", src_port=number, dest_port=80, protocol="tcp", direction="ingress"
        ),
        disposition="deny" if denied else "allow",
        policies=() if denied else policies,
        isolating_policies=(PolicyName("wall", "data", "NetworkPolicy"),) if denied else (),
        src=source,
        dest=destination,
        count=1,
        node_name="node-a",
        timestamp=timestamp(time.time_ns() - age * 1_000_000_000),
    )


@pytest.fixture
def log(tmp_path: Path) -> Path:
    """Return the path of the log in the settings."""
    return tmp_path / "log" / "policy_action.log"


def write(path: Path, *records: Record) -> None:
    writer = RotatingFile(path)
    writer.write([encode(item) for item in records])
    writer.close()


def numbers(output: str) -> list[int]:
    return [json.loads(line)["connection"]["src_port"] for line in output.splitlines()]


def four() -> tuple[Record, ...]:
    """Return records of now, but for the last one: a test run may take longer than --since says."""
    return (
        record(1),
        record(2, denied=True),
        record(3, source=OUTSIDE, denied=True),
        record(4, destination=OUTSIDE, age=7200),
    )


@pytest.mark.parametrize(
    ("options", "kept"),
    [
        ([], [1, 2, 3, 4]),
        (["--verdict", "deny"], [2, 3]),
        (["-n", "shop"], [1, 2, 4]),
        (["-n", "data"], [1, 2, 3]),
        (["--pod", "shop/web"], [1, 2, 4]),
        (["--pod", "data/web"], []),
        (["--policy", "data/wall"], [2, 3]),
        (["--policy", "data/np"], [1, 4]),
        (["--since", "1h30m"], [1, 2, 3]),
        (["--since", "1h", "--verdict", "allow"], [1]),
    ],
    ids=lambda value: " ".join(value) if value and isinstance(value[0], str) else None,
)
def test_options_filter_records(call: Call, log: Path, options: list[str], kept: list[int]) -> None:
    write(log, *four())
    said = call("logs", "-o", "json", *options)
    assert said.code == (0 if kept else 2)
    assert numbers(said.out) == kept


def test_text_is_aligned_and_names_connections_as_explain_does(call: Call, log: Path) -> None:
    write(log, *four())
    header, *rows = call("logs").out.splitlines()
    assert header.split() == ["TIME", "VERDICT", "DIRECTION", "CONNECTION", "POLICIES", "COUNT"]
    begin, policies = header.index("CONNECTION"), header.index("POLICIES")
    assert [row[begin:policies].rstrip() for row in rows] == [
        "shop/web -> data/db:80/tcp",
        "shop/web -> data/db:80/tcp",
        "2001:db8::9 -> data/db:80/tcp",
        "shop/web -> [2001:db8::9]:80/tcp",
    ]
    assert [row[policies:].split() for row in rows] == [
        ["data/np", "1"],
        ["data/wall", "1"],
        ["data/wall", "1"],
        ["data/np", "1"],
    ]


def test_records_are_written_in_json_as_they_are_in_the_log(call: Call, log: Path) -> None:
    write(log, *four())
    assert call("logs", "-o", "json").out.encode() == log.read_bytes()


def test_what_is_left_of_a_line_that_a_crash_cut_short_is_no_invalid_line(call: Call, log: Path) -> None:
    log.parent.mkdir()
    log.write_bytes(encode(record(1)) + encode(record(2))[:100])
    write(log, record(3))
    said = call("logs", "-o", "json")
    assert (numbers(said.out), said.err) == ([1, 3], "")


def test_older_files_are_read_first(call: Call, log: Path) -> None:
    writer = RotatingFile(log, max_bytes=1500, backups=30)
    for number in range(40):
        writer.write([encode(record(number))])
    writer.close()
    assert log.with_name(f"{log.name}.10").exists(), "there must be a name that sorts wrongly as text"
    assert numbers(call("logs", "-o", "json").out) == list(range(40))


def test_invalid_lines_are_counted_and_skipped(call: Call, log: Path) -> None:
    write(log, record(1))
    with log.open("ab") as file:
        file.write(b"nonsense\n{}\n\xff\n" + encode(record(2)) + b'{"cut off')
    said = call("logs", "-o", "json")
    assert numbers(said.out) == [1, 2]
    assert "skipped 4 invalid lines" in said.err


def test_a_filter_without_matches_is_reported(call: Call, log: Path) -> None:
    write(log, *four())
    said = call("logs", "-n", "elsewhere")
    assert (said.code, said.out) == (2, "")
    assert "none of 4 records matches; is logging on for these connections, and do the names exist (" in said.err
    assert "names" not in call("logs", "--protocol", "udp").err


def test_without_a_log_the_error_names_the_switch(call: Call) -> None:
    path = load_settings().socket_path
    path.parent.mkdir(exist_ok=True)
    with socket.socket(socket.AF_UNIX) as agent:
        agent.bind(str(path))
        agent.listen()
        said = call("logs")
    assert said.code == 2
    assert "NetworkLogging" in said.err


def test_another_file_can_be_read(call: Call, tmp_path: Path) -> None:
    write(tmp_path / "elsewhere.log", record(7))
    assert numbers(call("logs", "--file", tmp_path / "elsewhere.log", "-o", "json").out) == [7]


@pytest.mark.parametrize(
    ("text", "seconds"), [("90s", 90), ("5m", 300), ("1h30m", 5400), ("2d", 172800)], ids=["90s", "5m", "1h30m", "2d"]
)
def test_time_spans_are_read(text: str, seconds: int) -> None:
    assert parse_ago(text) == seconds


@pytest.mark.parametrize("text", ["", "5", "m", "5 m", "-5m", "5x", "1h30", "9" * 5000 + "d"])
def test_an_invalid_time_span_is_refused_with_an_example(text: str) -> None:
    with pytest.raises(click.BadParameter, match="write one like 90s"):
        parse_ago(text)


@contextmanager
def following(path: Path, *options: str) -> Iterator[subprocess.Popen[str]]:
    command = [sys.executable, "-m", "nfagent", "logs", "-f", "-o", "json", "--file", str(path), *options]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        try:
            yield process
        finally:
            process.kill()


def read_numbers(process: subprocess.Popen[str], count: int) -> list[int]:
    # Each line is an event to wait for; the deadline is the test's own.
    assert process.stdout is not None
    return [numbers(process.stdout.readline())[0] for _ in range(count)]


def test_following_goes_on_through_rotations(tmp_path: Path) -> None:
    path = tmp_path / "policy_action.log"
    writer = RotatingFile(path, max_bytes=3000, backups=50)
    writer.write([encode(record(0))])
    with following(path) as process:
        assert read_numbers(process, 1) == [0]
        for first in (1, 11, 61):  # a few, then more than one rotation at once, then more again
            last = first + {1: 10, 11: 50, 61: 100}[first]
            writer.write([encode(record(number)) for number in range(first, last)])
            assert read_numbers(process, last - first) == list(range(first, last))
    assert path.with_name(f"{path.name}.5").exists()
    writer.close()


def test_following_begins_with_the_last_records_and_loses_none_behind_them(tmp_path: Path) -> None:
    path = tmp_path / "policy_action.log"
    writer = RotatingFile(path, max_bytes=3000, backups=50)
    writer.write([encode(record(number)) for number in range(20)])
    with path.open("ab") as file:
        file.write(encode(record(20))[:50])
    with following(path, "--last", "2") as process:
        assert read_numbers(process, 2) == [18, 19]
        with path.open("ab") as file:
            file.write(encode(record(20))[50:])
        writer.write([encode(record(number)) for number in range(21, 60)])
        assert read_numbers(process, 40) == list(range(20, 60))
    writer.close()


def test_following_waits_for_a_missing_log(tmp_path: Path) -> None:
    path = tmp_path / "later" / "policy_action.log"
    with following(path) as process:
        write(path, record(5))
        assert read_numbers(process, 1) == [5]


def test_following_a_truncated_file_starts_over(tmp_path: Path) -> None:
    path = tmp_path / "policy_action.log"
    write(path, *(record(number) for number in range(A_FEW)))
    with following(path) as process:
        assert read_numbers(process, A_FEW) == [0, 1, 2]
        path.write_bytes(encode(record(9)))
        assert read_numbers(process, 1) == [9]


def test_following_waits_for_the_rest_of_a_line(tmp_path: Path) -> None:
    path = tmp_path / "policy_action.log"
    line = encode(record(2))
    path.write_bytes(encode(record(1)) + line[:50])
    with following(path) as process:
        assert read_numbers(process, 1) == [1]
        with path.open("ab") as file:
            file.write(line[50:])
        assert read_numbers(process, 1) == [2]


@pytest.mark.parametrize("options", [(), ("-f",)], ids=["read", "followed"])
def test_a_fifo_in_place_of_the_log_is_an_error_without_waiting(
    call: Call, tmp_path: Path, options: tuple[str, ...]
) -> None:
    fifo = tmp_path / "fifo"
    os.mkfifo(fifo)
    said = call("logs", "--file", fifo, *options)
    assert said.code == 2
    assert f"{fifo} can't be read: not a regular file; use sudo, or another --file" in said.err


def test_a_long_policy_goes_on_in_its_column_and_the_count_stays_in_the_first_line(
    call: Call, log: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "120")
    name = "allow-" + "metrics-" * 9 + "only"
    policies = (PolicyName(name, "data", "NetworkPolicy"),)
    write(log, record(1), msgspec.structs.replace(record(2), policies=policies))
    header, short, first, *more = call("logs").out.splitlines()
    begin = header.index("POLICIES")
    assert header.endswith("COUNT")
    assert [line.split()[-1] for line in (short, first)] == ["1", "1"]
    assert all(line[:begin].isspace() for line in more)
    assert first[begin:].split()[0] + "".join(line.strip() for line in more) == f"data/{name}"
    assert max(map(len, (header, short, first, *more))) <= 120
