"""Encodes conntrack entries as in a dump of the kernel (ctnetlink_fill_info of nf_conntrack_netlink.c)."""

from __future__ import annotations

import ipaddress
import struct

import msgspec

from nfagent.netlink import codec

NEW = 0x0100  # NFNL_SUBSYS_CTNETLINK, IPCTNL_MSG_CT_NEW
MULTI, INTERRUPTED, FILTERED = 0x02, 0x10, 0x20  # NLM_F_*
IPV4, IPV6 = 2, 10  # NFPROTO_*
ICMP, GRE, ICMPV6 = 1, 47, 58


class DumpEntry(msgspec.Struct, frozen=True):
    """An entry to encode; its fields are those of ConntrackEntry.

    zone_of: the directions that have the zone: 'both', 'original' or 'reply'
    """

    client: str = "10.0.0.1"
    called: str = "10.96.0.1"
    server: str = "10.0.0.2"
    protocol: int = 6
    client_port: int | None = 40_000
    called_port: int | None = 80
    server_port: int | None = 8080
    zone: int = 0
    zone_of: str = "both"
    id: int = 7
    status: int = 0x188


def entry_body(connection: DumpEntry) -> bytes:
    """Encode the payload of the entry's message."""
    family = IPV6 if ":" in connection.client else IPV4
    c = connection
    original = tuple_members(c.client, c.called, c.protocol, (c.client_port, c.called_port), request=True)
    reply = tuple_members(c.server, c.client, c.protocol, (c.server_port, c.client_port), request=False)
    zone = struct.pack("!H", c.zone)
    in_tuple, u32 = codec.attribute(3, zone), struct.Struct("!I").pack
    return b"".join(
        [
            codec.nfgen(family, 0),
            codec.nested(1, *original, *([in_tuple] if c.zone and c.zone_of == "original" else [])),
            codec.nested(2, *reply, *([in_tuple] if c.zone and c.zone_of == "reply" else [])),
            codec.attribute(18, zone) if c.zone and c.zone_of == "both" else b"",
            codec.attribute(3, u32(c.status)),
            codec.attribute(8, u32(0)),
            codec.attribute(12, u32(c.id)),
            codec.attribute(11, u32(1)),
            codec.attribute(7, u32(600)),
        ]
    )


def tuple_members(
    source: str, destination: str, protocol: int, ports: tuple[int | None, int | None], *, request: bool
) -> list[bytes]:
    """Encode one direction: addresses, then ports or ICMP fields."""
    first = 3 if ":" in source else 1
    addresses = [
        codec.attribute(first + n, ipaddress.ip_address(end).packed) for n, end in enumerate((source, destination))
    ]
    number = codec.attribute(1, bytes([protocol]))
    return [codec.nested(1, *addresses), codec.nested(2, number, *_flow(protocol, ports, request=request))]


def _flow(protocol: int, ports: tuple[int | None, int | None], *, request: bool) -> list[bytes]:
    u16 = struct.Struct("!H").pack
    if protocol in {ICMP, ICMPV6}:
        first, kind = (4, 8 if request else 0) if protocol == ICMP else (7, 128 if request else 129)
        values = (u16(99), bytes([kind]), b"\0")
        return [codec.attribute(first + n, value) for n, value in enumerate(values)]
    if protocol == GRE:
        ports = (1, 2)
    return [codec.attribute(2 + n, u16(port)) for n, port in enumerate(ports) if port is not None]
