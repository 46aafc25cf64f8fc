"""Policy routing by packet mark in rtnetlink: rules, and the one default route of a rule's table.

RTM_NEWRULE, RTM_DELRULE, RTM_GETRULE (linux/fib_rules.h); RTM_NEWROUTE, RTM_DELROUTE (linux/rtnetlink.h).
"""

from __future__ import annotations

import ipaddress
import struct

import msgspec

from nfagent.errors import WireError
from nfagent.model.netaddr import Family
from nfagent.netlink.codec import NLM_F_ACK, NLM_F_DUMP, NLM_F_REQUEST, Message, attribute, attributes, message

RTM_NEWRULE = 32
_RTM_DELRULE, _RTM_GETRULE = 33, 34
_RTM_NEWROUTE, _RTM_DELROUTE = 24, 25
_RULE = struct.Struct("=8BI")  # struct fib_rule_hdr: family, dst_len, src_len, tos, table, -, -, action, flags
_ROUTE = struct.Struct("=8BI")  # struct rtmsg: family, dst_len, src_len, tos, table, protocol, scope, type, flags
_PRIORITY, _MARK, _TABLE, _MASK, _PROTOCOL = 6, 10, 15, 16, 21  # FRA_*
_TO_TABLE, _DISCARD = 1, 6  # FR_ACT_TO_TBL, FR_ACT_BLACKHOLE
_INVERTED = 0x02  # FIB_RULE_INVERT
_OIF, _GATEWAY, _ROUTE_TABLE = 4, 5, 15  # RTA_*
_UNICAST, _UNREACHABLE = 1, 7  # RTN_*
_ON_LINK = 4  # RTNH_F_ONLINK
_CREATE, _EXCLUSIVE, _REPLACE = 0x400, 0x200, 0x100  # NLM_F_*
_DOMAINS: dict[Family, int] = {4: 2, 6: 10}  # AF_INET, AF_INET6
_FAMILIES: dict[int, Family] = {2: 4, 10: 6}
_NUMBER = struct.Struct("=I")


class MarkRule(msgspec.Struct, frozen=True, gc=False):
    """A rule for packets of a family whose mark, masked, is `mark`.

    table:    they are routed by this table
    discards: they are discarded; `table` is 0
    protocol: the program that set the rule
    """

    family: Family
    priority: int
    mark: int
    mask: int
    protocol: int
    table: int = 0
    discards: bool = False


class NextHop(msgspec.Struct, frozen=True, gc=False):
    """A neighbour on the interface with index `link`, to which packets are sent."""

    address: str
    link: int


def encode_rule_dump(sequence: int, family: Family) -> bytes:
    """Encode the dump request for all rules of a family."""
    return message(_RTM_GETRULE, NLM_F_REQUEST | NLM_F_DUMP, sequence, _RULE.pack(_DOMAINS[family], *(0,) * 8))


def decode_rule(found: Message) -> MarkRule | None:
    """Decode one RTM_NEWRULE message; None for a rule of another form than MarkRule's. Raises WireError."""
    if found.type != RTM_NEWRULE or len(found.payload) < _RULE.size:
        raise WireError(f"netlink message of type {found.type} and {len(found.payload)} bytes is not an RTM_NEWRULE")
    domain, *_, action, flags = _RULE.unpack_from(found.payload)
    listed = dict(attributes(found.payload, _RULE.size))
    if domain not in _FAMILIES or action not in {_TO_TABLE, _DISCARD} or flags & _INVERTED:
        return None
    discards = action == _DISCARD
    return MarkRule(
        _FAMILIES[domain],
        _number(listed.get(_PRIORITY)),
        _number(listed.get(_MARK)),
        _number(listed.get(_MASK)),
        int.from_bytes(listed.get(_PROTOCOL, b"")[:1], "little"),
        0 if discards else _number(listed.get(_TABLE)),
        discards,
    )


def encode_new_rule(sequence: int, wanted: MarkRule) -> bytes:
    """Encode the request to add a rule; EEXIST where it exists."""
    return message(RTM_NEWRULE, NLM_F_REQUEST | NLM_F_ACK | _CREATE | _EXCLUSIVE, sequence, _rule(wanted))


def encode_delete_rule(sequence: int, held: MarkRule) -> bytes:
    """Encode the request to remove a rule."""
    return message(_RTM_DELRULE, NLM_F_REQUEST | NLM_F_ACK, sequence, _rule(held))


def encode_default_route(sequence: int, family: Family, table: int, protocol: int, hop: NextHop | None) -> bytes:
    """Encode the request that makes `hop` the default route of a table, in place of another one.

    Without a hop every destination is unreachable by the table.
    """
    kind, flags = (_UNREACHABLE, 0) if hop is None else (_UNICAST, _ON_LINK)
    payload = _ROUTE.pack(_DOMAINS[family], 0, 0, 0, 0, protocol, 0, kind, flags)
    payload += attribute(_ROUTE_TABLE, _NUMBER.pack(table))
    if hop is not None:
        payload += attribute(_GATEWAY, ipaddress.ip_address(hop.address).packed)
        payload += attribute(_OIF, _NUMBER.pack(hop.link))
    return message(_RTM_NEWROUTE, NLM_F_REQUEST | NLM_F_ACK | _CREATE | _REPLACE, sequence, payload)


def encode_delete_default_route(sequence: int, family: Family, table: int, protocol: int) -> bytes:
    """Encode the request to remove the default route that a program set in a table; ESRCH without one."""
    # RT_SCOPE_NOWHERE, and type RTN_UNSPEC: a route of any scope and type.
    payload = _ROUTE.pack(_DOMAINS[family], 0, 0, 0, 0, protocol, 255, 0, 0)
    payload += attribute(_ROUTE_TABLE, _NUMBER.pack(table))
    return message(_RTM_DELROUTE, NLM_F_REQUEST | NLM_F_ACK, sequence, payload)


def _rule(held: MarkRule) -> bytes:
    action = _DISCARD if held.discards else _TO_TABLE
    payload = _RULE.pack(_DOMAINS[held.family], 0, 0, 0, 0, 0, 0, action, 0)
    payload += attribute(_PRIORITY, _NUMBER.pack(held.priority))
    payload += attribute(_MARK, _NUMBER.pack(held.mark)) + attribute(_MASK, _NUMBER.pack(held.mask))
    payload += attribute(_PROTOCOL, bytes([held.protocol]))
    return payload if held.discards else payload + attribute(_TABLE, _NUMBER.pack(held.table))


def _number(value: bytes | None) -> int:
    if value is None:
        return 0
    if len(value) != _NUMBER.size:
        raise WireError(f"number of a routing rule has {len(value)} bytes, not 4")
    return int(_NUMBER.unpack(value)[0])
