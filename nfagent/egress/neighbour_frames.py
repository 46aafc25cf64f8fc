"""Ethernet frames that tell the neighbours which machine an address has moved to.

IPv4: a gratuitous ARP request (RFC 826, RFC 5227 section 3). IPv6: an unsolicited neighbour advertisement to all nodes,
with the override flag (RFC 4861 section 7.2.6).
"""

from __future__ import annotations

import ipaddress
import struct

_BROADCAST, _ALL_NODES_MAC = bytes([0xFF] * 6), bytes([0x33, 0x33, 0, 0, 0, 1])
_ALL_NODES = ipaddress.IPv6Address("ff02::1").packed
_ARP = struct.Struct("!HHBBH")  # hardware Ethernet, protocol IPv4, lengths of both addresses, operation
_ADVERTISEMENT = struct.Struct("!BBHI")  # type, code, checksum, flags
_NA_TYPE, _OVERRIDE, _ICMPV6, _HOP_LIMIT = 136, 0x2000_0000, 58, 255


def announcement(address: str, mac: bytes) -> bytes:
    """Return the frame that tells all neighbours that the machine with this MAC address (6 bytes) has an address."""
    value = ipaddress.ip_address(address).packed
    return _gratuitous_arp(value, mac) if len(value) == 4 else _advertisement(value, mac)


def _gratuitous_arp(address: bytes, mac: bytes) -> bytes:
    body = _ARP.pack(1, 0x0800, 6, 4, 1) + mac + address + bytes(6) + address
    return _BROADCAST + mac + b"\x08\x06" + body


def _advertisement(address: bytes, mac: bytes) -> bytes:
    option = b"\x02\x01" + mac  # the target's link-layer address, in units of eight bytes
    pseudo = address + _ALL_NODES + struct.pack("!II", _ADVERTISEMENT.size + 16 + len(option), _ICMPV6)
    blank = _ADVERTISEMENT.pack(_NA_TYPE, 0, 0, _OVERRIDE) + address + option
    body = _ADVERTISEMENT.pack(_NA_TYPE, 0, _checksum(pseudo + blank), _OVERRIDE) + address + option
    header = struct.pack("!IHBB", 6 << 28, len(body), _ICMPV6, _HOP_LIMIT) + address + _ALL_NODES
    return _ALL_NODES_MAC + mac + b"\x86\xdd" + header + body


def _checksum(octets: bytes) -> int:
    total: int = sum(struct.unpack(f"!{len(octets) // 2}H", octets))
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    return total ^ 0xFFFF
