"""Looks every second whether another program has changed our rules in iptables or our sets.

Nothing reports such changes. A look costs some milliseconds: numbers and sizes of rules and sets (`xt_fingerprint`).
Rules and members themselves are read as often as that takes 3 % of the time, but no more than once a second. Only
where something differs, as after a change of our own, all is listed and compared: that takes 5 % of the time at most,
and what follows it waits.
"""

from __future__ import annotations

import asyncio
import logging
import os
from collections.abc import Callable

from nfagent.clock import Clock
from nfagent.errors import HostError, KernelError
from nfagent.kernel.xt_client import XtClient

log = logging.getLogger(__name__)

LOOK_SECONDS = 1.0
_REST, _CONTENT_REST = 19, 29
"""After a look, and after one at the content, so many times its CPU time passes until the next one."""
_LONGEST, _LONGEST_CONTENT = 10.0, 30.0
"""But no more than so many seconds: the CPU time is that of the whole process, which does other things too."""


class XtWatch:
    """Reports changes by other programs.

    problem: why the last look failed, '' otherwise
    """

    def __init__(self, client: XtClient, changed: Callable[[], None], clock: Clock) -> None:
        """Store the client, and what is called after a change by another program."""
        self._client = client
        self._changed = changed
        self._clock = clock
        self._content_at = 0.0
        self.problem = ""

    async def run(self) -> None:
        """Look until cancelled."""
        pause = LOOK_SECONDS
        while True:
            await self._clock.wait(asyncio.Event(), pause)
            pause = min(max(LOOK_SECONDS, await self.look() * _REST), _LONGEST)

    async def look(self) -> float:
        """Look once, and return the CPU time that it took; a failure is logged once."""
        now = self._clock.monotonic()
        with_content = now >= self._content_at
        began = _cpu_seconds()
        try:
            if await self._client.is_changed(with_content=with_content):
                self._changed()
            self.problem = ""
        except (KernelError, HostError) as error:
            if self.problem != str(error):
                log.warning("cannot look for changes of the rules in iptables: %s; retrying", error)
            self.problem = str(error)
        took = _cpu_seconds() - began
        if with_content:
            self._content_at = now + min(took * _CONTENT_REST, _LONGEST_CONTENT)
        return took


def _cpu_seconds() -> float:
    """Return the CPU time of this process and of the programs that it ran."""
    times = os.times()
    return times.user + times.system + times.children_user + times.children_system
