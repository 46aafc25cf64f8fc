"""ipsets over netlink: decodes what the members of a set of addresses have counted. Total: values, or WireError."""

from __future__ import annotations

import struct
from collections.abc import Iterator

from nfagent.errors import WireError
from nfagent.netlink import ipset
from nfagent.netlink.codec import NFGEN_SIZE, Message, attributes
from nfagent.netlink.conntrack import address_text

_U64 = struct.Struct("!Q")
_SIZES = {ipset.IPADDR[4]: 4, ipset.IPADDR[6]: 16}


def decode_member_packets(reply: Message) -> Iterator[tuple[str, int]]:
    """Yield address and packets of each member in a message of a listing that has both. Raises WireError."""
    if reply.type != ipset.LIST:
        raise WireError(f"netlink message of type {reply.type:#x} isn't a listing of an ipset")
    listed = dict(attributes(reply.payload, NFGEN_SIZE))
    for kind, content in attributes(listed.get(ipset.ADT, b"")):
        if kind != ipset.DATA:
            continue
        found = dict(attributes(content))
        if ipset.IP in found and ipset.PACKETS in found:
            yield _address(found[ipset.IP]), _number(found[ipset.PACKETS])


def _address(content: bytes) -> str:
    for kind, address in attributes(content):
        if _SIZES.get(kind) == len(address):
            return address_text(address)
    raise WireError(f"address of an ipset's member: {content.hex()}")


def _number(content: bytes) -> int:
    if len(content) != _U64.size:
        raise WireError(f"packets of an ipset's member with {len(content)} bytes")
    return int(_U64.unpack(content)[0])
