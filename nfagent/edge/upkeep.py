"""What the agent keeps beside the rules: its socket, its claim, and what is said of its files.

Who removes the runtime folder while the agent runs takes both from it: they are made again.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable

from nfagent.edge.api import Serving
from nfagent.edge.claim import Claim
from nfagent.edge.clock import SystemClock
from nfagent.edge.readiness import Readiness
from nfagent.errors import MachineError

log = logging.getLogger(__name__)
_LOOK_SECONDS = 2.0


class Upkeep:
    """Looks every few seconds.

    problem: what of these can't be kept now; '' where all is
    """

    def __init__(
        self,
        serving: Serving,
        claim: Claim,
        clock: SystemClock,
        readiness: Readiness,
        problems: Callable[[], list[str]],
    ) -> None:
        """Join what is kept with who says what is wrong; `problems` gives what is wrong with the agent's files."""
        self.problem = ""
        self._serving = serving
        self._claim = claim
        self._clock = clock
        self._readiness = readiness
        self._problems = problems

    async def run(self) -> None:
        """Look until cancelled."""
        never = asyncio.Event()
        while True:
            await self.look()
            await self._clock.wait(never, _LOOK_SECONDS)

    async def look(self) -> None:
        """Make again what was removed, and say what is wrong."""
        problem = ""
        try:
            if self._claim.renew():
                log.warning("the lock of this agent's table was removed: it is locked again")
            if await self._serving.renew():
                log.warning("the agent's socket was removed, with its folder or alone: it is made again")
        except (OSError, MachineError) as error:
            problem = f"the agent's socket or its lock can't be kept: {error}"
        if problem and problem != self.problem:
            log.error("%s", problem)
        if self.problem and not problem:
            log.info("mended: the agent has its socket and its lock")
        self.problem = problem
        self._readiness.beside("; ".join(filter(None, (*self._problems(), problem))))
