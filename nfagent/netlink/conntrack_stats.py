"""Conntrack statistics of each CPU: encodes the request, decodes replies (linux/netfilter/nfnetlink_conntrack.h).

The kernel counts for each network namespace, from its start on. The numbers have 32 bits and wrap around.
"""

from __future__ import annotations

import struct

import msgspec

from nfagent.errors import WireError
from nfagent.netlink import codec

STATISTICS = 1 << 8 | 4
"""Type of requests and replies: NFNL_SUBSYS_CTNETLINK, IPCTNL_MSG_CT_GET_STATS_CPU."""
_INSERT_FAILED, _DROP = 9, 10  # CTA_STATS_*
_AF_UNSPEC = 0
_U32 = struct.Struct("!I")
_MASK = 0xFFFF_FFFF


class ConntrackStatistics(msgspec.Struct, frozen=True):
    """Numbers of connections since the network namespace exists.

    insert_failed: not entered into the table: the reply tuple was taken, as when no port is free for translation, or
                   two packets of one UDP flow came at the same time
    drop:          packets dropped because no entry could be made or entered, also where the table was full
    """

    insert_failed: int = 0
    drop: int = 0

    def __add__(self, other: ConntrackStatistics) -> ConntrackStatistics:
        """Return the sum of both, of two CPUs."""
        return ConntrackStatistics(self.insert_failed + other.insert_failed, self.drop + other.drop)

    def since(self, before: ConntrackStatistics) -> ConntrackStatistics:
        """Return what was counted since an earlier state; right if fewer than 2**32."""
        return ConntrackStatistics(
            (self.insert_failed - before.insert_failed) & _MASK, (self.drop - before.drop) & _MASK
        )


def encode_statistics_dump(sequence: int) -> bytes:
    """Encode the request for the statistics of all CPUs, one reply each."""
    flags = codec.NLM_F_REQUEST | codec.NLM_F_DUMP
    return codec.message(STATISTICS, flags, sequence, codec.nfgen(_AF_UNSPEC, 0))


def decode_statistics(body: bytes) -> ConntrackStatistics:
    """Decode the payload of one CPU's reply; what it lacks is 0. Raises WireError."""
    found = dict(codec.attributes(body, codec.NFGEN_SIZE))
    try:
        failed, dropped = (_U32.unpack(found[kind])[0] if kind in found else 0 for kind in (_INSERT_FAILED, _DROP))
    except struct.error as error:
        raise WireError(f"conntrack statistics with an attribute of a wrong size: {error}") from None
    return ConntrackStatistics(failed, dropped)
