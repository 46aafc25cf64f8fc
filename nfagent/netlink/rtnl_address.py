"""Addresses of interfaces in rtnetlink: RTM_NEWADDR, RTM_DELADDR, RTM_GETADDR (linux/if_addr.h).

IFA_PROTO, which names the program that set an address, is ignored by kernels before 5.18. So an address is recognised
by IFA_RT_PRIORITY (Linux 4.18), the metric of its prefix route, which an address without such a route has no use for.
"""

from __future__ import annotations

import ipaddress
import struct
import sys

import msgspec

from nfagent.errors import WireError
from nfagent.model.netaddr import Family, family_of
from nfagent.netlink.codec import NLM_F_ACK, NLM_F_DUMP, NLM_F_REQUEST, Message, attribute, attributes, message

RTM_NEWADDR = 20
_RTM_DELADDR, _RTM_GETADDR = 21, 22
_HEAD = struct.Struct("=4BI")  # struct ifaddrmsg: family, prefix length, flags, scope, interface
_ADDRESS, _LOCAL, _CACHEINFO, _FLAGS, _METRIC, _PROTO = 1, 2, 6, 8, 9, 11  # IFA_*
_CACHE = struct.Struct("=4I")  # struct ifa_cacheinfo: preferred, valid (seconds), created, updated
_FOREVER = 0xFFFF_FFFF
_NODAD, _NOPREFIXROUTE = 0x02, 0x200  # IFA_F_*
_CREATE_EXCLUSIVE = 0x600  # NLM_F_CREATE | NLM_F_EXCL
_DOMAINS: dict[Family, int] = {4: 2, 6: 10}  # AF_INET, AF_INET6
_SIZES = {2: 4, 10: 16}


class InterfaceAddress(msgspec.Struct, frozen=True, gc=False):
    """An address on the interface with index `link`; `metric` is IFA_RT_PRIORITY, 0 without one."""

    address: str
    link: int
    metric: int = 0


def encode_address_dump(sequence: int, family: Family) -> bytes:
    """Encode the dump request for all addresses of a family."""
    return message(_RTM_GETADDR, NLM_F_REQUEST | NLM_F_DUMP, sequence, _HEAD.pack(_DOMAINS[family], 0, 0, 0, 0))


def decode_address(found: Message) -> InterfaceAddress:
    """Decode one RTM_NEWADDR message. Raises WireError."""
    if found.type != RTM_NEWADDR or len(found.payload) < _HEAD.size:
        raise WireError(f"netlink message of type {found.type} and {len(found.payload)} bytes is not an RTM_NEWADDR")
    domain, _, _, _, link = _HEAD.unpack_from(found.payload)
    listed = dict(attributes(found.payload, _HEAD.size))
    value = listed.get(_LOCAL, listed.get(_ADDRESS, b""))
    if len(value) != _SIZES.get(domain):
        raise WireError(f"address of {len(value)} bytes in address family {domain}")
    metric = int.from_bytes(listed.get(_METRIC, b"")[:4], sys.byteorder)
    return InterfaceAddress(str(ipaddress.ip_address(value)), link, metric)


def encode_new_address(sequence: int, wanted: InterfaceAddress, protocol: int) -> bytes:
    """Encode the request to add a single address, which is refused with EEXIST where the interface has it.

    An IPv6 address is usable at once, without duplicate address detection, and deprecated: the node's own connections
    never choose it as their source. IPv4 chooses the interface's first address.
    """
    extra = attribute(_FLAGS, struct.pack("=I", _NODAD | _NOPREFIXROUTE))
    if family_of(wanted.address) == 6:
        extra += attribute(_CACHEINFO, _CACHE.pack(0, _FOREVER, 0, 0))
    extra += attribute(_METRIC, struct.pack("=I", wanted.metric)) + attribute(_PROTO, bytes([protocol]))
    flags = NLM_F_REQUEST | NLM_F_ACK | _CREATE_EXCLUSIVE
    return message(RTM_NEWADDR, flags, sequence, _single(wanted) + extra)


def encode_delete_address(sequence: int, held: InterfaceAddress) -> bytes:
    """Encode the request to remove a single address."""
    return message(_RTM_DELADDR, NLM_F_REQUEST | NLM_F_ACK, sequence, _single(held))


def _single(held: InterfaceAddress) -> bytes:
    value = ipaddress.ip_address(held.address).packed
    head = _HEAD.pack(_DOMAINS[family_of(held.address)], len(value) * 8, 0, 0, held.link)
    return head + attribute(_LOCAL, value) + attribute(_ADDRESS, value)
