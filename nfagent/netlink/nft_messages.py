"""Numbers and types that the encoders of nf_tables messages share (linux/netfilter/nf_tables.h, nfnetlink.h)."""

from __future__ import annotations

import struct
from typing import Protocol

import msgspec

from nfagent.errors import WireError
from nfagent.netlink.codec import attribute
from nfagent.nftables.objects import TABLE

NFNL_SUBSYS_NFTABLES = 10
NFNL_MSG_BATCH_BEGIN, NFNL_MSG_BATCH_END = 16, 17
_SUBSYSTEM = NFNL_SUBSYS_NFTABLES << 8
NEWTABLE, GETTABLE, DELTABLE = _SUBSYSTEM | 0, _SUBSYSTEM | 1, _SUBSYSTEM | 2  # NFT_MSG_*
NEWCHAIN, GETCHAIN, DELCHAIN = _SUBSYSTEM | 3, _SUBSYSTEM | 4, _SUBSYSTEM | 5
NEWRULE, GETRULE, DELRULE = _SUBSYSTEM | 6, _SUBSYSTEM | 7, _SUBSYSTEM | 8
NEWSET, DELSET = _SUBSYSTEM | 9, _SUBSYSTEM | 11
NEWSETELEM, DELSETELEM = _SUBSYSTEM | 12, _SUBSYSTEM | 14
NEWGEN, GETGEN = _SUBSYSTEM | 15, _SUBSYSTEM | 16
NEWOBJ, DELOBJ = _SUBSYSTEM | 18, _SUBSYSTEM | 20
DELFLOWTABLE = _SUBSYSTEM | 24

NLM_F_EXCL, NLM_F_CREATE, NLM_F_APPEND = 0x200, 0x400, 0x800  # linux/netlink.h
NFPROTO_INET, NFPROTO_BRIDGE = 1, 7
NFPROTO_IP = {4: 2, 6: 10}
"""NFPROTO_IPV4 and NFPROTO_IPV6."""
FAMILY_NUMBERS = {"ip": NFPROTO_IP[4], "ip6": NFPROTO_IP[6], "inet": NFPROTO_INET}
"""NFPROTO_* of the families of tables that can have nat chains for IP."""
ADDRESS_BYTES = {4: 4, 6: 16}
LINK_NAME_BYTES = 16
"""IFNAMSIZ of linux/if.h, the final zero included."""
NFT_OBJECT_COUNTER = 1

HEADERS_SIZE = 20
"""Bytes of struct nlmsghdr and struct nfgenmsg, before the attributes; offsets of attributes count them."""
TABLE_ATTRIBUTE = 1
"""The table's name in messages about anything in it, and about itself: NFTA_TABLE_NAME, NFTA_CHAIN_TABLE, …"""
_NAME_BYTES = 256  # NFT_NAME_MAXLEN, the final zero included
_FAMILY_NAMES = {NFPROTO_INET: "inet", NFPROTO_BRIDGE: "bridge"}


def table_of(family: int) -> str:
    """Return the table of a family (NFPROTO_*) in nft's words: 'inet nfagent'."""
    return f"{_FAMILY_NAMES.get(family, family)} {TABLE}"


def name_attribute(number: int, kind: str, name: str) -> bytes:
    """Encode the attribute with an object's name. Raises WireError, with the object's kind, for what can't be one."""
    try:
        packed = name.encode()
    except UnicodeEncodeError:
        raise WireError(f"{name!r} can't be the name of a {kind}: it isn't Unicode text") from None
    if not 0 < len(packed) < _NAME_BYTES or 0 in packed:
        raise WireError(f"{name!r} can't be the name of a {kind}: it has 1 to {_NAME_BYTES - 1} bytes, none of them 0")
    return attribute(number, packed + b"\0")


IN_TABLE = name_attribute(TABLE_ATTRIBUTE, "table", TABLE)
"""The attribute that says which table a message is about."""


def u32_attribute(number: int, value: int) -> bytes:
    """Encode an attribute with an unsigned number of 32 bits. Raises struct.error for another number."""
    return attribute(number, struct.pack("!I", value))


class Request(Protocol):
    """What one message of a batch asks for; names what the kernel refused."""

    def describe(self) -> str:
        """Return the request in nft syntax, one line, as in an error message: 'add rule inet nfagent deny/x drop'."""
        ...

    def part_at(self, offset: int | None) -> str:
        """Return the part of the message at an offset of its bytes (NLMSGERR_ATTR_OFFS), in nft's words; '' if unknown.

        For a rule: the kernel's name of the expression ('fib'), or 'chain deny/x'; for elements: the element's text.
        """
        ...


class NftMessage(msgspec.Struct, frozen=True):
    """One message of a batch without its header.

    type:  one of the numbers above
    flags: NLM_F_CREATE and others; NLM_F_REQUEST and NLM_F_ACK are added by the batch
    body:  struct nfgenmsg and attributes
    """

    type: int
    flags: int
    body: bytes
    request: Request
