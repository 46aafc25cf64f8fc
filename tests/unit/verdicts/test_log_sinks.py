"""Several sinks: every line goes to each, and one that is stuck delays no other."""

from __future__ import annotations

import os
import time
from pathlib import Path

import pytest

from nfagent.verdicts.log_file import RotatingFile
from nfagent.verdicts.log_sinks import LogSinks, lost_by_reason
from nfagent.verdicts.log_stdout import StdoutSink
from nfagent.verdicts.log_stream import LogStream
from nfagent.verdicts.log_writer import LogWriter, SinkStatus
from tests.support.packet_labs import wait_until


def lines(*numbers: int) -> list[bytes]:
    return [f"line {number:019}\n".encode() for number in numbers]


def test_a_stuck_sink_loses_its_own_lines_and_the_others_have_them_all(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    reader, end = os.pipe()
    path = tmp_path / "policy_action.log"
    stdout = StdoutSink(end)
    stuck = LogWriter(stdout, queue_bytes=200_000)
    sinks = LogSinks({"stdout": stuck, "file": LogWriter(RotatingFile(path))}, LogStream())
    sinks.start()
    sinks.write(lines(*range(10_000)))
    wait_until(lambda: path.exists() and path.stat().st_size == 250_000)
    found = sinks.status()
    assert found["file"].lost_lines == 0
    assert found["stdout"].lost_by == {"queue full": 2000}
    assert sinks.problem == "the reader of stdout is too slow for the verdict log on stdout, lines are lost: queue full"
    began = time.monotonic()
    sinks.close()
    assert time.monotonic() - began < 60, "a stop doesn't wait for the stuck one"
    assert path.read_bytes() == b"".join(lines(*range(10_000)))
    assert sinks.status()["stdout"].lost_by == {"queue full": 2000, "stopped before it was written": 8000}
    assert "the reader of stdout doesn't accept the verdict log on stdout; lines dropped at this stop" in caplog.text
    os.close(reader)
    wait_until(lambda: stdout.errors > 0)  # the thread still writes, and the next file gets this descriptor's number
    os.close(end)


def test_without_sinks_nothing_is_lost_and_nothing_is_wrong() -> None:
    sinks = LogSinks({}, LogStream())
    sinks.start()
    sinks.write(lines(1))
    assert (sinks.problem, sinks.status()) == ("", {"stream": SinkStatus()})
    sinks.close()


def test_losses_of_the_sinks_add_up_by_reason_without_those_of_slow_readers() -> None:
    assert lost_by_reason(
        {
            "file": SinkStatus(lost_lines=3, lost_by={"queue full": 1, "No space left on device": 2}),
            "stdout": SinkStatus(lost_lines=4, lost_by={"queue full": 4}),
            "stream": SinkStatus(lost_lines=5, lost_by={"slow reader": 5}),
        }
    ) == {"No space left on device": 2, "queue full": 5}
