"""How full the ports of translated connections are: read from conntrack on demand, watched by its statistics.

The kernel drops the first packet of a connection that gets no free port, silently; it only counts it, with other
failures, as insert_failed. The statistics are read every minute: that costs one request. A dump costs the kernel a walk
through its whole hash table (`kernel.conntrack`): it is read when the counter has risen, and when someone asks, once a
minute at most.
"""

from __future__ import annotations

import asyncio
import logging
import os
from collections.abc import Callable
from contextlib import closing

import msgspec

from nfagent.clock import Clock
from nfagent.errors import HostError, KernelError, WireError
from nfagent.kernel.conntrack import listing_error, open_socket
from nfagent.kernel.sockets import dump_replies
from nfagent.netlink import codec
from nfagent.netlink.conntrack import encode_dump
from nfagent.netlink.conntrack_ports import ALL_PORTS, PortCounts, PortRanges, PortUse
from nfagent.netlink.conntrack_stats import (
    STATISTICS,
    ConntrackStatistics,
    decode_statistics,
    encode_statistics_dump,
)
from nfagent.netlink.extack import decode_acknowledgement
from nfagent.netlink.packet_header import SCTP, TCP, UDP

log = logging.getLogger(__name__)

SECONDS = 60.0
"""Between two readings of the statistics, and between two dumps."""
NEARLY_FULL = 0.8
"""From this share of used ports on, new connections to the destination are about to fail."""
ADVICE = (
    "close idle connections sooner, spread them over more addresses or ports of the destination, "
    "or let the destination see Pod addresses"
)

_ENTRY = 1 << 8  # NFNL_SUBSYS_CTNETLINK, IPCTNL_MSG_CT_NEW
_ATTEMPTS = 3
_REPLY_SECONDS = 10.0
_PROTOCOLS = {TCP: "TCP", UDP: "UDP", SCTP: "SCTP"}


class NatPorts(msgspec.Struct, frozen=True):
    """The ports and the failures of a network namespace.

    available: ports of one translated address towards one destination
    busiest:   the destination of translated connections with the most ports in use; None without any
    """

    available: int
    busiest: PortUse | None
    statistics: ConntrackStatistics

    @property
    def nearly_full(self) -> bool:
        """Whether new connections to the busiest destination fail, or are about to."""
        return self.busiest is not None and self.busiest.used >= self.available * NEARLY_FULL


def describe(ports: NatPorts) -> str:
    """Return how full the ports are, as text."""
    busiest = ports.busiest
    failed = ports.statistics.insert_failed
    failures = f"; {failed:,} connections not entered into conntrack since its start" if failed else ""
    if busiest is None:
        return f"none of {ports.available:,} in use{failures}"
    protocol = _PROTOCOLS.get(busiest.protocol, f"protocol {busiest.protocol}")
    used = f"{busiest.used:,} of {ports.available:,} in use ({100 * busiest.used // max(ports.available, 1)} %)"
    return (
        f"{used} from {busiest.translated} to {busiest.destination} {protocol} port {busiest.port}, "
        f"the busiest destination{failures}"
    )


def read_nat_ports(ranges: PortRanges = ALL_PORTS) -> NatPorts:
    """Return how full these ports are. Blocks for as long as a dump takes: meant for a worker thread.

    Entries made or deleted during the call may be counted or not. Raises HostError, KernelError.
    """
    counts = PortCounts(ranges)
    for attempt in range(1, _ATTEMPTS + 1):
        counts = PortCounts(ranges)
        if not _count_ports(counts, attempt):
            break
    return NatPorts(counts.available, counts.busiest(), read_statistics())


def _count_ports(counts: PortCounts, sequence: int) -> bool:
    """Count the ports of one dump; return whether the kernel reports it as interrupted."""
    interrupted = False

    def count(reply: codec.Message) -> None:
        nonlocal interrupted
        interrupted = interrupted or bool(reply.flags & codec.NLM_F_DUMP_INTR)
        if reply.type == _ENTRY:
            counts.add(reply.payload)

    _dump(encode_dump(None, sequence), sequence, count)
    return interrupted


def read_statistics() -> ConntrackStatistics:
    """Return the conntrack statistics of this network namespace, of all CPUs. Raises HostError, KernelError."""
    found: list[ConntrackStatistics] = []

    def decode(reply: codec.Message) -> None:
        if reply.type == STATISTICS:
            found.append(decode_statistics(reply.payload))

    _dump(encode_statistics_dump(1), 1, decode)
    return sum(found, ConntrackStatistics())


class NatPortWatch:
    """Logs when connections fail for lack of ports; keeps the last reading for `dump state`."""

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
        self._last: NatPorts | None = None
        self._read_at: float | None = None
        self._reading = asyncio.Lock()
        self._full = False
        self._problem = ""

    async def run(self) -> None:
        """Read the statistics now and every minute, and the ports when connections have failed, until cancelled."""
        while True:
            await self.look()
            await self._clock.wait(asyncio.Event(), SECONDS)

    async def look(self) -> None:
        """Read the statistics; where more connections have failed, or ports were nearly full, read the ports too."""
        try:
            counted = await asyncio.to_thread(self._statistics)
        except (HostError, KernelError) as error:
            self._report_failure(error)
            return
        before, self._counted = self._counted, counted
        failed = counted.since(before).insert_failed if before is not None else 0
        if failed or self._full:
            await self.refresh()
            self._report(failed)

    async def refresh(self) -> None:
        """Read how full the ports are, unless that was done less than a minute ago."""
        async with self._reading:
            now = self._clock.monotonic()
            if self._read_at is not None and now - self._read_at < SECONDS:
                return
            self._read_at = now
            try:
                self._last = await asyncio.to_thread(self._read, self._ranges)
            except (HostError, KernelError) as error:
                self._report_failure(error)
                return
            self._problem = ""

    def status(self) -> NatPortStatus:
        """Return the last reading for `dump state`."""
        counted = self._counted or (self._last.statistics if self._last is not None else ConntrackStatistics())
        last = self._last
        return NatPortStatus(
            available=last.available if last is not None else PortCounts(self._ranges).available,
            busiest=last.busiest if last is not None else None,
            insert_failed=counted.insert_failed,
            drop=counted.drop,
            problem=self._problem,
        )

    def _report(self, failed: int) -> None:
        last, was_full = self._last, self._full
        if last is None:
            return
        self._full = last.nearly_full
        if self._full and not was_full:
            log.warning(
                "connections of Pods fail for lack of free ports: %s; %d failed in the last minute; %s",
                describe(last),
                failed,
                ADVICE,
            )
        elif was_full and not self._full:
            log.info("resolved: ports of translated connections are free again: %s", describe(last))

    def _report_failure(self, error: HostError | KernelError) -> None:
        if str(error) != self._problem:
            log.warning("cannot tell how full the ports of translated connections are: %s", error)
        self._problem = str(error)


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


def _dump(request: bytes, sequence: int, each: Callable[[codec.Message], None]) -> None:
    """Send a dump request and call a function with each reply before the last. Raises HostError, KernelError."""
    with closing(open_socket()) as opened:
        opened.settimeout(_REPLY_SECONDS)
        try:
            opened.send(request)
            for reply in dump_replies(opened, sequence):
                if reply.type == codec.NLMSG_ERROR:
                    raise listing_error(decode_acknowledgement(reply))
                if reply.type != codec.NLMSG_DONE:
                    each(reply)
        except OSError as error:
            reason = os.strerror(error.errno) if error.errno else str(error)
            raise KernelError(f"conntrack request failed: {reason}") from error
        except WireError as error:
            raise KernelError(f"cannot decode a conntrack reply: {error}") from None
