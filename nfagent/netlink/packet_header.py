"""Decodes the headers of an IP packet: addresses, protocol, ports (RFC 791, RFC 8200, RFC 9293 and others).

The kernel copies only the beginning of a packet, so only the addresses are required: ports and ICMP types
are None if the copy ends before them, and in fragments other than the first.
"""

from __future__ import annotations

import struct
from functools import lru_cache

import msgspec

from nfagent.errors import WireError
from nfagent.model.netaddr import Family, text

ICMP = 1
TCP = 6
UDP = 17
DCCP = 33
ICMPV6 = 58
SCTP = 132
UDPLITE = 136

_WITH_PORTS = frozenset({TCP, UDP, DCCP, SCTP, UDPLITE})
_FRAGMENT = 44
_AUTHENTICATION = 51
# hop-by-hop, routing, fragment, authentication, destination options, mobility, HIP, Shim6 (IANA's list)
_EXTENSIONS = frozenset({0, 43, _FRAGMENT, _AUTHENTICATION, 60, 135, 139, 140})

_ICMP_ERRORS = frozenset({3, 4, 5, 11, 12})
_FIRST_ICMPV6_INFORMATION = 128
_IPV4_SIZE = 20
_IPV6_SIZE = 40
_IPV4 = struct.Struct("!BxHHHxBxx4s4s")
_IPV6 = struct.Struct("!4xHBx16s16s")
_PORTS = struct.Struct("!HH")


class PacketHead(msgspec.Struct, frozen=True, gc=False):
    """Addresses in canonical text, IP protocol number, and ports or ICMP type and code, if any.

    The protocol of an IPv6 packet is that of its upper layer; if the copy ends inside the chain of
    extension headers, it is the number of the first missing extension.
    """

    family: Family
    source: str
    destination: str
    protocol: int
    source_port: int | None = None
    destination_port: int | None = None
    icmp_type: int | None = None
    icmp_code: int | None = None

    @property
    def is_icmp_error(self) -> bool:
        """Whether this is an ICMP error: about another packet, which it carries (RFC 792, RFC 4443)."""
        if self.protocol == ICMPV6:
            return self.icmp_type is not None and self.icmp_type < _FIRST_ICMPV6_INFORMATION
        return self.protocol == ICMP and self.icmp_type in _ICMP_ERRORS

    @property
    def reversed(self) -> PacketHead:
        """The same packet with source and destination exchanged."""
        return PacketHead(
            self.family,
            self.destination,
            self.source,
            self.protocol,
            self.destination_port,
            self.source_port,
            self.icmp_type,
            self.icmp_code,
        )


def decode_head(packet: bytes) -> PacketHead:
    """Decode the headers of a packet that starts with its IPv4 or IPv6 header. Raises WireError."""
    version = packet[0] >> 4 if packet else 0
    if version == 4:
        return _decode_ipv4(packet)
    if version == 6:
        return _decode_ipv6(packet)
    raise WireError(f"packet of {len(packet)} bytes has neither an IPv4 nor an IPv6 header")


def _decode_ipv4(packet: bytes) -> PacketHead:
    if len(packet) < _IPV4_SIZE:
        raise WireError(f"IPv4 packet of {len(packet)} bytes ends before its addresses")
    first, length, _, fragment, protocol, source, destination = _IPV4.unpack_from(packet)
    size = (first & 0x0F) * 4
    if size < _IPV4_SIZE:
        raise WireError(f"IPv4 header length is {size} bytes, the minimum is 20")
    # bytes after the packet's end are padding of the link, not ports; length 0 is a segment before offload
    end = min(len(packet), length) if length else len(packet)
    return _head(4, (source, destination), protocol, b"" if fragment & 0x1FFF else packet[size:end])


def _decode_ipv6(packet: bytes) -> PacketHead:
    if len(packet) < _IPV6_SIZE:
        raise WireError(f"IPv6 packet of {len(packet)} bytes ends before its addresses")
    length, protocol, source, destination = _IPV6.unpack_from(packet)
    # a payload length of 0 is a jumbogram, or a segment before offload
    end = min(len(packet), _IPV6_SIZE + length) if length else len(packet)
    offset: int | None = _IPV6_SIZE
    while protocol in _EXTENSIONS and offset is not None and offset + 8 <= end:
        protocol, offset = _skip_extension(packet, protocol, offset)
    return _head(6, (source, destination), protocol, b"" if offset is None else packet[offset:end])


def _skip_extension(packet: bytes, extension: int, offset: int) -> tuple[int, int | None]:
    # next header and its offset; no offset after the header of a later fragment
    following = packet[offset]
    if extension == _FRAGMENT:
        later = int.from_bytes(packet[offset + 2 : offset + 4], "big") & 0xFFF8
        return following, None if later else offset + 8
    if extension == _AUTHENTICATION:
        return following, offset + (packet[offset + 1] + 2) * 4  # RFC 4302: in units of four bytes, minus two
    return following, offset + (packet[offset + 1] + 1) * 8


def _head(family: Family, ends: tuple[bytes, bytes], protocol: int, upper: bytes) -> PacketHead:
    # upper: the copied part of the upper layer's header
    source, destination = address_text(ends[0]), address_text(ends[1])
    if protocol in _WITH_PORTS and len(upper) >= _PORTS.size:
        return PacketHead(family, source, destination, protocol, *_PORTS.unpack_from(upper))
    if protocol == (ICMP if family == 4 else ICMPV6) and len(upper) >= 2:
        return PacketHead(family, source, destination, protocol, icmp_type=upper[0], icmp_code=upper[1])
    return PacketHead(family, source, destination, protocol)


@lru_cache(maxsize=4_096)
def address_text(raw: bytes) -> str:
    """Return the canonical text of an address of 4 or 16 bytes."""
    # memoised: formatting an IPv6 address costs more than the rest, and few addresses send most packets
    return text(4 if len(raw) == 4 else 6, int.from_bytes(raw, "big"))
