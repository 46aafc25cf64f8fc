"""Extended acknowledgements of netlink: `struct nlmsgerr` and its attributes (linux/netlink.h)."""

from __future__ import annotations

import struct

import msgspec

from nfagent.errors import WireError
from nfagent.netlink.codec import Message, ack_errno, attributes

_NLM_F_CAPPED = 0x100
_NLM_F_ACK_TLVS = 0x200
_ATTR_MSG, _ATTR_OFFS = 1, 2  # NLMSGERR_ATTR_*
_HEAD = struct.Struct("=iI12x")  # error, then nlmsg_len and the rest of the request's header
_OFFSET = struct.Struct("=I")


class Acknowledgement(msgspec.Struct, frozen=True, gc=False):
    """The kernel's acknowledgement of one request.

    sequence: sequence number of the request
    errno:    0 for success
    text:     NLMSGERR_ATTR_MSG, mostly ''
    offset:   NLMSGERR_ATTR_OFFS: of the invalid attribute, in bytes from the request's header; None if absent
    """

    sequence: int
    errno: int
    text: str = ""
    offset: int | None = None


def decode_acknowledgement(reply: Message) -> Acknowledgement:
    """Decode an NLMSG_ERROR message. Raises WireError for any other message, and for a truncated one."""
    code = ack_errno(reply)
    if not reply.flags & _NLM_F_ACK_TLVS:
        return Acknowledgement(reply.sequence, code)
    if len(reply.payload) < _HEAD.size:
        raise WireError(f"netlink acknowledgement of {len(reply.payload)} bytes, its header alone has {_HEAD.size}")
    _, length = _HEAD.unpack_from(reply.payload)
    # A success, or a capped acknowledgement, repeats only the header of the request.
    repeated = 0 if reply.flags & _NLM_F_CAPPED else max(0, length - (_HEAD.size - 4))
    text, offset = "", None
    for kind, value in attributes(reply.payload, _HEAD.size + (repeated + 3 & ~3)):
        if kind == _ATTR_MSG:
            text = value.rstrip(b"\0").decode("utf-8", "replace")
        elif kind == _ATTR_OFFS and len(value) == _OFFSET.size:
            (offset,) = _OFFSET.unpack(value)
    return Acknowledgement(reply.sequence, code, text, offset)
