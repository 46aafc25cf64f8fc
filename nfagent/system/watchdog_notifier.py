"""Looks at the reconciler's progress from the event loop, and feeds systemd's watchdog (WatchdogSec of the unit).

In a container /healthz has what is found, which a liveness probe asks.
"""

from __future__ import annotations

import asyncio
import faulthandler
import logging
import os
import sys

from nfagent.clock import Clock
from nfagent.system import systemd
from nfagent.system.watchdog import RoundProgress, feed_seconds, stall

log = logging.getLogger(__name__)
_LOOK_SECONDS = 15.0
"""Between two looks where systemd has no watchdog for this process."""


class WatchdogNotifier:
    """Sends WATCHDOG=1 while the reconciler makes progress.

    problem: why it isn't sent; '' where the reconciler makes progress
    """

    def __init__(self, clock: Clock, progress: RoundProgress) -> None:
        """Store the clock, and the progress of the reconciler."""
        self.problem = ""
        self._clock = clock
        self._progress = progress

    async def run(self) -> None:
        """Look, and send the state, until cancelled."""
        seconds = feed_seconds(os.environ, os.getpid())
        if seconds is not None:
            # systemd's SIGABRT then writes where each thread is to the journal, before it ends the process.
            faulthandler.enable(sys.__stderr__ or sys.stderr)
        never = asyncio.Event()
        while True:
            self.check()
            await self._clock.wait(never, seconds or _LOOK_SECONDS)

    def check(self) -> None:
        """Send the state once, or log once why it isn't sent."""
        before, self.problem = self.problem, stall(self._progress, self._clock.monotonic())
        if not self.problem:
            systemd.notify("WATCHDOG=1")
            if before:
                log.info("resolved: the round of the reconciler has ended")
        elif not before:
            log.error("%s; watchdog or liveness probe restart nfagent, the rules stay in force meanwhile", self.problem)
