"""Calls to file systems that may never answer: the others go on, and nothing is asked twice at once."""

from __future__ import annotations

import errno
import threading
from collections.abc import Iterator

import pytest

from nfagent.system.bounded_calls import BoundedCalls

SHORT = 0.05
LONG = 60.0


@pytest.fixture
def gate() -> Iterator[threading.Event]:
    """Give what a stuck call waits for; opened in the end."""
    gate = threading.Event()
    yield gate
    gate.set()


def brief(answer: str | OSError) -> str:
    return errno.errorcode[answer.errno or 0] if isinstance(answer, OSError) else answer


def test_every_key_has_its_answer_in_order_and_errors_are_answers() -> None:
    def call(key: str) -> str:
        if key == "b":
            raise OSError(errno.EIO, "Input/output error")
        return key.upper()

    answers = BoundedCalls(LONG).each(call, "abc")
    assert [(key, brief(answer)) for key, answer in answers] == [("a", "A"), ("b", "EIO"), ("c", "C")]


def no_thread(_: threading.Thread) -> None:
    raise RuntimeError("can't start new thread")


def test_where_no_thread_can_be_started_that_is_an_error_of_each_and_the_next_look_is_none(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    calls = BoundedCalls(LONG)
    with monkeypatch.context() as without:
        without.setattr(threading.Thread, "start", no_thread)
        assert [(key, brief(answer)) for key, answer in calls.each(str.upper, "ab")] == [
            ("a", "EAGAIN"),
            ("b", "EAGAIN"),
        ]
    assert [(key, brief(answer)) for key, answer in calls.each(str.upper, "ab")] == [("a", "A"), ("b", "B")]


def test_an_error_that_is_none_of_the_file_system_is_the_caller_s() -> None:
    with pytest.raises(ZeroDivisionError):
        BoundedCalls(LONG).ask(lambda: 1 // 0, "key")


def test_one_that_never_answers_holds_up_no_other_and_is_not_asked_again_before_it_has(gate: threading.Event) -> None:
    asked: list[str] = []
    returned = threading.Event()

    def call(key: str) -> str:
        asked.append(key)
        if key == "stuck" and not gate.is_set():
            gate.wait()
            returned.set()
        return key

    calls = BoundedCalls(SHORT)
    for _ in range(3):
        found = {key: brief(answer) for key, answer in calls.each(call, ["a", "stuck", "b"])}
        assert found == {"a": "a", "stuck": "ETIMEDOUT", "b": "b"}
    assert asked.count("stuck") == 1
    gate.set()
    assert returned.wait(LONG)
    answers = {"ETIMEDOUT"}
    while "ETIMEDOUT" in answers:  # until its thread has said that it is free again
        answers = {brief(answer) for _, answer in calls.each(call, ["stuck"])}
    assert answers == {"stuck"}


def test_with_too_many_that_never_answer_nothing_more_is_asked(gate: threading.Event) -> None:
    asked: list[int] = []

    def call(key: int) -> str:
        asked.append(key)
        gate.wait()
        return ""

    calls = BoundedCalls(SHORT, most_stuck=3)
    assert [brief(answer) for _, answer in calls.each(call, range(10))] == ["ETIMEDOUT"] * 10
    assert asked == [0, 1, 2]
