"""Work in a forked process: its memory is its own, and its failure is the caller's end."""

from __future__ import annotations

import pytest

from benchmarks.harness.fork import in_fork


def test_what_a_fork_changes_stays_there() -> None:
    numbers: list[int] = []
    in_fork(lambda: numbers.append(1), "never")
    assert numbers == []


def test_a_fork_that_fails_ends_the_caller_with_the_problem(capfd: pytest.CaptureFixture[str]) -> None:
    def fail() -> None:
        raise ValueError("why")

    with pytest.raises(SystemExit, match="the problem"):
        in_fork(fail, "the problem")
    assert "ValueError: why" in capfd.readouterr().err
