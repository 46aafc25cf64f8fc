"""Encodes and decodes SCTP INIT and INIT ACK (RFC 9260) and ICMP echo (RFC 792, RFC 4443) for probes. Pure.

Many kernels have no SCTP sockets, so both ends of an SCTP probe use raw sockets. Conntrack drops packets with a wrong
checksum, so the checksums are valid. Decoders return None for any other packet.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator

import msgspec

INIT = 1
INIT_ACK = 2

_SCTP_HEADER = struct.Struct("!HHI")  # source port, destination port, verification tag; the checksum follows
_INIT_CHUNK = struct.Struct("!BBHIIHHI")  # type, flags, length, initiate tag, window, streams out, streams in, TSN
_COOKIE = struct.pack("!HHI", 7, 8, 0)  # RFC 9260, 3.3.3.1: an INIT ACK has a State Cookie
_WINDOW = 65535

_ECHO = struct.Struct("!BBHHHII")  # type, code, checksum, identifier, sequence, magic, nonce
_ECHO_MAGIC = 0x6E666167
_ECHO_TYPES = {4: (8, 0), 6: (128, 129)}  # request, reply


class SctpInit(msgspec.Struct, frozen=True):
    """An INIT or INIT ACK.

    verification: the receiver's tag, 0 in an INIT; initiate: the sender's own
    """

    kind: int
    source_port: int
    destination_port: int
    verification: int
    initiate: int


def sctp(packet: SctpInit) -> bytes:
    """Encode an INIT or INIT ACK, from the SCTP header on."""
    parameters = _COOKIE if packet.kind == INIT_ACK else b""
    length = _INIT_CHUNK.size + len(parameters)
    chunk = _INIT_CHUNK.pack(packet.kind, 0, length, packet.initiate, _WINDOW, 1, 1, packet.initiate) + parameters
    header = _SCTP_HEADER.pack(packet.source_port, packet.destination_port, packet.verification)
    # RFC 9260, appendix A: the checksum is sent in little-endian order.
    return header + struct.pack("<I", crc32c(header + bytes(4) + chunk)) + chunk


def read_sctp(payload: bytes) -> SctpInit | None:
    """Decode an INIT or INIT ACK, from the SCTP header on; the checksum isn't verified."""
    start = _SCTP_HEADER.size + 4
    if len(payload) < start + _INIT_CHUNK.size:
        return None
    kind, _flags, _length, initiate, *_rest = _INIT_CHUNK.unpack_from(payload, start)
    if kind not in {INIT, INIT_ACK}:
        return None
    source_port, destination_port, verification = _SCTP_HEADER.unpack_from(payload)
    return SctpInit(kind, source_port, destination_port, verification, initiate)


def echo_request(family: int, identifier: int, nonce: int) -> bytes:
    """Encode an ICMP echo request; for IPv6 the kernel adds the checksum, which covers the addresses."""
    kind = _ECHO_TYPES[family][0]
    without = _ECHO.pack(kind, 0, 0, identifier, nonce & 0xFFFF, _ECHO_MAGIC, nonce)
    checksum = internet_checksum(without) if family == 4 else 0
    return without[:2] + checksum.to_bytes(2, "big") + without[4:]


def read_echo_request(family: int, payload: bytes) -> int | None:
    """Return the nonce of a probe's echo request."""
    return _read_echo(_ECHO_TYPES[family][0], payload)


def read_echo_reply(family: int, payload: bytes) -> int | None:
    """Return the nonce of the reply to a probe's echo request."""
    return _read_echo(_ECHO_TYPES[family][1], payload)


def _read_echo(kind: int, payload: bytes) -> int | None:
    if len(payload) != _ECHO.size:
        return None
    found, _code, _checksum, _identifier, _sequence, magic, nonce = _ECHO.unpack(payload)
    if (found, magic) != (kind, _ECHO_MAGIC):
        return None
    return int(nonce)


def payload_of(family: int, received: bytes) -> bytes:
    """Return a raw socket's packet without the IP header, which only IPv4 sockets receive (raw(7))."""
    if family == 6 or not received:
        return received
    return received[(received[0] & 0x0F) * 4 :]


def internet_checksum(content: bytes) -> int:
    """Return the Internet checksum (RFC 1071) of content with an even length."""
    total: int = sum(struct.unpack(f"!{len(content) // 2}H", content))
    while total > 0xFFFF:
        total = (total & 0xFFFF) + (total >> 16)
    return total ^ 0xFFFF


def crc32c(content: bytes) -> int:
    """Return the CRC-32C (Castagnoli) of RFC 9260, appendix A."""
    register = 0xFFFFFFFF
    for byte in content:
        register = _CRC_TABLE[(register ^ byte) & 0xFF] ^ (register >> 8)
    return register ^ 0xFFFFFFFF


def _crc_table() -> Iterator[int]:
    for byte in range(256):
        register = byte
        for _bit in range(8):
            register = (register >> 1) ^ (0x82F63B78 if register & 1 else 0)
        yield register


_CRC_TABLE = tuple(_crc_table())
