"""The agent's log without a reader: no caller is blocked, and lost lines are counted and reported."""

from __future__ import annotations

import fcntl
import logging
import os
import select
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from nfagent.system.stderr_log import StderrLog, lost_lines
from tests.support.packet_labs import wait_until

PAGE = 4096
DEADLINE = 60.0


@contextmanager
def pipe() -> Iterator[tuple[int, int]]:
    """Return a pipe with a capacity of one page."""
    reader, writer = os.pipe()
    fcntl.fcntl(writer, fcntl.F_SETPIPE_SZ, PAGE)
    try:
        yield reader, writer
    finally:
        os.close(reader)
        os.close(writer)


def available(reader: int) -> bytes:
    """Return what is in a pipe, at most a page; wait 10 ms for the first byte: the log may have written everything."""
    return os.read(reader, PAGE) if select.select([reader], [], [], 0.01)[0] else b""


def record(words: str) -> logging.LogRecord:
    return logging.LogRecord("nfagent", logging.INFO, "", 0, words, (), None)


def test_lines_are_written_in_order() -> None:
    with pipe() as (reader, writer):
        log = StderrLog(writer)
        for number in range(10):
            log.emit(record(f"line {number}"))
        log.flush(DEADLINE)
        assert available(reader) == b"".join(b"line %d\n" % number for number in range(10))
        assert log.lost_lines == 0


def test_a_stalled_reader_blocks_no_caller_and_gets_the_number_of_lost_lines() -> None:
    with pipe() as (reader, writer):
        log = StderrLog(writer, queue_bytes=2 * PAGE)
        # The pipe is full before the first line: the thread writes none, however fast it is, so the queue only fills.
        os.write(writer, b"x" * PAGE)
        # Nothing is read meanwhile: a call that waits for the reader never returns.
        for number in range(1000):
            log.emit(record(f"{number:031}"))
        queued = 2 * PAGE // 32
        lost = log.lost_lines
        assert lost == 1000 - queued
        assert available(reader) == b"x" * PAGE

        found = b""
        while log.waiting or not found.endswith(b"\n"):
            found += available(reader)
        log.emit(record("again"))
        while not found.endswith(b"again\n"):
            found += available(reader)
        *whole, said, last = found.decode().splitlines()
        assert whole == [f"{number:031}" for number in range(queued)]
        assert (said, last) == (f"log output was blocked or refused; lost_lines={lost}", "again")


def test_lines_refused_by_a_full_disk_are_reported_when_there_is_space_again(tmp_path: Path) -> None:
    disk = os.open("/dev/full", os.O_WRONLY)
    log = StderrLog(disk)
    log.emit(record("one"))
    wait_until(lambda: not log.waiting, DEADLINE)
    log.emit(record("two"))  # it begins with telling of the first, which is refused too
    wait_until(lambda: not log.waiting, DEADLINE)
    assert log.lost_lines == 2
    os.close(disk)
    resolved = os.open(tmp_path / "log", os.O_WRONLY | os.O_CREAT)
    os.dup2(resolved, disk)
    log.emit(record("three"))
    log.flush(DEADLINE)
    os.close(disk)
    if resolved != disk:
        os.close(resolved)
    said, last = (tmp_path / "log").read_text().splitlines()
    assert (said, last) == ("log output was blocked or refused; lost_lines=2", "three")


def test_a_non_blocking_pipe_loses_no_line_to_a_slow_reader() -> None:
    with pipe() as (reader, writer):
        os.set_blocking(writer, False)
        log = StderrLog(writer)
        for number in range(1000):
            log.emit(record(f"{number:031}"))
        found = b""
        while log.waiting:
            found += available(reader)
        found += available(reader)
        assert found.decode().splitlines() == [f"{number:031}" for number in range(1000)]
        assert log.lost_lines == 0


def test_lost_lines_of_the_process_are_counted() -> None:
    with pipe() as (_, writer):
        log = StderrLog(writer, queue_bytes=PAGE)
        logging.getLogger().addHandler(log)
        try:
            log.emit(record("x" * 2 * PAGE))
            assert lost_lines() == 1
        finally:
            logging.getLogger().removeHandler(log)


def test_a_flush_has_a_time_limit() -> None:
    with pipe() as (reader, writer):
        log = StderrLog(writer)
        log.emit(record("x" * 3 * PAGE))
        # Nothing is read meanwhile: without a limit it never returns.
        log.flush(0.05)
        assert log.waiting
        while log.waiting:
            available(reader)


def test_a_closed_pipe_is_no_error() -> None:
    reader, writer = os.pipe()
    os.close(reader)
    try:
        log = StderrLog(writer)
        log.emit(record("to no reader"))
        wait_until(lambda: not log.waiting, DEADLINE)
        assert not log.waiting
    finally:
        os.close(writer)


def test_a_record_with_wrong_arguments_is_written() -> None:
    with pipe() as (reader, writer):
        log = StderrLog(writer)
        log.emit(logging.LogRecord("nfagent", logging.ERROR, "", 0, "%d Pods", ("no number",), None))
        log.flush(DEADLINE)
        assert available(reader) == b"error '%d Pods'\n"


ENDING = """
import logging
from nfagent.system.own_log import OwnLog
OwnLog().start("info", "text")
logging.getLogger("nfagent").info("x" * 100_000)
"""


def test_a_process_whose_log_has_no_reader_ends() -> None:
    with pipe() as (_, writer):
        subprocess.run([sys.executable, "-c", ENDING], stderr=writer, check=True, timeout=50)
