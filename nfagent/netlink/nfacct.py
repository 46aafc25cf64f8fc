"""Named counters of nfnetlink_acct: encodes requests, decodes counters (linux/netfilter/nfnetlink_acct.h)."""

from __future__ import annotations

import struct

import msgspec

from nfagent.errors import WireError
from nfagent.netlink.codec import (
    NFGEN_SIZE,
    NLM_F_ACK,
    NLM_F_DUMP,
    NLM_F_REQUEST,
    Message,
    attribute,
    attributes,
    message,
    nfgen,
)
from nfagent.netlink.nft_messages import NLM_F_CREATE

NAME_BYTES = 31
"""NFACCT_NAME_MAX without the final zero."""

_SUBSYSTEM = 7 << 8  # NFNL_SUBSYS_ACCT
NEW = _SUBSYSTEM | 0  # NFNL_MSG_ACCT_*
_GET, _DELETE = _SUBSYSTEM | 1, _SUBSYSTEM | 3
_NAME, _PACKETS, _BYTES = 1, 2, 3  # NFACCT_*
_U64 = struct.Struct("!Q")


class Account(msgspec.Struct, frozen=True):
    """A named counter and what it has counted."""

    name: str
    packets: int
    bytes: int


def create_request(name: str, sequence: int) -> bytes:
    """Encode the creation of a counter; the kernel refuses one that is there already. Raises WireError."""
    return message(NEW, NLM_F_REQUEST | NLM_F_ACK | NLM_F_CREATE, sequence, nfgen(0, 0) + _named(name))


def delete_request(name: str, sequence: int) -> bytes:
    """Encode the deletion of a counter that no rule refers to. Raises WireError."""
    return message(_DELETE, NLM_F_REQUEST | NLM_F_ACK, sequence, nfgen(0, 0) + _named(name))


def list_request(sequence: int) -> bytes:
    """Encode a request for all counters of all programs."""
    return message(_GET, NLM_F_REQUEST | NLM_F_DUMP, sequence, nfgen(0, 0))


def decode_account(reply: Message) -> Account:
    """Decode a listed counter. Raises WireError."""
    if reply.type != NEW:
        raise WireError(f"netlink message of type {reply.type:#x} is no counter of nfnetlink_acct")
    found = dict(attributes(reply.payload, NFGEN_SIZE))
    name = found.get(_NAME, b"").rstrip(b"\0").decode("utf-8", "replace")
    if not name:
        raise WireError("counter of nfnetlink_acct without a name")
    return Account(name, _number(found.get(_PACKETS)), _number(found.get(_BYTES)))


def _named(name: str) -> bytes:
    packed = name.encode("utf-8", "surrogatepass")
    if not 0 < len(packed) <= NAME_BYTES or 0 in packed:
        raise WireError(f"{name!r} can't be the name of a counter: it has 1 to {NAME_BYTES} bytes, none of them 0")
    return attribute(_NAME, packed + b"\0")


def _number(value: bytes | None) -> int:
    if value is None or len(value) != _U64.size:
        raise WireError("counter of nfnetlink_acct without a number of packets and of bytes")
    return int(_U64.unpack(value)[0])
