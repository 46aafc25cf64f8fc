"""Tasks and callbacks that nothing waits for: one that ends by an error says so at once, and is remembered.

asyncio says it of such a task when it is collected as garbage, which may be never, and of a callback in the log alone.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Coroutine
from typing import Any
from weakref import WeakKeyDictionary

log = logging.getLogger(__name__)
_FAILED_SECONDS = 900.0
"""How long a callback that failed counts as a problem: longer than what an alert waits for."""
_MOST_FAILED = 10
_failed: WeakKeyDictionary[asyncio.AbstractEventLoop, dict[str, float]] = WeakKeyDictionary()
"""When callbacks failed last, by their event loop and name."""
_ended: WeakKeyDictionary[asyncio.AbstractEventLoop, list[str]] = WeakKeyDictionary()
"""The names of tasks that an error has ended, by their event loop."""


def background_task(run: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
    """Return a task that runs a coroutine; an error that ends it is logged, with the function's name."""
    task = asyncio.create_task(run, name=getattr(run, "__qualname__", repr(run)))
    task.add_done_callback(_report)
    return task


def ended_tasks() -> str:
    """Return which background tasks of this event loop an error has ended, and which callbacks; '' for none."""
    loop = asyncio.get_running_loop()
    names, since = _ended.get(loop, ()), loop.time() - _FAILED_SECONDS
    failed = [name for name, at in _failed.get(loop, {}).items() if at > since]
    ended = f"{', '.join(names)} ended by an error: this is a bug in nfagent; restart it" if names else ""
    return "; ".join(filter(None, (ended, f"{', '.join(failed)} failed: this is a bug in nfagent" if failed else "")))


def note_failed_callback(loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
    """Log an error as asyncio does, and remember it where it is a callback's own: for `loop.set_exception_handler`.

    Errors of the operating system aren't: a connection may begin where no descriptor is left to watch it.
    """
    loop.default_exception_handler(context)
    error = context.get("exception")
    if "handle" not in context or error is None or isinstance(error, OSError):
        return
    failed = _failed.setdefault(loop, {})
    name = str(context.get("message", "")).removeprefix("Exception in callback ").partition("(")[0]
    if name in failed or len(failed) < _MOST_FAILED:
        failed[name] = loop.time()


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
