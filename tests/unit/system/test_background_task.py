"""What is said of a task that ends."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Coroutine

import pytest

from nfagent.system.background_task import background_task, ended_tasks, run_until
from nfagent.system.threads import AgentLoop


async def _fails() -> None:
    raise ZeroDivisionError("by nothing")


async def _ends() -> None:
    await asyncio.sleep(0)


async def _waits() -> None:
    await asyncio.Event().wait()


def test_an_error_is_logged_with_its_traceback_while_the_task_is_still_held(caplog: pytest.LogCaptureFixture) -> None:
    async def body() -> None:
        assert ended_tasks() == ""
        task = background_task(_fails())
        await asyncio.wait((task,))
        await asyncio.sleep(0)
        assert ended_tasks() == "_fails ended by an error: this is a bug in nfagent; restart it"
        assert [record.levelno for record in caplog.records] == [logging.CRITICAL]
        assert task.done()

    asyncio.run(body())
    assert "_fails has ended: this is a bug in nfagent" in caplog.text
    assert "ZeroDivisionError: by nothing" in caplog.text


@pytest.mark.parametrize("cancelled", [False, True], ids=["that ends", "that is cancelled"])
def test_nothing_is_said_of_a_task(caplog: pytest.LogCaptureFixture, *, cancelled: bool) -> None:
    async def body() -> None:
        task = background_task(_waits() if cancelled else _ends())
        if cancelled:
            task.cancel()
        await asyncio.wait((task,))
        await asyncio.sleep(0)
        assert ended_tasks() == "", "nor of one of another agent in this process"

    asyncio.run(body())
    assert caplog.records == []


@pytest.mark.parametrize(
    ("stopped", "run", "ended"),
    [
        pytest.param(False, _ends, True, id="it ends, and nothing stops it"),
        pytest.param(True, _waits, False, id="it is stopped, and would wait for ever"),
        pytest.param(True, _ends, True, id="it ends as it is stopped"),
    ],
)
def test_a_coroutine_runs_until_an_event_is_set(
    *, stopped: bool, run: Callable[[], Coroutine[object, object, None]], ended: bool
) -> None:
    async def body() -> None:
        stop = asyncio.Event()
        if stopped:
            asyncio.get_running_loop().call_soon(stop.set)
        async with asyncio.timeout(20):
            assert await run_until(stop, run()) is ended
        assert asyncio.all_tasks() == {asyncio.current_task()}, "nothing goes on"

    asyncio.run(body())


def test_an_error_of_what_runs_until_an_event_is_raised() -> None:
    async def body() -> None:
        with pytest.raises(ZeroDivisionError):
            await run_until(asyncio.Event(), _fails())

    asyncio.run(body())


def _broken() -> None:
    raise ZeroDivisionError("by nothing")


def _unwatched() -> None:
    raise OSError("no descriptor")


def test_a_callback_that_fails_is_a_problem_for_a_while_and_one_without_resources_is_none(
    caplog: pytest.LogCaptureFixture,
) -> None:
    class Loop(AgentLoop):
        later = 0.0

        def time(self) -> float:
            return super().time() + self.later

    async def body() -> None:
        for call in (_broken, _unwatched, _broken):
            loop.call_soon(call)
        await asyncio.sleep(0)
        assert ended_tasks() == "_broken failed: this is a bug in nfagent"
        loop.later = 901.0
        assert ended_tasks() == ""

    loop = Loop()
    with asyncio.Runner(loop_factory=lambda: loop) as runner:
        runner.run(body())
    assert caplog.text.count("ZeroDivisionError: by nothing") == 2, "each is logged, as before"
    assert "no descriptor" in caplog.text
