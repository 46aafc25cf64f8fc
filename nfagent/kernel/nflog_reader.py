"""Keeps an NFLOG group read: opened again, each time later, whenever it can't be opened or its socket fails.

What stands in the way is said once in the log, and again only after packets have come meanwhile.
"""

from __future__ import annotations

import asyncio
import logging

from nfagent.clock import Clock
from nfagent.errors import HostError, KernelError
from nfagent.kernel.nflog import NflogSource, OnPackets

log = logging.getLogger(__name__)
_FIRST_PAUSE = 1.0
_LONGEST_PAUSE = 30.0


class NflogReader:
    """A group, and what is called with its packets.

    problem: why nothing is read now, '' while something is
    """

    def __init__(self, source: NflogSource, clock: Clock, on_packets: OnPackets) -> None:
        """Open nothing yet."""
        self.problem = ""
        self._source = source
        self._clock = clock
        self._on_packets = on_packets
        self._said = ""

    async def run(self) -> None:
        """Read until cancelled; the group stays open then."""
        pause = _FIRST_PAUSE
        while True:
            before = self._source.counters.received
            problem = await self._read()
            if self._source.counters.received > before:
                pause, self._said = _FIRST_PAUSE, ""
            self.problem = problem
            if problem != self._said:
                log.error("no verdict log for now; policies are enforced all the same: %s", problem)
            self._said = problem
            await self._clock.wait(asyncio.Event(), pause)
            pause = min(pause * 2, _LONGEST_PAUSE)

    async def _read(self) -> str:
        """Open the group, read it for as long as that goes well, and give what came in the way."""
        failed: asyncio.Future[str] = asyncio.get_running_loop().create_future()
        try:
            self._source.open(self._on_packets, failed.set_result)
        except (HostError, KernelError) as error:
            return str(error)
        self.problem = ""
        return await failed
