"""How full the ports of translated connections are, read from conntrack: its entries, and its statistics.

The kernel drops the first packet of a connection that gets no free port, silently; it only counts it, with other
failures, as insert_failed. In a large range it tries only 248 ports, in five runs that begin anywhere: with few free
ones left it gives up as well (nf_nat_l4proto_unique_tuple of nf_nat_core.c).
"""

from __future__ import annotations

import os
from collections.abc import Callable
from contextlib import closing

import msgspec

from nfagent.errors import KernelError, WireError
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

NEARLY_FULL = 0.8
"""From this share of used ports on, new connections to the destination are about to fail."""
ADVICE = (
    "close idle connections sooner, spread them over more addresses or ports of the destination, "
    "widen masquerade.to_ports where it is set, or let the destination see Pod addresses"
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
