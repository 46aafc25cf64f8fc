"""What is said of a task that ends."""

from __future__ import annotations

import asyncio
import logging

import pytest

from nfagent.system.background_task import background_task


async def _fails() -> None:
    raise ZeroDivisionError("by nothing")


async def _ends() -> None:
    await asyncio.sleep(0)


async def _waits() -> None:
    await asyncio.Event().wait()


def test_an_error_is_logged_with_its_traceback_while_the_task_is_still_held(caplog: pytest.LogCaptureFixture) -> None:
    async def body() -> None:
        task = background_task(_fails())
        await asyncio.wait((task,))
        await asyncio.sleep(0)
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

    asyncio.run(body())
    assert caplog.records == []
