"""Reads an NFLOG group continuously: opens it again, with exponential backoff, after its socket failed.

A failure is logged once, and again only after packets have arrived in between.
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
_LOSS_SECONDS = 60.0


class NflogReader:
    """Reads one group and passes its packets to a callback.

    problem: why the group is not being read, '' while it is
    """

    def __init__(self, source: NflogSource, clock: Clock, on_packets: OnPackets) -> None:
        """Store the arguments; `run` opens the group."""
        self.problem = ""
        self._source = source
        self._clock = clock
        self._on_packets = on_packets
        self._logged = ""
        self._lost = (0, 0)
        self._lost_at = -_LOSS_SECONDS

    def report_loss(self) -> None:
        """Log that packets were lost since the last call, at most once a minute: call it every few seconds."""
        counters, now = self._source.counters, self._clock.monotonic()
        lost = counters.lost, counters.overruns
        if lost == self._lost or now - self._lost_at < _LOSS_SECONDS:
            return
        self._lost, self._lost_at = lost, now
        log.warning(
            "packets were lost before they could be logged, the queue of the NFLOG group was full: "
            "lost=%d overruns=%d since the start; `[logging] receive_buffer` holds longer bursts",
            *lost,
        )

    async def run(self) -> None:
        """Read until cancelled; the group then stays open."""
        pause = _FIRST_PAUSE
        while True:
            before = self._source.counters.received
            problem = await self._read()
            if self._source.counters.received > before:
                pause, self._logged = _FIRST_PAUSE, ""
            self.problem = problem
            if problem != self._logged:
                log.error("verdict log interrupted: %s; retrying, policies stay enforced", problem)
            self._logged = problem
            await self._clock.wait(asyncio.Event(), pause)
            pause = min(pause * 2, _LONGEST_PAUSE)

    async def _read(self) -> str:
        """Open the group and read it until it fails; return the reason."""
        failed: asyncio.Future[str] = asyncio.get_running_loop().create_future()
        try:
            self._source.open(self._on_packets, failed.set_result)
        except (HostError, KernelError) as error:
            return str(error)
        self.problem = ""
        return await failed
