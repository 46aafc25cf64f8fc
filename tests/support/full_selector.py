"""An event loop that can watch no descriptor more, as once fs.epoll.max_user_watches is used up."""

from __future__ import annotations

import asyncio
import errno
import os
import selectors
from collections.abc import Coroutine
from typing import Any


class FullSelector(selectors.EpollSelector):
    """Refuses to watch another descriptor while `full`."""

    full = False

    def register(self, fileobj: Any, events: int, data: object = None) -> selectors.SelectorKey:  # noqa: ANN401
        if self.full:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return super().register(fileobj, events, data)


def run_with(selector: FullSelector, body: Coroutine[Any, Any, None]) -> None:
    """Run a coroutine in an event loop of a selector; no callback of the loop may fail."""
    errors: list[str] = []
    with asyncio.Runner(loop_factory=lambda: asyncio.SelectorEventLoop(selector)) as runner:
        runner.get_loop().set_exception_handler(lambda _loop, context: errors.append(str(context)))
        runner.run(body)
    assert errors == []
