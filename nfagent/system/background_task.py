"""Tasks that nothing waits for: one that ends by an error says so at once.

asyncio says it when such a task is collected as garbage, which may be never.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Coroutine
from typing import Any
from weakref import WeakKeyDictionary

log = logging.getLogger(__name__)
_ended: WeakKeyDictionary[asyncio.AbstractEventLoop, list[str]] = WeakKeyDictionary()
"""The names of tasks that an error has ended, by their event loop."""


def background_task(run: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
    """Return a task that runs a coroutine; an error that ends it is logged, with the function's name."""
    task = asyncio.create_task(run, name=getattr(run, "__qualname__", repr(run)))
    task.add_done_callback(_report)
    return task


def ended_tasks() -> str:
    """Return which background tasks of this event loop an error has ended; '' for none."""
    names = _ended.get(asyncio.get_running_loop(), ())
    return f"{', '.join(names)} ended by an error: this is a bug in nfagent; restart it" if names else ""


async def run_until(stop: asyncio.Event, run: Coroutine[Any, Any, None]) -> bool:
    """Run a coroutine, cancelled once an event is set; return whether it ended by itself. Raises what it raises."""
    running, stopping = asyncio.create_task(run), asyncio.create_task(stop.wait())
    await asyncio.wait((running, stopping), return_when=asyncio.FIRST_COMPLETED)
    ended = running.done()
    running.cancel()
    stopping.cancel()
    await asyncio.wait((running, stopping))
    if ended:
        await running
    return ended


def _report(task: asyncio.Task[None]) -> None:
    if not task.cancelled() and (error := task.exception()) is not None:
        _ended.setdefault(task.get_loop(), []).append(task.get_name())
        log.critical("%s has ended: this is a bug in nfagent; please report it", task.get_name(), exc_info=error)
