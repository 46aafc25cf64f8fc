"""Watches whether translated connections fail for lack of ports, or are about to.

The statistics are read every minute: that costs one request. A dump costs the kernel a walk through its whole hash
table (`kernel.conntrack`): it is read when the counter of failures has risen, when someone asks, and while the last one
found the ports nearly used up, once a minute at most.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from functools import partial
from typing import TypeVar

import msgspec

from nfagent.clock import Clock
from nfagent.errors import HostError, KernelError
from nfagent.kernel.nat_ports import ADVICE, NatPorts, describe, read_nat_ports, read_statistics
from nfagent.netlink.conntrack_ports import PortCounts, PortRanges, PortUse
from nfagent.netlink.conntrack_stats import ConntrackStatistics

log = logging.getLogger(__name__)

SECONDS = 60.0
"""Between two readings of the statistics, and between two dumps."""
_WAIT_SECONDS = 5.0

_T = TypeVar("_T")


class NatPortStatus(msgspec.Struct, frozen=True, kw_only=True):
    """The part of `dump state` about ports of translated connections.

    available, busiest: NatPorts, at most a minute old
    insert_failed, drop: ConntrackStatistics, at most a minute old
    problem:            why they can't be read, '' where they can
    """

    available: int
    busiest: PortUse | None = None
    insert_failed: int = 0
    drop: int = 0
    problem: str = ""

    def ports(self) -> NatPorts:
        """Return the reading that this is the status of."""
        return NatPorts(self.available, self.busiest, ConntrackStatistics(self.insert_failed, self.drop))


class NatPortWatch:
    """Logs when ports are nearly used up, and when connections fail; keeps the last reading for `dump state`."""

    def __init__(
        self,
        ranges: PortRanges,
        clock: Clock,
        *,
        read: Callable[[PortRanges], NatPorts] = read_nat_ports,
        statistics: Callable[[], ConntrackStatistics] = read_statistics,
    ) -> None:
        """Watch these port ranges; both functions are called in a thread."""
        self._ranges = ranges
        self._clock = clock
        self._read = read
        self._statistics = statistics
        self._counted: ConntrackStatistics | None = None
        self._newest = ConntrackStatistics()
        self._last: NatPorts | None = None
        self._read_at: float | None = None
        self._reading = asyncio.Lock()
        self._nearly_full = False
        self._failing = False
        self._problems: dict[Callable[..., object], str] = {}

    async def run(self) -> None:
        """Read the statistics now and every minute, and the ports when connections have failed, until cancelled."""
        while True:
            await self.look()
            await self._clock.wait(asyncio.Event(), SECONDS)

    async def look(self) -> None:
        """Read the statistics; where more connections have failed, or ports were nearly full, read the ports too."""
        try:
            counted = await _in_thread(self._statistics)
        except (HostError, KernelError) as error:
            self._report_failure(self._statistics, error)
            return
        self._problems.pop(self._statistics, None)
        before, self._counted, self._newest = self._counted, counted, counted
        failed = counted.since(before).insert_failed if before is not None else 0
        if failed or self._nearly_full:
            await self.refresh()
            self._report_failed_connections(failed)

    async def refresh(self) -> None:
        """Read how full the ports are, unless that was done less than a minute ago."""
        async with self._reading:
            now = self._clock.monotonic()
            if self._read_at is not None and now - self._read_at < SECONDS:
                return
            self._read_at = now
            try:
                self._last = await _in_thread(partial(self._read, self._ranges))
            except (HostError, KernelError) as error:
                self._report_failure(self._read, error)
                return
            self._newest = self._last.statistics
            self._problems.pop(self._read, None)
            self._report(self._last)

    @property
    def problem(self) -> str:
        """Why it isn't known how full the ports are; '' where it is."""
        return "; ".join(dict.fromkeys(self._problems.values()))

    def status(self) -> NatPortStatus:
        """Return the last reading for `dump state`."""
        last = self._last
        return NatPortStatus(
            available=last.available if last is not None else PortCounts(self._ranges).available,
            busiest=last.busiest if last is not None else None,
            insert_failed=self._newest.insert_failed,
            drop=self._newest.drop,
            problem=self.problem,
        )

    def _report(self, last: NatPorts) -> None:
        was, self._nearly_full = self._nearly_full, last.nearly_full
        if self._nearly_full and not was:
            log.warning("the ports of translated connections are nearly used up: %s; %s", describe(last), ADVICE)
        elif was and not self._nearly_full:
            self._failing = False
            log.info("resolved: ports of translated connections are free again: %s", describe(last))

    def _report_failed_connections(self, failed: int) -> None:
        """Report connections that failed while the ports are nearly used up, once until they are free again."""
        if failed and self._nearly_full and not self._failing and self._last is not None:
            self._failing = True
            busiest = describe(self._last)
            log.warning("%d connections of Pods failed in the last minute, for lack of free ports: %s", failed, busiest)

    def _report_failure(self, reading: Callable[..., object], error: HostError | KernelError) -> None:
        if self._problems.get(reading) != str(error):
            log.warning("cannot tell how full the ports of translated connections are: %s", error)
        self._problems[reading] = str(error)


async def _in_thread(reading: Callable[[], _T]) -> _T:
    """Return the result of a reading in a thread, within 5 s: `dump state` waits for it. Raises KernelError too."""
    try:
        async with asyncio.timeout(_WAIT_SECONDS):
            return await asyncio.to_thread(reading)
    except TimeoutError:
        raise KernelError(f"no answer within {_WAIT_SECONDS:g} s") from None
    except RuntimeError as error:  # the limit of threads of the machine, or of the service, is reached
        raise KernelError(str(error)) from error
