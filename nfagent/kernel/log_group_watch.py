"""Looks for other programs that log to the NFLOG group of the verdict log; reports them once, and their end.

Their rules are read at the start. From then on records that aren't nfagent's show that there are others: without any,
nothing is read again.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable

from nfagent.clock import Clock
from nfagent.errors import HostError, KernelError
from nfagent.kernel.foreign_logs import read_log_uses
from nfagent.nftables.foreign_logs import GROUP_HINT, LogUse, describe_uses

log = logging.getLogger(__name__)

_POLL_SECONDS = 10.0
_AGAIN_SECONDS = 600.0


class LogGroupWatch:
    """Watches one group.

    problem: which programs log to the group beside nfagent; '' without any
    """

    def __init__(
        self,
        group: int,
        foreign: Callable[[], int],
        clock: Clock,
        read: Callable[[int], list[LogUse]] = read_log_uses,
    ) -> None:
        """Store the arguments; `run` reads.

        foreign: returns the number of records of other programs that were received
        read:    returns their rules, in a thread
        """
        self.problem = ""
        self._group = group
        self._foreign = foreign
        self._clock = clock
        self._read = read
        self._known = 0
        self._failure = ""

    async def run(self) -> None:
        """Read rules now, soon after records of other programs, and every ten minutes while there are any."""
        never = asyncio.Event()
        await self.refresh()
        while True:
            await self._clock.wait(never, _AGAIN_SECONDS if self.problem else _POLL_SECONDS)
            if self.problem or self._foreign() > self._known:
                await self.refresh()

    async def refresh(self) -> None:
        """Read the rules once, in a thread. A failure is logged once."""
        before, self._known = self._known, self._foreign()
        uses: list[LogUse] = []
        failure = ""
        try:
            uses = await asyncio.to_thread(self._read, self._group)
        except (KernelError, HostError) as error:
            failure = str(error)
        if failure and failure != self._failure:
            log.warning("cannot read which programs log to NFLOG group %d: %s; retrying", self._group, failure)
        self._failure = failure
        if uses:
            self._update(describe_uses(self._group, uses))
        elif self._known > before:
            self._update(f"records of other programs arrive in NFLOG group {self._group}; {GROUP_HINT}")
        else:
            self._update("")

    def _update(self, problem: str) -> None:
        if problem and problem != self.problem:
            log.warning("%s; their records are counted and not attributed", problem)
        elif self.problem and not problem:
            log.info("resolved: no other program logs to NFLOG group %d", self._group)
        self.problem = problem
