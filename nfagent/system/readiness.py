"""What systemd is told of this agent: READY at the start and after a reload, and a STATUS that is true by now.

Nobody is kept waiting for ever: after `PATIENCE_SECONDS` the agent calls itself ready with what it has, and says so.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable

from nfagent.clock import Clock
from nfagent.model.printable import printable
from nfagent.system import systemd

log = logging.getLogger(__name__)
PATIENCE_SECONDS = 45.0
"""How long a cluster that can't be read keeps kubelet, or a reload, waiting: less than the unit's TimeoutStartSec."""

COMMIT_SECONDS = 10.0
"""How much longer a reload waits for the kernel."""

_UNREAD = "what was read before holds, the cluster couldn't be read again yet"


class ReadinessNotifier:
    """Tells systemd how it stands."""

    def __init__(self, clock: Clock) -> None:
        """Start unready."""
        self._clock = clock
        self._ready = False
        self._reading = False
        self._unread = ""
        self._status = ""
        self._beside = ""
        self._settled = asyncio.Event()

    async def await_start(self, gathered: asyncio.Event) -> None:
        """Call the agent ready where the cluster can't be read for long: the API server may be one of this node's Pods.

        The time counts from the start of the process: until credentials are found, a plugin may take a minute.
        """
        left = max(0.0, PATIENCE_SECONDS - systemd.process_age())
        if not await self._clock.wait(gathered, left):
            log.warning("still waiting to read the cluster; the rules of before stay in force, and none are written")
            self._say("waiting to read the cluster; the rules of before stay in force")

    async def await_reload(self, read: asyncio.Event, compare: Callable[[], None]) -> None:
        """Say that a reload begins, and that it has ended: when everything was read again and the kernel agrees.

        read:    set when everything was read again
        compare: has the kernel compared with what is wanted, where the reading takes too long
        """
        until = self._clock.monotonic() + PATIENCE_SECONDS + COMMIT_SECONDS
        self._ready, self._reading = False, True
        systemd.notify(systemd.reloading())
        self._settled.clear()
        in_time = await self._clock.wait(read, PATIENCE_SECONDS)
        self._reading = False
        if not in_time:
            self._unread = _UNREAD
            log.warning("reload: %s", _UNREAD)
            compare()
        left = max(0.0, until - self._clock.monotonic())
        if not (self._settled.is_set() or await self._clock.wait(self._settled, left)):
            log.warning("reload: the kernel doesn't hold yet what is wanted")
            self._say("the kernel doesn't hold yet what is wanted")

    def whole(self) -> None:
        """Take in that everything was read again: the next comparison with the kernel ends the reload."""
        self._reading = False
        self._unread = ""

    def settled(self, status: str = "enforcing") -> None:
        """Take in that the kernel was compared with what is wanted: it holds it, or `status` says why it can't."""
        if self._reading:
            return
        self._settled.set()
        self._say("; ".join(filter(None, (status, self._unread))))

    def beside(self, problem: str) -> None:
        """Take in what is wrong beside enforcement, such as with the verdict log; '' where nothing is."""
        if problem != self._beside:
            self._beside = problem
            if self._ready:
                systemd.notify(f"STATUS={self._whole_status()}")

    def _say(self, status: str) -> None:
        told, self._status = self._status, status
        if not self._ready:
            self._ready = True
            systemd.notify(f"READY=1\nSTATUS={self._whole_status()}")
        elif status != told:
            systemd.notify(f"STATUS={self._whole_status()}")

    def _whole_status(self) -> str:
        return printable("; ".join(filter(None, (self._status, self._beside))))
