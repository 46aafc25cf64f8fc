"""The sink on standard output: order, a pipe without space or reader, a full disk."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from nfagent.verdicts.log_stdout import StdoutSink
from nfagent.verdicts.log_writer import LogWriter
from tests.support.disk_images import fill, tmpfs
from tests.support.packet_labs import wait_until


def lines(*numbers: int) -> list[bytes]:
    return [f"line {number:019}\n".encode() for number in numbers]


def test_lines_go_to_the_standard_output_of_the_process() -> None:
    code = "from nfagent.verdicts.log_stdout import StdoutSink; StdoutSink().write([b'one\\n', b'two\\n'])"
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, check=True, timeout=60, cwd=Path(__file__).parents[3]
    )
    assert done.stdout == b"one\ntwo\n"


def test_a_pipe_that_is_not_read_delays_no_caller_and_lines_arrive_in_order_once_it_is() -> None:
    reader, end = os.pipe()
    os.set_blocking(end, False)
    writer = LogWriter(StdoutSink(end))
    expected = lines(*range(10_000))
    writer.write(expected)
    assert writer.status().queued_lines > 0
    content = b""
    while len(content) < 250_000:
        content += os.read(reader, 65536)
    assert content == b"".join(expected)
    writer.close(30)
    assert writer.status().lost_lines == 0
    os.close(reader)
    os.close(end)


def test_without_a_reader_lines_are_counted_and_the_check_says_so() -> None:
    reader, end = os.pipe()
    sink = StdoutSink(end)
    sink.check()
    assert sink.problem == ""
    os.close(reader)
    sink.check()
    assert "Broken pipe" in sink.problem
    sink.write(lines(1, 2))
    assert (sink.lost, sink.errors) == ({"Broken pipe": 2}, 1)
    os.close(end)


def test_a_closed_standard_output_is_counted() -> None:
    reader, end = os.pipe()
    os.close(reader)
    os.close(end)
    sink = StdoutSink(end)
    sink.check()
    assert "Bad file descriptor" in sink.problem
    sink.write(lines(1))
    assert sink.lost == {"Bad file descriptor": 1}


def test_a_reader_that_leaves_while_a_line_is_written_loses_that_one_and_the_following() -> None:
    reader, end = os.pipe()
    sink = StdoutSink(end)
    writing = threading.Thread(target=sink.write, args=(lines(*range(10_000)),))
    writing.start()
    read = os.read(reader, 65536)
    os.close(reader)
    writing.join(30)
    os.close(end)
    assert sink.lost.total() <= 10_000 - read.count(b"\n")
    assert sink.lost.total() > 0


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root: a small disk")
def test_a_line_that_a_full_disk_cut_short_damages_no_other(tmp_path: Path) -> None:
    with tmpfs(tmp_path / "small", 64) as small, (small / "log").open("ab") as file:
        sink = StdoutSink(file.fileno())
        sink.write(lines(0))
        filler = fill(small)
        sink.write([b"x" * 6000 + b"\n", *lines(1)])
        assert sink.lost == {"No space left on device": 2}
        sink.write(lines(2))
        filler.unlink()
        sink.write(lines(3))
        assert sink.problem == ""
        begun, cut, last = (small / "log").read_bytes().splitlines(keepends=True)
    assert [begun, last] == [*lines(0), *lines(3)]
    assert set(cut) == set(b"x\n")
    assert sink.lost == {"No space left on device": 3}


def test_a_stalled_reader_is_a_problem_after_ten_seconds() -> None:
    now = [100.0]
    reader, end = os.pipe()
    writer = LogWriter(StdoutSink(end), monotonic=lambda: now[0])
    writer.write(lines(*range(10_000)))
    now[0] += 11
    wait_until(lambda: writer.problem != "")
    assert writer.problem == (
        "the reader of stdout hasn't accepted lines of the verdict log on stdout for more than 10 s"
    )
    os.close(reader)
    writer.close()
    os.close(end)
