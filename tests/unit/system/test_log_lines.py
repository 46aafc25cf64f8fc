"""The forms of the agent's own log; none is written twice within a second."""

from __future__ import annotations

import json
import logging

import pytest

from nfagent.system.log_lines import formatter
from nfagent.system.repeated_lines import RepeatedLines


def record(message: str, *arguments: object, level: int = logging.INFO) -> logging.LogRecord:
    made = logging.LogRecord("nfagent.agent", level, "", 0, message, arguments, None)
    made.created = 1_800_000_000.25
    return made


def test_a_json_line_has_time_level_logger_and_message() -> None:
    line = formatter("json", journal=False).format(record("in sync: %d Pods", 7))
    assert json.loads(line) == {
        "time": "2027-01-15T08:00:00.250Z",
        "level": "info",
        "logger": "nfagent.agent",
        "message": "in sync: 7 Pods",
    }


def test_a_json_line_is_one_line_whatever_names_and_tracebacks_have() -> None:
    made = record("bad %s", "\x1b[2J\u202e\n", level=logging.ERROR)
    made.exc_info = (ValueError, ValueError("x\n<2>forged"), None)
    line = formatter("json", journal=False).format(made)
    assert line.isprintable()
    said = json.loads(line)
    assert said["message"] == "bad \x1b[2J\u202e\n"
    assert said["exception"].endswith("ValueError: x\n<2>forged")


@pytest.mark.parametrize(("level", "priority"), [(logging.DEBUG, 7), (logging.WARNING, 4), (logging.ERROR, 3)])
def test_in_the_journal_a_json_line_has_its_priority(level: int, priority: int) -> None:
    line = formatter("json", journal=True).format(record("x", level=level))
    assert line.startswith(f'<{priority}>{{"time":')


class Repetition:
    """A filter, its time, and what is written."""

    def __init__(self) -> None:
        self.now = 1000.0
        self.written: list[str] = []
        self.filter = RepeatedLines(lambda made: self.written.append(made.getMessage()), lambda: self.now)

    def log(self, made: logging.LogRecord) -> None:
        if self.filter.filter(made):
            self.written.append(made.getMessage())


def test_a_line_is_written_once_a_second_and_then_how_often_it_came() -> None:
    seen = Repetition()
    for _ in range(4):
        seen.log(record("table changed by %s", "x"))
        seen.log(record("table changed by %s", "y"))
    assert seen.written == ["table changed by x", "table changed by y"]
    seen.now += 1.0
    seen.log(record("something else"))
    assert seen.written[2:] == [
        "table changed by x (3 more times within a second)",
        "table changed by y (3 more times within a second)",
        "something else",
    ]
    seen.log(record("table changed by %s", "x"))
    assert seen.written[5:] == ["table changed by x"]


def test_at_the_end_what_was_dropped_is_written() -> None:
    seen = Repetition()
    for _ in range(2):
        seen.log(record("x"))
    seen.filter.report()
    seen.filter.report()
    assert seen.written == ["x", "x (once more within a second)"]


def test_the_same_words_at_another_level_and_tracebacks_are_written() -> None:
    seen = Repetition()
    failed = record("x", level=logging.ERROR)
    failed.exc_info = (ValueError, ValueError(), None)
    for made in (record("x"), record("x", level=logging.ERROR), failed, failed):
        seen.log(made)
    assert seen.written == ["x"] * 4


def test_a_record_whose_arguments_do_not_fit_passes() -> None:
    assert RepeatedLines(lambda _: None).filter(record("%d", "x"))


def test_lines_that_are_remembered_are_bounded() -> None:
    seen = Repetition()
    for number in range(1000):
        seen.log(record("%d", number))
    assert len(seen.written) == 1000
    seen.log(record("%d", 0))
    assert len(seen.written) == 1001, "forgotten"
    seen.log(record("%d", 999))
    assert len(seen.written) == 1001
