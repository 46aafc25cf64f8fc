"""How many source ports of translated connections are in use, from the entries of one conntrack dump.

A translated connection needs a reply tuple of its own: to one address and port, from one translated address, there are
only as many connections as there are ports. The node's own connections, and those that others translate to the same
address, take ports of the same stock. So all entries are counted, and only destinations with a translated connection
are reported. ICMP is left out: its connections have identifiers instead of ports.
"""

from __future__ import annotations

import struct
from collections import Counter
from typing import TypeAlias

import msgspec

from nfagent.errors import WireError
from nfagent.netlink import codec
from nfagent.netlink.conntrack import address_text, decode_tuple

PortRanges: TypeAlias = tuple[tuple[int, int], ...]
"""First and last port of each range."""

ALL_PORTS: PortRanges = ((1024, 65_535),)
"""Ports to which the kernel translates a source port from 1024 on (nf_nat_l4proto_unique_tuple of nf_nat_core.c)."""

_TUPLE_ORIG, _TUPLE_REPLY, _ZONE = 1, 2, 18  # CTA_*
_PORTS = 65_536
_TAIL = struct.Struct("!BHH")  # protocol, port of the destination, zone
_U16 = struct.Struct("!H")


class PortUse(msgspec.Struct, frozen=True):
    """Ports in use towards one destination.

    protocol:          IP protocol number
    translated:        the address that the destination sees
    destination, port: of the server, after DNAT
    used:              number of connections, each with a port of its own
    """

    protocol: int
    translated: str
    destination: str
    port: int
    used: int


class PortCounts:
    """Counts the used ports of one dump, by translated address and destination."""

    def __init__(self, ranges: PortRanges = ALL_PORTS) -> None:
        """Count ports of these ranges alone."""
        self._counted = bytearray(_PORTS)
        for first, last in ranges:
            self._counted[first : last + 1] = b"\1" * (last + 1 - first)
        self._used: Counter[bytes] = Counter()
        self._translated: set[bytes] = set()

    @property
    def available(self) -> int:
        """The number of ports in the ranges."""
        return sum(self._counted)

    def add(self, body: bytes) -> None:
        """Count the payload of one IPCTNL_MSG_CT_NEW message. Raises WireError."""
        original = reply = zone = b""
        for kind, value in codec.attributes(body, codec.NFGEN_SIZE):
            if kind == _TUPLE_ORIG:
                original = value
            elif kind == _TUPLE_REPLY:
                reply = value
            else:
                zone = value if kind == _ZONE else b""
                break  # the kernel writes the zone, if there is one, right behind the tuples
        try:
            sent, answer = decode_tuple(original), decode_tuple(reply)
            in_zone = _U16.unpack(zone)[0] if zone else answer.zone
        except KeyError as error:
            raise WireError(f"conntrack tuple without attribute {error.args[0]}") from None
        except struct.error as error:
            raise WireError(f"conntrack entry with an attribute of a wrong size: {error}") from None
        port, server_port = answer.destination_port, answer.source_port
        if port is None or server_port is None or not self._counted[port]:
            return
        key = answer.source + answer.destination + _TAIL.pack(answer.protocol, server_port, in_zone)
        self._used[key] += 1
        if sent.source != answer.destination:
            self._translated.add(key)

    def busiest(self) -> PortUse | None:
        """Return the destination of translated connections with the most ports in use; None without any."""
        key = max(self._translated, key=lambda found: (self._used[found], found), default=None)
        if key is None:
            return None
        addresses, tail = key[: -_TAIL.size], key[-_TAIL.size :]
        half = len(addresses) // 2
        protocol, port, _ = _TAIL.unpack(tail)
        destination, translated = address_text(addresses[:half]), address_text(addresses[half:])
        return PortUse(protocol, translated, destination, port, self._used[key])
