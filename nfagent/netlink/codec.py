"""Netlink messages and attributes: `struct nlmsghdr`, `struct nlattr` (linux/netlink.h), `struct nfgenmsg`.

Netlink headers are in host byte order; values in the attributes of nfnetlink are in network byte order.
Messages and attributes start at multiples of four bytes; the padding of the last one may be missing.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator

import msgspec

from nfagent.errors import WireError

NETLINK_NETFILTER = 12  # the protocol of a netlink socket, linux/netlink.h
NLMSG_ERROR = 2
NLMSG_DONE = 3
NLM_F_REQUEST = 0x01
NLM_F_ACK = 0x04
NLM_F_DUMP_INTR = 0x10
NLM_F_DUMP = 0x300
NLA_F_NESTED = 0x8000

SEQUENCE_MASK = 0xFFFF_FFFF
"""Sequence numbers have 32 bits: after the last one comes 0."""

_NLA_TYPE_MASK = 0x3FFF
_MESSAGE = struct.Struct("=IHHII")
_ATTRIBUTE = struct.Struct("=HH")
_NFGEN = struct.Struct("!BBH")
_ERRNO = struct.Struct("=i")
_MAX_ERRNO = 4095  # MAX_ERRNO of linux/err.h
NFGEN_SIZE = _NFGEN.size
"""Bytes of `struct nfgenmsg`, which precedes the attributes of every nfnetlink message."""


class Message(msgspec.Struct, frozen=True, gc=False):
    """One netlink message: type, NLM_F_* flags, sequence number, port id, and the payload without its header."""

    type: int
    flags: int
    sequence: int
    port: int
    payload: bytes


def messages(buffer: bytes) -> Iterator[Message]:
    """Yield the messages of one datagram in order.

    Raises WireError at the first truncated message, after the messages before it.
    """
    offset, size = 0, len(buffer)
    while offset < size:
        if size - offset < _MESSAGE.size:
            raise WireError(
                f"netlink message at byte {offset}: {size - offset} bytes left, a header has {_MESSAGE.size}"
            )
        length, kind, flags, sequence, port = _MESSAGE.unpack_from(buffer, offset)
        if length < _MESSAGE.size or length > size - offset:
            raise WireError(f"netlink message at byte {offset}: length {length} with {size - offset} bytes left")
        yield Message(kind, flags, sequence, port, buffer[offset + _MESSAGE.size : offset + length])
        offset += (length + 3) & ~3


def attributes(buffer: bytes, start: int = 0) -> Iterator[tuple[int, bytes]]:
    """Yield type (without its flag bits) and value of each attribute from byte `start` on.

    Raises WireError at the first truncated attribute, after the attributes before it.
    """
    offset, size = start, len(buffer)
    while offset < size:
        if size - offset < _ATTRIBUTE.size:
            raise WireError(f"netlink attribute at byte {offset}: {size - offset} bytes left, a header has 4")
        length, kind = _ATTRIBUTE.unpack_from(buffer, offset)
        if length < _ATTRIBUTE.size or length > size - offset:
            raise WireError(f"netlink attribute at byte {offset}: length {length} with {size - offset} bytes left")
        yield kind & _NLA_TYPE_MASK, buffer[offset + 4 : offset + length]
        offset += (length + 3) & ~3


def attribute(kind: int, value: bytes) -> bytes:
    """Encode one attribute, padded; `kind` may include NLA_F_NESTED.

    Raises WireError for a value that is too long for the 16-bit length.
    """
    length = _ATTRIBUTE.size + len(value)
    if length > 0xFFFF:
        raise WireError(f"netlink attribute {kind}: value of {len(value)} bytes, at most 65531 fit")
    return _ATTRIBUTE.pack(length, kind) + value + bytes(-length % 4)


def nested(kind: int, *members: bytes) -> bytes:
    """Encode an attribute whose value is attributes. Raises WireError as `attribute` does."""
    return attribute(kind | NLA_F_NESTED, b"".join(members))


def message(kind: int, flags: int, sequence: int, payload: bytes, *, port: int = 0) -> bytes:
    """Encode one message, padded. `port` 0 is the kernel."""
    length = _MESSAGE.size + len(payload)
    return _MESSAGE.pack(length, kind, flags, sequence, port) + payload + bytes(-length % 4)


def nfgen(family: int, resource: int) -> bytes:
    """Encode `struct nfgenmsg`: address family (AF_*) and resource id, whose meaning depends on the subsystem."""
    return _NFGEN.pack(family, 0, resource)


def ack_errno(reply: Message) -> int:
    """Return the errno that an NLMSG_ERROR message (`struct nlmsgerr`) reports, 0 for an acknowledgement.

    Raises WireError for any other message.
    """
    if reply.type != NLMSG_ERROR or len(reply.payload) < _ERRNO.size:
        raise WireError(
            f"netlink message of type {reply.type} and {len(reply.payload)} bytes is not an acknowledgement"
        )
    (code,) = _ERRNO.unpack_from(reply.payload)
    if not -_MAX_ERRNO <= code <= 0:
        raise WireError(f"netlink acknowledgement with code {code}, which is not a negative errno")
    return -int(code)
