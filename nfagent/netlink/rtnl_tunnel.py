"""A tunnel in rtnetlink whose routes say where its packets go: the interface, its routes, the rules for what it sends.

The interface is a VXLAN one in external mode with the generic protocol extension (IFLA_VXLAN_COLLECT_METADATA,
IFLA_VXLAN_GPE of linux/if_link.h): it carries IP packets of both families in UDP without Ethernet headers, so that no
neighbour has to be resolved behind it. A route names the other end (RTA_ENCAP, linux/lwtunnel.h).
"""

from __future__ import annotations

import ipaddress
import struct

import msgspec

from nfagent.errors import WireError
from nfagent.model.netaddr import Family
from nfagent.netlink.codec import NLM_F_ACK, NLM_F_REQUEST, Message, attribute, attributes, message, nested
from nfagent.netlink.rtnl_link import RTM_NEWLINK

_RTM_DELLINK, _RTM_GETLINK, _RTM_NEWADDR, _RTM_NEWROUTE, _RTM_NEWRULE, _RTM_DELRULE = 17, 18, 20, 24, 32, 33
_LINK = struct.Struct("=BxHiII")  # struct ifinfomsg: family, hardware type, index, flags, change
_ADDRESS = struct.Struct("=4BI")  # struct ifaddrmsg: family, prefix length, flags, scope, interface
_ROUTE = struct.Struct("=8BI")  # struct rtmsg: family, dst_len, src_len, tos, table, protocol, scope, type, flags
_RULE = struct.Struct("=8BI")  # struct fib_rule_hdr: family, dst_len, src_len, tos, table, -, -, action, flags
_NAME, _MTU, _LINKINFO = 3, 4, 18  # IFLA_*
_KIND, _OPTIONS = 1, 2  # IFLA_INFO_KIND, IFLA_INFO_DATA
_VXLAN_LEARNING, _VXLAN_PORT, _VXLAN_METADATA, _VXLAN_GPE = 7, 15, 25, 27  # IFLA_VXLAN_*
_UP = 1  # IFF_UP
_PREFIX, _LOCAL, _HOST = 1, 2, 254  # IFA_ADDRESS, IFA_LOCAL, RT_SCOPE_HOST
_DUMMY = bytes([192, 0, 0, 8])
_OIF, _METRICS, _ROUTE_TABLE, _ENCAP_TYPE, _ENCAP = 4, 8, 15, 21, 22  # RTA_*
_ROUTE_MTU = 2  # RTAX_MTU
_ID, _DST, _SRC, _TTL, _FLAGS = 1, 2, 3, 4, 6  # LWTUNNEL_IP_*, LWTUNNEL_IP6_*
_ENCAPS: dict[Family, int] = {4: 2, 6: 4}  # LWTUNNEL_ENCAP_IP, LWTUNNEL_ENCAP_IP6
_CHECKSUM = b"\0\1"  # TUNNEL_CSUM: a receiver discards UDP in IPv6 without a checksum
_HOPS = b"\x40"
_UNICAST, _ON_LINK = 1, 253  # RTN_UNICAST, RT_SCOPE_LINK
_IIF, _GOTO, _PRIORITY, _MARK, _MASK, _PROTOCOL = 3, 4, 6, 10, 16, 21  # FRA_*
_TO_RULE, _NOTHING = 2, 3  # FR_ACT_GOTO, FR_ACT_NOP
_CREATE, _EXCLUSIVE, _REPLACE = 0x400, 0x200, 0x100  # NLM_F_*
_DOMAINS: dict[Family, int] = {4: 2, 6: 10}  # AF_INET, AF_INET6
_NUMBER = struct.Struct("=I")
OVERHEAD: dict[Family, int] = {4: 20 + 8 + 8, 6: 40 + 8 + 8}
"""Bytes before a packet in the tunnel: headers of IP, UDP and VXLAN."""


class TunnelHop(msgspec.Struct, frozen=True, gc=False):
    """The other end of a tunnel.

    address: to which packets are sent
    source:  from which they are sent; '' lets the kernel choose
    link:    index of the tunnel's interface
    mtu:     bytes of the largest packet that fits into the tunnel
    """

    address: str
    source: str
    link: int
    mtu: int


class LocalMark(msgspec.Struct, frozen=True, gc=False):
    """Rules by which packets that this node sends itself with a mark skip the rules for forwarded ones with it.

    first, last: priorities of the two rules; what is between them is skipped
    """

    family: Family
    mark: int
    first: int
    last: int
    protocol: int


def encode_new_tunnel(sequence: int, name: str, port: int) -> bytes:
    """Encode the request to make the interface, and set it up; EEXIST where an interface has its name.

    The kernel opens `port` of UDP for both families, and refuses with EADDRINUSE where a program has it.
    """
    options = attribute(_VXLAN_PORT, port.to_bytes(2, "big")) + attribute(_VXLAN_LEARNING, b"\0")
    options += attribute(_VXLAN_METADATA, b"\1") + attribute(_VXLAN_GPE, b"")
    payload = _LINK.pack(0, 0, 0, _UP, _UP) + attribute(_NAME, name.encode("ascii") + b"\0")
    payload += nested(_LINKINFO, attribute(_KIND, b"vxlan"), nested(_OPTIONS, options))
    return message(RTM_NEWLINK, NLM_F_REQUEST | NLM_F_ACK | _CREATE | _EXCLUSIVE, sequence, payload)


def encode_dummy_address(sequence: int, link: int) -> bytes:
    """Encode the request to give an interface the IPv4 dummy address (RFC 7600); EEXIST where it has it.

    A loose reverse path filter discards all that comes in by an interface without an address. Its scope is the host:
    nothing is sent from it.
    """
    head = _ADDRESS.pack(_DOMAINS[4], 32, 0, _HOST, link)
    payload = head + attribute(_LOCAL, _DUMMY) + attribute(_PREFIX, _DUMMY)
    return message(_RTM_NEWADDR, NLM_F_REQUEST | NLM_F_ACK | _CREATE | _EXCLUSIVE, sequence, payload)


def encode_delete_link(sequence: int, index: int) -> bytes:
    """Encode the request to remove an interface; its routes go with it."""
    return message(_RTM_DELLINK, NLM_F_REQUEST | NLM_F_ACK, sequence, _LINK.pack(0, 0, index, 0, 0))


def encode_link_request(sequence: int, which: int | str) -> bytes:
    """Encode the request for one interface, by index or by name."""
    if isinstance(which, int):
        return message(_RTM_GETLINK, NLM_F_REQUEST, sequence, _LINK.pack(0, 0, which, 0, 0))
    name = attribute(_NAME, which.encode("ascii") + b"\0")
    return message(_RTM_GETLINK, NLM_F_REQUEST, sequence, _LINK.pack(0, 0, 0, 0, 0) + name)


def decode_mtu(found: Message) -> int:
    """Return the MTU in one RTM_NEWLINK message, in bytes. Raises WireError."""
    if found.type != RTM_NEWLINK or len(found.payload) < _LINK.size:
        raise WireError(f"netlink message of type {found.type} and {len(found.payload)} bytes is not an RTM_NEWLINK")
    value = dict(attributes(found.payload, _LINK.size)).get(_MTU, b"")
    if len(value) != _NUMBER.size:
        raise WireError(f"MTU of an interface has {len(value)} bytes, not 4")
    return int(_NUMBER.unpack(value)[0])


def encode_tunnel_route(sequence: int, family: Family, table: int, protocol: int, hop: TunnelHop) -> bytes:
    """Encode the request that makes a tunnel the default route of a table, in place of another one."""
    end = attribute(_ID, bytes(8)) + attribute(_DST, ipaddress.ip_address(hop.address).packed)
    if hop.source:
        end += attribute(_SRC, ipaddress.ip_address(hop.source).packed)
    end += attribute(_TTL, _HOPS) + attribute(_FLAGS, _CHECKSUM)
    payload = _ROUTE.pack(_DOMAINS[family], 0, 0, 0, 0, protocol, _ON_LINK, _UNICAST, 0)
    payload += attribute(_ROUTE_TABLE, _NUMBER.pack(table)) + attribute(_OIF, _NUMBER.pack(hop.link))
    payload += nested(_METRICS, attribute(_ROUTE_MTU, _NUMBER.pack(hop.mtu)))
    payload += attribute(_ENCAP_TYPE, struct.pack("=H", _ENCAPS[family]))
    payload += nested(_ENCAP, end)
    return message(_RTM_NEWROUTE, NLM_F_REQUEST | NLM_F_ACK | _CREATE | _REPLACE, sequence, payload)


def encode_local_mark(sequence: int, wanted: LocalMark, *, delete: bool = False) -> tuple[bytes, bytes]:
    """Encode the requests to add or remove the rules; EEXIST or ENOENT where they exist or don't.

    A rule that leads to another one, which does nothing and must exist first.
    """
    head = _DOMAINS[wanted.family], 0, 0, 0, 0, 0, 0
    ours = attribute(_PROTOCOL, bytes([wanted.protocol]))
    end = _RULE.pack(*head, _NOTHING, 0) + attribute(_PRIORITY, _NUMBER.pack(wanted.last)) + ours
    begin = _RULE.pack(*head, _TO_RULE, 0) + attribute(_PRIORITY, _NUMBER.pack(wanted.first)) + ours
    begin += attribute(_MARK, _NUMBER.pack(wanted.mark)) + attribute(_MASK, _NUMBER.pack(wanted.mark))
    # The interface of packets that the node sends itself is the loopback one.
    begin += attribute(_IIF, b"lo\0") + attribute(_GOTO, _NUMBER.pack(wanted.last))
    if delete:
        kind, flags = _RTM_DELRULE, NLM_F_REQUEST | NLM_F_ACK
        return message(kind, flags, sequence, begin), message(kind, flags, sequence, end)
    kind, flags = _RTM_NEWRULE, NLM_F_REQUEST | NLM_F_ACK | _CREATE | _EXCLUSIVE
    return message(kind, flags, sequence, end), message(kind, flags, sequence, begin)
