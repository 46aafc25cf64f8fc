"""Netlink's answers with extended acknowledgement: `struct nlmsgerr` and its attributes (linux/netlink.h)."""

from __future__ import annotations

import struct

import msgspec

from nfagent.errors import WireError
from nfagent.netlink.codec import Message, ack_errno, attributes

_NLM_F_CAPPED = 0x100
_NLM_F_ACK_TLVS = 0x200
_ATTR_MSG, _ATTR_OFFS = 1, 2  # NLMSGERR_ATTR_*
_HEAD = struct.Struct("=iI12x")  # error, nlmsg_len and the rest of the header that is answered to
_OFFSET = struct.Struct("=I")


class Acknowledgement(msgspec.Struct, frozen=True, gc=False):
    """What the kernel says about one message.

    sequence: the message's number
    errno:    0 where it was done
    text:     the kernel's own words, mostly none
    offset:   of the attribute at fault, in bytes from the start of the message's header; None where it doesn't say
    """

    sequence: int
    errno: int
    text: str = ""
    offset: int | None = None


def decode_answer(reply: Message) -> Acknowledgement:
    """Read an NLMSG_ERROR message. Raises WireError for another one, or one that isn't whole."""
    code = ack_errno(reply)
    if not reply.flags & _NLM_F_ACK_TLVS:
        return Acknowledgement(reply.sequence, code)
    if len(reply.payload) < _HEAD.size:
        raise WireError(f"netlink acknowledgement of {len(reply.payload)} bytes, whose head alone has {_HEAD.size}")
    _, length = _HEAD.unpack_from(reply.payload)
    # A success, or a capped answer, repeats the header only.
    repeated = 0 if reply.flags & _NLM_F_CAPPED else max(0, length - (_HEAD.size - 4))
    text, offset = "", None
    for kind, value in attributes(reply.payload, _HEAD.size + (repeated + 3 & ~3)):
        if kind == _ATTR_MSG:
            text = value.rstrip(b"\0").decode("utf-8", "replace")
        elif kind == _ATTR_OFFS and len(value) == _OFFSET.size:
            (offset,) = _OFFSET.unpack(value)
    return Acknowledgement(reply.sequence, code, text, offset)
