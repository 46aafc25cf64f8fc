"""The agent's socket and table lock while it runs, and the state of the files that it writes.

Both are made again when the runtime folder is removed. A thread checks them, as the folder may be on a disk that
doesn't answer.
"""

from __future__ import annotations

import asyncio
import logging
import socket
from collections.abc import Callable

from nfagent.clock import SystemClock
from nfagent.errors import HostError
from nfagent.introspection.http_server import SocketServer
from nfagent.kernel.table_lock import TableLock
from nfagent.system.daemon_thread import DaemonThread
from nfagent.system.readiness import ReadinessNotifier

log = logging.getLogger(__name__)
_CHECK_SECONDS = 2.0
_STALLED_SECONDS = 5.0
_FINISH_SECONDS = 1.0


class RuntimeFiles:
    """Checks socket and lock every two seconds.

    problem: why one of them can't be made again; '' where both exist
    """

    def __init__(
        self,
        serving: SocketServer,
        table_lock: TableLock,
        clock: SystemClock,
        readiness: ReadinessNotifier,
        problems: Callable[[], list[str]],
    ) -> None:
        """Store socket, lock and notifier; `problems` returns what is wrong with the agent's other files."""
        self.problem = ""
        self._serving = serving
        self._table_lock = table_lock
        self._clock = clock
        self._readiness = readiness
        self._problems = problems
        self._worker = DaemonThread("upkeep")
        self._looking: asyncio.Future[socket.socket | None] | None = None

    async def run(self) -> None:
        """Check until cancelled."""
        never = asyncio.Event()
        while True:
            await self.check()
            await self._clock.wait(never, _CHECK_SECONDS)

    async def check(self) -> None:
        """Create removed files again; log and report what is wrong."""
        problem = ""
        try:
            opened = await self._checked()
            if opened is not None:
                await self._serving.renew(opened)
                log.warning("the agent's socket was removed; created it again")
        except (OSError, HostError) as error:
            problem = f"cannot create the agent's socket or lock again: {error}"
        if problem and problem != self.problem:
            log.error("%s", problem)
        if self.problem and not problem:
            log.info("resolved: the agent's socket and lock exist again")
        self.problem = problem
        self._readiness.set_side_problem("; ".join(dict.fromkeys(filter(None, (*self._problems(), problem)))))

    async def finish(self) -> None:
        """Wait for a check that still runs after `run` was cancelled: it could bind a socket that is being closed."""
        if self._looking is None:
            return
        done, _ = await asyncio.wait([self._looking], timeout=_FINISH_SECONDS)
        for looked in done:
            opened = looked.result() if looked.exception() is None else None
            if opened is not None:
                opened.close()

    async def _checked(self) -> socket.socket | None:
        """Wait for the thread's check, or for one that still runs. Raises OSError, HostError."""
        looking = self._looking = self._looking or self._worker.run(self._renewed)
        done, _ = await asyncio.wait([looking], timeout=_STALLED_SECONDS)
        if not done:
            raise HostError(f"no answer from the disk for {_STALLED_SECONDS:g} s")
        self._looking = None
        return looking.result()

    def _renewed(self) -> socket.socket | None:
        """Create removed files again; return the new socket, if any. Raises OSError, HostError."""
        if self._table_lock.renew():
            log.warning("the lock file of this agent's table was removed; created and locked it again")
        return self._serving.bound_again()
