"""Looks every second whether another program has changed our rules in iptables or our sets.

Nothing reports such changes. A look costs some milliseconds: numbers and sizes of rules and sets (`xt_fingerprint`).
Another look follows each program of iptables-legacy at once: it has had the xtables lock, which inotify tells. What it
may cost is that of `look_budget`; all is listed and compared only where something differs, and after a change of our
own.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from contextlib import aclosing, suppress

from nfagent.clock import Clock
from nfagent.errors import HostError, KernelError
from nfagent.kernel.look_budget import LookBudget
from nfagent.kernel.xt_client import XtClient
from nfagent.kernel.xtables_lock import lock_releases

log = logging.getLogger(__name__)


_RETRY_SECONDS = 5.0


class XtWatch:
    """Reports changes by other programs.

    problem: why the last look failed, '' otherwise
    """

    def __init__(self, client: XtClient, changed: Callable[[], None], clock: Clock) -> None:
        """Store the client, and what is called after a change by another program."""
        self._client = client
        self._changed = changed
        self._clock = clock
        self._budget = LookBudget(clock.monotonic)
        self._woken = asyncio.Event()
        self.problem = ""

    async def run(self) -> None:
        """Look until cancelled."""
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(self._follow_lock())
            while True:
                await self._clock.wait(asyncio.Event(), self._budget.rest)
                await self._clock.wait(self._woken, self._budget.pause - self._budget.rest)
                self._woken.clear()
                await self.look()

    async def _follow_lock(self) -> None:
        """Have a look follow each release of the lock of iptables-legacy."""
        while True:
            with suppress(OSError):  # no file yet, or no more inotify: the looks each second remain
                async with aclosing(lock_releases()) as releases:
                    async for _ in releases:
                        self._woken.set()
            await self._clock.wait(asyncio.Event(), _RETRY_SECONDS)

    async def look(self) -> None:
        """Look once; a failure is logged once."""
        with_content = self._budget.is_content_due
        try:
            if await self._client.is_changed(with_content=with_content, budget=self._budget):
                self._changed()
            self.problem = ""
        except (KernelError, HostError) as error:
            if self.problem != str(error):
                log.warning("cannot look for changes of the rules in iptables: %s; retrying", error)
            self.problem = str(error)
