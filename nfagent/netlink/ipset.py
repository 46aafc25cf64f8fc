"""ipsets over netlink: encodes requests (linux/netfilter/ipset/ip_set.h). `ipset_listing` decodes what comes back.

Each message is one request, which the kernel applies at once: a message with many members stops at the first that is
refused, and those before it stay. Numbers are in network byte order and marked so; the line number of a member, by
which the kernel says which one it refused, is in host byte order.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable, Iterator
from functools import lru_cache
from ipaddress import IPv6Address
from typing import Literal

import msgspec

from nfagent.errors import WireError
from nfagent.netlink.codec import NLM_F_ACK, NLM_F_DUMP, NLM_F_REQUEST, attribute, message, nested, nfgen
from nfagent.netlink.nft_messages import ADDRESS_BYTES, LINK_NAME_BYTES, NFPROTO_IP, NLM_F_EXCL
from nfagent.netlink.nft_names import protocol_number
from nfagent.xtables.objects import IpSet, SetMember, SetType

PROTOCOL_VERSION = 6
"""IPSET_PROTOCOL_MIN: every kernel since 2.6.39 takes it."""
NAME_BYTES = 31
"""IPSET_MAXNAMELEN without the final zero."""
DEFAULT_SIZE = 65_536
"""IPSET_DEFAULT_MAXELEM: of a set that is created without a size."""

_SUBSYSTEM = 6 << 8  # NFNL_SUBSYS_IPSET
(CREATE, DESTROY, _FLUSH, _RENAME, _SWAP, LIST) = (_SUBSYSTEM | number for number in (2, 3, 4, 5, 6, 7))  # IPSET_CMD_*
ADD, _DELETE, TYPE = _SUBSYSTEM | 9, _SUBSYSTEM | 10, _SUBSYSTEM | 13

# IPSET_ATTR_* of a command
PROTOCOL, SETNAME, TYPENAME, REVISION, FAMILY, FLAGS, DATA, ADT, LINENO, REVISION_MIN = 1, 2, 3, 4, 5, 6, 7, 8, 9, 10
# IPSET_ATTR_* of a set's properties and of its members
IP, CIDR, PORT, PORT_TO, TIMEOUT, PROTO, CADT_FLAGS = 1, 3, 4, 5, 6, 7, 8
MAXELEM, ELEMENTS, REFERENCES, MEMSIZE = 19, 24, 25, 26
IP2, IFACE, BYTES, PACKETS = 20, 23, 24, 25
IPADDR = {4: 1, 6: 2}  # IPSET_ATTR_IPADDR_*
NET_BYTEORDER = 0x4000  # NLA_F_NET_BYTEORDER
WITH_COUNTERS = 1 << 3  # IPSET_FLAG_WITH_COUNTERS
_LIST_SETNAME, _LIST_HEADER = 1 << 1, 1 << 2  # IPSET_FLAG_*

_VERSION = attribute(PROTOCOL, bytes([PROTOCOL_VERSION]))
_PORTS = ("bitmap:port",)
_EVERY_PORT = attribute(PORT | NET_BYTEORDER, struct.pack("!H", 0)) + attribute(
    PORT_TO | NET_BYTEORDER, struct.pack("!H", 65535)
)
_PROTOCOLS = {name: attribute(PROTO, bytes([protocol_number(name)])) for name in ("tcp", "udp", "sctp")}
_LINE = struct.Struct("=HHI")
_MEMBERS_BYTES = 60_000
"""Of the 65,531 that an attribute can hold; the largest member has 104."""

_REVISIONS: dict[SetType, int] = {
    "hash:ip": 4,
    "hash:net": 6,
    "hash:ip,port": 5,
    "hash:ip,port,ip": 5,
    "hash:net,iface": 6,
    "bitmap:port": 3,
}
"""The revisions of Linux 3.18 have all that is used here. Later ones only make an older ipset refuse to list a set."""


class TypeRange(msgspec.Struct, frozen=True):
    """The revisions of a set type that a kernel has."""

    least: int
    most: int


class MemberMessage(msgspec.Struct, frozen=True):
    """One message that adds members to a set, or deletes them: their line numbers are their places in `members`."""

    data: bytes
    members: tuple[SetMember, ...]


def revision_of(kind: SetType, supported: TypeRange) -> int:
    """Return the revision in which a set of a type is created."""
    return max(supported.least, min(supported.most, _REVISIONS[kind]))


def create_request(name: str, shape: IpSet, revision: int, sequence: int) -> bytes:
    """Encode the creation of an empty set; one of that name is refused. Raises WireError."""
    is_bitmap = shape.type in _PORTS
    body = (
        _name(SETNAME, name),
        attribute(TYPENAME, shape.type.encode() + b"\0"),
        attribute(REVISION, bytes([revision])),
        attribute(FAMILY, bytes([0 if is_bitmap else NFPROTO_IP[shape.family]])),
        nested(DATA, *_properties(shape, is_bitmap=is_bitmap)),
    )
    return _request(CREATE, sequence, *body, flags=NLM_F_EXCL, family=NFPROTO_IP[shape.family])


def destroy_request(name: str, sequence: int) -> bytes:
    """Encode the deletion of a set, which nothing may refer to. Raises WireError."""
    return _request(DESTROY, sequence, _name(SETNAME, name))


def flush_request(name: str, sequence: int) -> bytes:
    """Encode the deletion of all members of a set. Raises WireError."""
    return _request(_FLUSH, sequence, _name(SETNAME, name))


def rename_request(name: str, new: str, sequence: int) -> bytes:
    """Encode the renaming of a set, which nothing may refer to. Raises WireError."""
    return _request(_RENAME, sequence, _name(SETNAME, name), _name(TYPENAME, new))


def swap_request(name: str, other: str, sequence: int) -> bytes:
    """Encode the exchange of the contents of two sets of one type, in one moment. Raises WireError."""
    return _request(_SWAP, sequence, _name(SETNAME, name), _name(TYPENAME, other))


def member_requests(
    verb: Literal["add", "delete"], name: str, members: Iterable[SetMember], sequence: int, *, timeout: int = 0
) -> Iterator[MemberMessage]:
    """Encode changes of a set's members, all messages with one sequence number: each is sent alone.

    A member that is in the set already is added without an error, and its timeout begins again; one that isn't is
    deleted without an error.
    timeout: seconds after which added members go; 0: the set's own
    Raises WireError for a member of no type.
    """
    command = ADD if verb == "add" else _DELETE
    named = _name(SETNAME, name)
    limit = attribute(TIMEOUT | NET_BYTEORDER, struct.pack("!I", timeout)) if timeout else b""
    part: list[SetMember] = []
    encoded: list[bytes] = []
    size = 0
    for member in members:
        content = _member(member) + limit
        # The line number comes last, so that all before it could be kept.
        encoded.append(nested(DATA, content, _LINE.pack(_LINE.size, LINENO, len(part))))
        part.append(member)
        size += len(encoded[-1])
        if size >= _MEMBERS_BYTES:
            yield _members(command, sequence, named, part, encoded)
            part, encoded, size = [], [], 0
    if part:
        yield _members(command, sequence, named, part, encoded)


def _members(command: int, sequence: int, named: bytes, part: list[SetMember], encoded: list[bytes]) -> MemberMessage:
    line = _LINE.pack(_LINE.size, LINENO, 0)
    return MemberMessage(_request(command, sequence, named, nested(ADT, *encoded), line), tuple(part))


def names_request(sequence: int) -> bytes:
    """Encode a request for the names of all sets of all programs."""
    return _dump(sequence, _flags(_LIST_SETNAME))


def headers_request(sequence: int) -> bytes:
    """Encode a request for all sets of all programs, without their members."""
    return _dump(sequence, _flags(_LIST_HEADER))


def list_request(name: str, sequence: int) -> bytes:
    """Encode a request for a set with its members. Raises WireError."""
    return _dump(sequence, _name(SETNAME, name))


def type_request(kind: SetType, family: int, sequence: int) -> bytes:
    """Encode a question for the revisions of a set type that the kernel has; family: 4 or 6."""
    number = 0 if kind in _PORTS else NFPROTO_IP[family]
    named = attribute(TYPENAME, kind.encode() + b"\0")
    body = _VERSION + named + attribute(FAMILY, bytes([number]))
    return message(TYPE, NLM_F_REQUEST, sequence, nfgen(NFPROTO_IP[family], 0) + body)


def _request(command: int, sequence: int, *body: bytes, flags: int = 0, family: int = NFPROTO_IP[4]) -> bytes:
    content = b"".join((nfgen(family, 0), _VERSION, *body))
    return message(command, NLM_F_REQUEST | NLM_F_ACK | flags, sequence, content)


def _dump(sequence: int, selection: bytes) -> bytes:
    content = nfgen(NFPROTO_IP[4], 0) + _VERSION + selection
    return message(LIST, NLM_F_REQUEST | NLM_F_ACK | NLM_F_DUMP, sequence, content)


def _flags(value: int) -> bytes:
    return attribute(FLAGS | NET_BYTEORDER, struct.pack("!I", value))


def _properties(shape: IpSet, *, is_bitmap: bool) -> Iterator[bytes]:
    if is_bitmap:
        yield _EVERY_PORT
    elif shape.size:
        yield attribute(MAXELEM | NET_BYTEORDER, struct.pack("!I", shape.size))
    if shape.timeout:
        yield attribute(TIMEOUT | NET_BYTEORDER, struct.pack("!I", shape.timeout))
    if shape.counters:
        yield attribute(CADT_FLAGS | NET_BYTEORDER, struct.pack("!I", WITH_COUNTERS))


def _name(number: int, name: str) -> bytes:
    try:
        packed = name.encode()
    except UnicodeEncodeError:
        raise WireError(f"{name!r} can't be the name of an ipset: it isn't Unicode text") from None
    if not 0 < len(packed) <= NAME_BYTES or 0 in packed:
        raise WireError(f"{name!r} can't be the name of an ipset: it has 1 to {NAME_BYTES} bytes, none of them 0")
    return attribute(number, packed + b"\0")


def _member(member: SetMember) -> bytes:
    try:
        return _packed(member)
    except (ValueError, KeyError, struct.error) as error:
        raise WireError(f"{member!r} can't be a member of an ipset: {error}") from None


def _packed(member: SetMember) -> bytes:
    if isinstance(member, int):
        return _port(member)
    if isinstance(member, str):
        return _address(IP, member)
    match member:
        case (network, length):
            return _address(IP, network) + _length(length)
        case (first, protocol, port, second):
            return _address(IP, first) + _port(port) + _PROTOCOLS[protocol] + _address(IP2, second)
        case (first, second, third):
            if isinstance(second, int):
                return _address(IP, first) + _length(second) + _link(str(third))
            return _address(IP, first) + _port(int(third)) + _PROTOCOLS[second]


@lru_cache(4096)
def _address(number: int, address: str) -> bytes:
    if ":" in address:
        return nested(number, attribute(IPADDR[6] | NET_BYTEORDER, IPv6Address(address).packed))
    packed = bytes(map(int, address.split(".")))  # faster than IPv4Address
    if len(packed) != ADDRESS_BYTES[4]:
        raise ValueError("it isn't an IPv4 address")
    return nested(number, attribute(IPADDR[4] | NET_BYTEORDER, packed))


def _port(port: int) -> bytes:
    return attribute(PORT | NET_BYTEORDER, struct.pack("!H", port))


def _length(length: int) -> bytes:
    return attribute(CIDR, bytes([length]))


def _link(name: str) -> bytes:
    packed = name.encode()
    if not 0 < len(packed) < LINK_NAME_BYTES or 0 in packed:
        raise ValueError(f"the name of a link has 1 to {LINK_NAME_BYTES - 1} bytes, none of them 0")
    return attribute(IFACE, packed + b"\0")
