"""File system calls that may never return: other calls go on, and a stuck call isn't repeated."""

from __future__ import annotations

import contextlib
import errno
import gc
import itertools
import queue
import threading
import weakref
from collections.abc import Iterator
from types import FrameType
from typing import Any

import pytest

from nfagent.system.bounded_calls import BoundedCalls
from tests.support.packet_labs import wait_until

LOOK_SECONDS = 0.01
LONG = 60.0


class CallLimit:
    """The limit of calls, exceeded by those alone that say so: not by one whose thread gets no processor time.

    waits_again: set when the caller waits for more answers after the limit has passed
    """

    def __init__(self) -> None:
        self.waits_again = threading.Event()
        self._exceeded = threading.Semaphore(0)
        self._passed = False

    def exceed(self) -> None:
        """Let the limit pass, once: to be called in a call."""
        self._exceeded.release()

    def has_passed(self) -> bool:
        """Return whether an answer is waited for no longer."""
        passed = self._exceeded.acquire(blocking=False)
        self._passed = self._passed or passed
        return passed

    def note_wait(self) -> None:
        if self._passed:
            self.waits_again.set()


@pytest.fixture
def limit(monkeypatch: pytest.MonkeyPatch) -> CallLimit:
    """Have the time limit of calls pass by the test's word, in place of the clock's."""
    found = CallLimit()

    class Answers(queue.SimpleQueue[Any]):
        def get(self, block: bool = True, timeout: float | None = None) -> object:  # noqa: FBT001, FBT002 - as it is
            found.note_wait()
            while timeout is not None:
                try:
                    return super().get(block, LOOK_SECONDS)
                except queue.Empty:
                    if found.has_passed():
                        raise
            return super().get(block)

    monkeypatch.setattr("nfagent.system.bounded_calls.queue.SimpleQueue", Answers)
    return found


@pytest.fixture
def gate() -> Iterator[threading.Event]:
    """Return the event that a stuck call waits for; it is set at the end."""
    gate = threading.Event()
    yield gate
    gate.set()


def brief(answer: str | OSError) -> str:
    return errno.errorcode[answer.errno or 0] if isinstance(answer, OSError) else answer


def test_results_and_errors_come_in_the_order_of_the_keys() -> None:
    def call(key: str) -> str:
        if key == "b":
            raise OSError(errno.EIO, "Input/output error")
        return key.upper()

    answers = BoundedCalls(LONG).each(call, "abc")
    assert [(key, brief(answer)) for key, answer in answers] == [("a", "A"), ("b", "EIO"), ("c", "C")]


def no_thread(_: threading.Thread) -> None:
    raise RuntimeError("can't start new thread")


def test_without_a_thread_every_call_fails_and_later_calls_succeed(
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


def test_other_exceptions_are_raised_in_the_caller() -> None:
    with pytest.raises(ZeroDivisionError):
        BoundedCalls(LONG).ask(lambda: 1 // 0, "key")


def test_a_stuck_call_delays_no_other_and_is_not_repeated_before_it_returns(
    gate: threading.Event, limit: CallLimit
) -> None:
    asked: list[str] = []
    returned = threading.Event()

    def call(key: str) -> str:
        asked.append(key)
        if key == "stuck" and not gate.is_set():
            limit.exceed()
            gate.wait()
            returned.set()
        return key

    calls = BoundedCalls(LONG)
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


def test_with_too_many_stuck_calls_the_others_fail_at_once(gate: threading.Event, limit: CallLimit) -> None:
    asked: list[int] = []

    def call(key: int) -> str:
        asked.append(key)
        limit.exceed()
        gate.wait()
        return ""

    calls = BoundedCalls(LONG, most_stuck=3)
    assert [brief(answer) for _, answer in calls.each(call, range(10))] == ["ETIMEDOUT"] * 10
    assert asked == [0, 1, 2]


@pytest.mark.parametrize("stalled", [1, 2], ids=["before its first call", "between two calls"])
def test_a_thread_that_gets_no_processor_time_loses_no_answer_and_blocks_no_key(stalled: int, limit: CallLimit) -> None:
    """A machine may be paused, or so busy that a thread waits for longer than a call may take."""
    nexts = itertools.count(1)

    def stall(frame: FrameType, event: str, _argument: object) -> None:
        if event == "call" and frame.f_code.co_name == "_next" and next(nexts) == stalled:
            limit.exceed()
            limit.waits_again.wait(LONG)

    calls = BoundedCalls(LONG, most_stuck=1)
    threading.setprofile(stall)
    try:
        found = [(key, brief(answer)) for key, answer in calls.each(str.upper, "abc")]
    finally:
        threading.setprofile(None)
    assert found == [("a", "A"), ("b", "B"), ("c", "C")]
    assert [calls.ask(key.upper, key) for key in "abc"] == ["A", "B", "C"]


@pytest.mark.parametrize("base", [OSError, ValueError])
def test_an_error_leaves_nothing_to_the_garbage_collector(base: type[Exception]) -> None:
    """A file that is missing is asked for every few seconds: cycles would be megabytes between two collections."""
    kinds = type("Gone", (base,), {})
    seen: list[weakref.ref[Exception]] = []

    def fail() -> None:
        error = kinds("gone")
        seen.append(weakref.ref(error))
        try:
            raise error
        finally:
            del error

    calls = BoundedCalls(LONG)
    gc.collect()
    gc.disable()
    try:
        for _ in range(3):
            with contextlib.suppress(base):
                calls.ask(fail, "key")
        wait_until(lambda: not any(ref() for ref in seen))
        assert [ref() for ref in seen] == [None] * 3
    finally:
        gc.enable()
