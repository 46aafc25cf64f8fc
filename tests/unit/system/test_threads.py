"""Threads where their number is limited."""

from __future__ import annotations

import asyncio
import errno
import os
import select
import threading
from collections.abc import Callable

import pytest

from nfagent.errors import HostError
from nfagent.system.daemon_thread import DaemonThread
from nfagent.system.stderr_log import StderrLog
from nfagent.system.threads import started_executor
from tests.unit.system.test_stderr_log import record

Limit = Callable[[int], None]


@pytest.fixture
def limit(monkeypatch: pytest.MonkeyPatch) -> Limit:
    """Return what sets the number of threads that may still be started, as Python reports a limit of the kernel's."""
    start, left = threading.Thread.start, [0]

    def started(thread: threading.Thread) -> None:
        if not left[0]:
            raise RuntimeError("can't start new thread")
        left[0] -= 1
        start(thread)

    def set_limit(threads: int) -> None:
        left[0] = threads

    monkeypatch.setattr(threading.Thread, "start", started)
    return set_limit


def test_an_executor_has_all_its_threads_from_the_start(limit: Limit) -> None:
    limit(3)
    executor = started_executor(3, "test")
    begin = threading.Barrier(3)
    assert sorted(executor.map(lambda _: begin.wait(60), range(3))) == [0, 1, 2]
    executor.shutdown()


def test_an_executor_without_all_its_threads_is_refused_and_leaves_none(limit: Limit) -> None:
    before = set(threading.enumerate())
    limit(2)
    with pytest.raises(HostError, match="cannot start a thread; see TasksMax, pid_max"):
        started_executor(3, "test")
    assert set(threading.enumerate()) <= before, "those of other tests may end meanwhile"


def test_a_call_in_a_daemon_thread_that_cannot_be_started_is_an_error_and_the_next_one_tries_again(
    limit: Limit,
) -> None:
    async def body() -> None:
        thread = DaemonThread("test")
        with pytest.raises(OSError, match="cannot start a thread") as refused:
            await thread.run(lambda: 1)
        assert refused.value.errno == errno.EAGAIN
        limit(1)
        assert await thread.run(lambda: 2) == 2

    asyncio.run(body())


def test_the_agent_s_log_without_a_thread_is_written_at_the_end_as_far_as_its_reader_takes_it(limit: Limit) -> None:
    limit(0)
    reader, writer = os.pipe()
    log = StderrLog(writer)
    log.emit(record("one"))
    log.emit(record("two"))
    assert not select.select([reader], [], [], 0)[0]
    log.flush(0.1)
    assert os.read(reader, 100) == b"one\ntwo\n"
    os.set_blocking(writer, False)
    while select.select([], [writer], [], 0)[1]:
        os.write(writer, bytes(4096))
    log.emit(record("three"))
    log.flush(0.1)
    assert log.waiting
    os.close(reader)
    os.close(writer)
