"""Each line of a log is read once, in order, also where its files are rotated while they are being opened."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

import pytest

from nfagent.cli import log_follow
from nfagent.cli.log_follow import LogFollower
from nfagent.verdicts.log_file import RotatingFile

IN_A_FILE = 5


class NumberedLog:
    """A log of numbered lines, five of which are in a file; written to as often as a test says."""

    def __init__(self, path: Path) -> None:
        self.lines: list[bytes] = []
        self._writer = RotatingFile(path, max_bytes=IN_A_FILE * len(b"00000\n"), backups=500)

    def write(self, count: int) -> None:
        added = [b"%05d\n" % number for number in range(len(self.lines), len(self.lines) + count)]
        self.lines += added
        self._writer.write(added)
        self._writer.close()


@pytest.fixture
def log(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> NumberedLog:
    monkeypatch.setattr(log_follow, "_POLL_SECONDS", 0.001)
    return NumberedLog(tmp_path / "log")


def rotate_at(monkeypatch: pytest.MonkeyPatch, log: NumberedLog, number: int, count: int) -> None:
    """Write so many lines before the first, second, ... opening of a file."""
    opening, opened = itertools.count(1), log_follow._opened  # noqa: SLF001 - nothing else tells of it

    def open_later(path: Path) -> BinaryIO:
        if next(opening) == number:
            log.write(count)
        return opened(path)

    monkeypatch.setattr(log_follow, "_opened", open_later)


def read_to_the_last(batches: Iterator[list[bytes]], log: NumberedLog) -> list[bytes]:
    """Read until the last line that was written; each of the others may be missing or come twice."""
    found: list[bytes] = []
    while not found or found[-1] != log.lines[-1]:
        found += next(batches)
    return found


@pytest.mark.parametrize("number", range(1, 10))
@pytest.mark.parametrize("rotations", [1, 2, 12])
def test_files_that_are_rotated_while_a_log_is_opened_are_read_whole(
    tmp_path: Path, log: NumberedLog, monkeypatch: pytest.MonkeyPatch, rotations: int, number: int
) -> None:
    log.write(3 * IN_A_FILE + 1)
    rotate_at(monkeypatch, log, number, rotations * IN_A_FILE)
    batches = LogFollower(tmp_path / "log").batches(follow=True)
    found = read_to_the_last(batches, log)
    log.write(3 * IN_A_FILE)
    found += read_to_the_last(batches, log)
    assert found == log.lines


@pytest.mark.parametrize("number", range(1, 5))
@pytest.mark.parametrize("rotations", [1, 2, 12])
def test_files_that_are_rotated_while_a_log_is_read_from_its_end_are_read_whole(
    tmp_path: Path, log: NumberedLog, monkeypatch: pytest.MonkeyPatch, rotations: int, number: int
) -> None:
    log.write(3 * IN_A_FILE + 1)
    rotate_at(monkeypatch, log, number, rotations * IN_A_FILE)
    found = [line for batch in LogFollower(tmp_path / "log").newest_first(follow=False) for line in batch]
    # What was written after the newest file was opened need not be there.
    assert found[::-1] == log.lines[: len(found)]
    assert len(found) >= 3 * IN_A_FILE + 1


def test_the_oldest_file_may_be_deleted_while_a_log_is_followed(tmp_path: Path, log: NumberedLog) -> None:
    log.write(3 * IN_A_FILE)
    batches = LogFollower(tmp_path / "log").batches(follow=True)
    assert read_to_the_last(batches, log) == log.lines
    for path in tmp_path.iterdir():
        path.unlink()
    log.write(IN_A_FILE)
    assert read_to_the_last(batches, log) == log.lines[-IN_A_FILE:]
