"""The agent's own log, where nobody reads it: nobody is held up, and what is lost is counted and said."""

from __future__ import annotations

import fcntl
import logging
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager

from nfagent.edge.stderr_log import StderrLog, lost_lines
from tests.labs import wait_until

PAGE = 4096
LONGEST_CALL = 0.5


@contextmanager
def pipe() -> Iterator[tuple[int, int]]:
    """Make a pipe that takes a page."""
    reader, writer = os.pipe()
    fcntl.fcntl(writer, fcntl.F_SETPIPE_SZ, PAGE)
    try:
        yield reader, writer
    finally:
        os.close(reader)
        os.close(writer)


def record(words: str) -> logging.LogRecord:
    return logging.LogRecord("nfagent", logging.INFO, "", 0, words, (), None)


def test_lines_come_in_their_order() -> None:
    with pipe() as (reader, writer):
        log = StderrLog(writer)
        for number in range(10):
            log.emit(record(f"line {number}"))
        log.flush()
        assert os.read(reader, PAGE) == b"".join(b"line %d\n" % number for number in range(10))
        assert log.lost_lines == 0


def test_a_reader_that_stops_holds_nobody_up_and_learns_what_it_lost() -> None:
    with pipe() as (reader, writer):
        log = StderrLog(writer, queue_bytes=2 * PAGE)
        began = time.monotonic()
        for number in range(1000):
            log.emit(record(f"{number:031}"))
        assert time.monotonic() - began < LONGEST_CALL
        assert log.lost_lines > 500
        lost = log.lost_lines

        found = b""
        while log.waiting or not found.endswith(b"\n"):
            found += os.read(reader, PAGE)
        log.emit(record("again"))
        log.flush()
        while not found.endswith(b"again\n"):
            found += os.read(reader, PAGE)
        *whole, said, last = found.decode().splitlines()
        assert whole == [f"{number:031}" for number in range(1000 - lost)]
        assert (said, last) == (f"nobody read this log for a while; lines lost: {lost}", "again")


def test_what_this_process_lost_is_counted() -> None:
    with pipe() as (_, writer):
        log = StderrLog(writer, queue_bytes=PAGE)
        logging.getLogger().addHandler(log)
        try:
            log.emit(record("x" * 2 * PAGE))
            assert lost_lines() == 1
        finally:
            logging.getLogger().removeHandler(log)


def test_a_flush_waits_no_longer_than_it_may() -> None:
    with pipe() as (reader, writer):
        log = StderrLog(writer)
        log.emit(record("x" * 3 * PAGE))
        began = time.monotonic()
        log.flush(0.05)
        assert log.waiting
        assert time.monotonic() - began < LONGEST_CALL
        while log.waiting:
            os.read(reader, PAGE)


def test_a_reader_that_went_away_is_no_error() -> None:
    reader, writer = os.pipe()
    os.close(reader)
    try:
        log = StderrLog(writer)
        log.emit(record("to nobody"))
        wait_until(lambda: not log.waiting)
        assert not log.waiting
    finally:
        os.close(writer)


def test_a_record_that_does_not_fit_its_arguments_is_written_all_the_same() -> None:
    with pipe() as (reader, writer):
        log = StderrLog(writer)
        log.emit(logging.LogRecord("nfagent", logging.ERROR, "", 0, "%d Pods", ("no number",), None))
        log.flush()
        assert os.read(reader, PAGE) == b"error '%d Pods'\n"


ENDING = """
import logging
from nfagent.cli.run import _log_to_stderr
_log_to_stderr("info")
logging.getLogger("nfagent").info("x" * 100_000)
"""


def test_a_process_ends_whose_log_nobody_reads() -> None:
    with pipe() as (_, writer):
        subprocess.run([sys.executable, "-c", ENDING], stderr=writer, check=True, timeout=50)
