"""Calls in a worker thread whose end is waited for, also by a caller that is cancelled."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from concurrent.futures import Executor
from contextlib import suppress
from typing import TypeVar

_T = TypeVar("_T")


async def run_to_end(thread: Executor, call: Callable[..., _T], *arguments: object) -> _T:
    """Return the result of a call; a caller that is cancelled waits for its end, as what it uses is in use so long."""
    done = asyncio.wrap_future(thread.submit(call, *arguments))
    try:
        return await asyncio.shield(done)
    except asyncio.CancelledError:
        while not done.done():
            with suppress(asyncio.CancelledError):
                await asyncio.wait((done,))
        raise
