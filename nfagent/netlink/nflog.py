"""NFLOG: subscribe to the packets of a `log group N` statement, and decode them (linux/netfilter/nfnetlink_log.h).

The kernel queues records until the queue threshold or the timeout, then sends them as one datagram of
NFULNL_MSG_PACKET messages. Values inside attributes are in network order.
"""

from __future__ import annotations

import struct
from functools import lru_cache

import msgspec

from nfagent.errors import WireError
from nfagent.netlink import codec

_SUBSYSTEM = 4 << 8  # NFNL_SUBSYS_ULOG
MSG_PACKET = _SUBSYSTEM | 0
_MSG_CONFIG = _SUBSYSTEM | 1

_CFG_CMD, _CFG_MODE, _CFG_NLBUFSIZ, _CFG_TIMEOUT, _CFG_QTHRESH, _CFG_FLAGS = range(1, 7)
_CMD_BIND = 1
_COPY_PACKET = 2
_F_SEQ = 0x0001

_A_PACKET_HDR = 1
A_TIMESTAMP = 3
_A_IFINDEX_INDEV = 4
_A_IFINDEX_OUTDEV = 5
A_PAYLOAD = 9
_A_PREFIX = 10
A_SEQ = 12
_WANTED = frozenset({_A_PACKET_HDR, A_TIMESTAMP, _A_IFINDEX_INDEV, _A_IFINDEX_OUTDEV, A_PAYLOAD, _A_PREFIX, A_SEQ})

BEHIND_LAYOUT = frozenset({A_TIMESTAMP, A_SEQ, A_PAYLOAD})
"""Attributes that differ in every record, and that the kernel writes last."""

_MODE = struct.Struct("!IBx")
_U16 = struct.Struct("!H")
_U32 = struct.Struct("!I")
_PACKET_HDR = struct.Struct("!HBx")
_TIMESTAMP = struct.Struct("!QQ")
ATTRIBUTE = struct.Struct("=HH")


class LoggedPacket(msgspec.Struct, frozen=True, gc=False):
    r"""One NFULNL_MSG_PACKET.

    prefix:        of the log statement, '' without one; bytes that aren't UTF-8 as \xNN
    payload:       the packet from its network header on, cut at the copy range
    hook:          NF_INET_* number: 0 prerouting, 1 input, 2 forward, 3 output, 4 postrouting
    hw_protocol:   EtherType, 0 if the kernel has not set it yet (output)
    sequence:      sequence number in the group, 32 bits, from 0 on; None without NFULNL_CFG_F_SEQ
    timestamp_ns:  when the packet was logged, nanoseconds since the epoch with the precision of microseconds,
                   or None if the kernel gives none (output, postrouting)
    in_interface, out_interface: interface indexes, 0 for none
    """

    prefix: str
    payload: bytes
    hook: int
    hw_protocol: int
    sequence: int | None
    timestamp_ns: int | None
    in_interface: int
    out_interface: int


class Datagram(msgspec.Struct, frozen=True, gc=False):
    """The content of one datagram: its packets in order, and the number of messages that can't be decoded."""

    packets: list[LoggedPacket]
    undecodable: int


def bind_request(
    group: int, sequence: int, *, copy_range: int, queue_threshold: int, timeout_cs: int, buffer_size: int
) -> bytes:
    """Encode the NFULNL_MSG_CONFIG that binds a group (0..65535) to the sending socket, with sequence numbers.

    copy_range:      bytes of each packet to copy
    queue_threshold: number of queued records at which the kernel sends
    timeout_cs:      hundredths of a second after which it sends fewer records
    buffer_size:     bytes of the kernel's buffer for one datagram, 131072 at most

    Raises WireError for a number that doesn't fit its field.
    """
    try:
        settings = (
            codec.nfgen(0, group),
            codec.attribute(_CFG_CMD, bytes([_CMD_BIND])),
            codec.attribute(_CFG_MODE, _MODE.pack(copy_range, _COPY_PACKET)),
            codec.attribute(_CFG_FLAGS, _U16.pack(_F_SEQ)),
            codec.attribute(_CFG_NLBUFSIZ, _U32.pack(buffer_size)),
            codec.attribute(_CFG_TIMEOUT, _U32.pack(timeout_cs)),
            codec.attribute(_CFG_QTHRESH, _U32.pack(queue_threshold)),
        )
    except struct.error as error:
        raise WireError(f"NFLOG group {group} can't be bound: {error}") from None
    flags = codec.NLM_F_REQUEST | codec.NLM_F_ACK
    return codec.message(_MSG_CONFIG, flags, sequence, b"".join(settings))


def decode_datagram(datagram: bytes) -> Datagram:
    """Decode all packets of a datagram; never raises. Messages of other types (NLMSG_DONE) are skipped."""
    packets: list[LoggedPacket] = []
    undecodable = 0
    try:
        for message in codec.messages(datagram):
            if message.type != MSG_PACKET:
                continue
            try:
                packets.append(decode_packet(message.payload))
            except WireError:
                undecodable += 1
    except WireError:
        undecodable += 1
    return Datagram(packets, undecodable)


def decode_packet(body: bytes) -> LoggedPacket:
    """Decode the payload of an NFULNL_MSG_PACKET message. Raises WireError."""
    found = _attribute_values(body)
    try:
        hw_protocol, hook = _PACKET_HDR.unpack(found[_A_PACKET_HDR])
        timestamp_ns = None
        if (stamp := found.get(A_TIMESTAMP)) is not None:
            seconds, microseconds = _TIMESTAMP.unpack(stamp)
            timestamp_ns = seconds * 1_000_000_000 + microseconds * 1_000
        return LoggedPacket(
            _prefix(found.get(_A_PREFIX, b"")),
            found.get(A_PAYLOAD, b""),
            hook,
            hw_protocol,
            _U32.unpack(found[A_SEQ])[0] if A_SEQ in found else None,
            timestamp_ns,
            _U32.unpack(found[_A_IFINDEX_INDEV])[0] if _A_IFINDEX_INDEV in found else 0,
            _U32.unpack(found[_A_IFINDEX_OUTDEV])[0] if _A_IFINDEX_OUTDEV in found else 0,
        )
    except KeyError:
        raise WireError("NFLOG record without a packet header (NFULA_PACKET_HDR)") from None
    except struct.error as error:
        raise WireError(f"NFLOG record with an attribute of a wrong size: {error}") from None


@lru_cache(maxsize=128)
def _prefix(raw: bytes) -> str:
    # memoised: few rules log most packets, and looking up the same string object in a dict is faster
    return raw.rstrip(b"\0").decode("utf-8", "backslashreplace")


def _attribute_values(body: bytes) -> dict[int, bytes]:
    # As codec.attributes, but in one loop without a generator: this runs for every logged packet.
    found: dict[int, bytes] = {}
    unpack = ATTRIBUTE.unpack_from
    offset, size = codec.NFGEN_SIZE, len(body)
    while offset + 4 <= size:
        length, kind = unpack(body, offset)
        end = offset + length
        if length < 4 or end > size:
            raise WireError(f"NFLOG attribute at byte {offset}: length {length} with {size - offset} bytes left")
        if kind in _WANTED:
            found[kind] = body[offset + 4 : end]
        offset = (end + 3) & -4
    if offset < size or size < codec.NFGEN_SIZE:
        raise WireError(f"NFLOG record of {size} bytes ends inside a header")
    return found
