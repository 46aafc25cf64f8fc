"""Notifies systemd: READY at the start and after a reload, and a current STATUS.

The wait is limited: after `wait_seconds` the agent reports READY, with what is enforced meanwhile in STATUS.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable

from nfagent.clock import Clock
from nfagent.model.printable import printable
from nfagent.system import systemd

log = logging.getLogger(__name__)
READ_TIMEOUT_SECONDS = 45.0
"""How long a reload waits for a cluster that can't be read; a start waits so long by default."""

START_MARGIN_SECONDS = 15.0
"""How much longer than the wait systemd is told that a start may take."""

COMMIT_TIMEOUT_SECONDS = 10.0
"""How much longer a reload waits for the comparison with the kernel."""

_STATUS_BYTES = 2048
"""systemd ignores a whole message of more than 4,096 bytes, and READY with it."""

_UNREAD = "cluster not read again yet; keeping the last known state"


class ReadinessNotifier:
    """Sends READY, RELOADING and STATUS to systemd."""

    def __init__(
        self,
        clock: Clock,
        wait_seconds: float = READ_TIMEOUT_SECONDS,
        enforced: Callable[[], object] = lambda: "",
    ) -> None:
        """Start as not ready.

        wait_seconds: how long a start waits for a cluster that can't be read
        enforced:     returns what the kernel enforces until the agent has written its own rules, as text
        """
        self._clock = clock
        self._wait_seconds = wait_seconds
        self._enforced = enforced
        self._ready = False
        self._reading = False
        self._unread = ""
        self._status = ""
        self._side_problem = ""
        self._settled = asyncio.Event()

    async def await_start(self, synced: asyncio.Event) -> None:
        """Report READY where the cluster can't be read for long: the API server may be one of this node's Pods.

        The time counts from the start of the process: a credential plugin may take a minute.
        """
        if self._wait_seconds > READ_TIMEOUT_SECONDS:  # more than the unit's TimeoutStartSec may allow
            systemd.notify(f"EXTEND_TIMEOUT_USEC={round((self._wait_seconds + START_MARGIN_SECONDS) * 1e6)}")
        left = max(0.0, self._wait_seconds - systemd.process_age())
        if not await self._clock.wait(synced, left):
            enforced = self._enforced()
            log.warning("cluster not read within %.0f s; enforced until it is read: %s", self._wait_seconds, enforced)
            self._publish(f"waiting to read the cluster; enforced until then: {enforced}")

    async def await_reload(self, read: asyncio.Event, compare: Callable[[], None]) -> None:
        """Report the begin of a reload, and its end: everything was read again and compared with the kernel.

        read:    set when everything was read again
        compare: starts a comparison with the kernel, called where the reading takes too long
        """
        until = self._clock.monotonic() + READ_TIMEOUT_SECONDS + COMMIT_TIMEOUT_SECONDS
        self._ready, self._reading = False, True
        systemd.notify(systemd.reloading())
        self._settled.clear()
        in_time = await self._clock.wait(read, READ_TIMEOUT_SECONDS)
        self._reading = False
        if not in_time:
            self._unread = _UNREAD
            log.warning("reload: %s", _UNREAD)
            compare()
        left = max(0.0, until - self._clock.monotonic())
        if not (self._settled.is_set() or await self._clock.wait(self._settled, left)):
            log.warning("reload: the kernel is not in sync yet; retrying")
            self._publish("the kernel is not in sync yet")

    def reread_done(self) -> None:
        """Record that everything was read again: the next comparison with the kernel ends the reload."""
        self._reading = False
        self._unread = ""

    def compared(self, status: str = "enforcing") -> None:
        """Record that the kernel was compared and is in sync, or `status` with the reason why it is not."""
        if self._reading:
            return
        self._settled.set()
        self._publish("; ".join(filter(None, (status, self._unread))))

    def set_side_problem(self, problem: str) -> None:
        """Record a problem that doesn't affect enforcement, such as of the verdict log; '' without one."""
        if problem != self._side_problem:
            self._side_problem = problem
            if self._status:  # during a reload too: what keeps it from its end may be this problem
                systemd.notify(f"STATUS={self._whole_status()}")

    def _publish(self, status: str) -> None:
        before, self._status = self._status, status
        if not self._ready:
            self._ready = True
            systemd.notify(f"READY=1\nSTATUS={self._whole_status()}")
        elif status != before:
            systemd.notify(f"STATUS={self._whole_status()}")

    def _whole_status(self) -> str:
        return _shortened(printable("; ".join(filter(None, (self._status, self._side_problem)))))


def _shortened(text: str) -> str:
    encoded = text.encode()
    return text if len(encoded) <= _STATUS_BYTES else f"{encoded[:_STATUS_BYTES].decode(errors='ignore')}…"
