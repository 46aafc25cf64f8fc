"""What the agent keeps beside the rules: its socket, its claim, and what is said of its files.

Who removes the runtime folder while the agent runs takes both from it: they are made again. A thread looks after
them, as the folder may be on a disk that doesn't answer.
"""

from __future__ import annotations

import asyncio
import logging
import socket
from collections.abc import Callable

from nfagent.clock import SystemClock
from nfagent.errors import HostError
from nfagent.introspection.http_server import Serving
from nfagent.kernel.table_lock import TableLock
from nfagent.system.daemon_thread import DaemonThread
from nfagent.system.readiness import ReadinessNotifier

log = logging.getLogger(__name__)
_LOOK_SECONDS = 2.0
_STALLED_SECONDS = 5.0


class RuntimeFiles:
    """Looks every few seconds.

    problem: what of these can't be kept now; '' where all is
    """

    def __init__(
        self,
        serving: Serving,
        claim: TableLock,
        clock: SystemClock,
        readiness: ReadinessNotifier,
        problems: Callable[[], list[str]],
    ) -> None:
        """Join what is kept with who says what is wrong; `problems` gives what is wrong with the agent's files."""
        self.problem = ""
        self._serving = serving
        self._claim = claim
        self._clock = clock
        self._readiness = readiness
        self._problems = problems
        self._worker = DaemonThread("upkeep")
        self._looking: asyncio.Future[socket.socket | None] | None = None

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
            opened = await self._looked()
            if opened is not None:
                await self._serving.renew(opened)
                log.warning("the agent's socket was removed, with its folder or alone: it is made again")
        except (OSError, HostError) as error:
            problem = f"the agent's socket or its lock can't be kept: {error}"
        if problem and problem != self.problem:
            log.error("%s", problem)
        if self.problem and not problem:
            log.info("mended: the agent has its socket and its lock")
        self.problem = problem
        self._readiness.beside("; ".join(filter(None, (*self._problems(), problem))))

    async def _looked(self) -> socket.socket | None:
        """Have the thread look, or go on to wait for it. Raises OSError, MachineError."""
        looking = self._looking = self._looking or self._worker.run(self._renewed)
        done, _ = await asyncio.wait([looking], timeout=_STALLED_SECONDS)
        if not done:
            raise HostError(f"no answer from the disk for {_STALLED_SECONDS:g} s")
        self._looking = None
        return looking.result()

    def _renewed(self) -> socket.socket | None:
        """Make again what was removed; give the socket where it was. Raises OSError, MachineError."""
        if self._claim.renew():
            log.warning("the lock of this agent's table was removed: it is locked again")
        return self._serving.bound_again()
