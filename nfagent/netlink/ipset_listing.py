"""ipsets over netlink: decodes listed sets and acknowledgements. Total: a value, or WireError.

A set comes in as many messages as its members need; only the first has its properties. A member that nfagent never
writes is counted, not decoded.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Iterator

import msgspec

from nfagent.errors import WireError
from nfagent.model.netaddr import Family
from nfagent.model.objects import Protocol
from nfagent.netlink import ipset
from nfagent.netlink.codec import NFGEN_SIZE, NLMSG_ERROR, Message, attributes
from nfagent.netlink.conntrack import address_text
from nfagent.netlink.nft_messages import NFPROTO_IP
from nfagent.xtables.objects import SetMember

_ACK = struct.Struct("=iI12x")  # struct nlmsgerr: the code, and the request's header
_U16, _U32, _U64 = struct.Struct("!H"), struct.Struct("!I"), struct.Struct("!Q")
_LINE = struct.Struct("=I")
_MAX_CODE = 8191
"""Beyond errno's 4095, ipset has codes of its own: IPSET_ERR_PRIVATE and IPSET_ERR_TYPE_SPECIFIC."""
_PROTOCOL_NAMES: dict[int, Protocol] = {6: "tcp", 17: "udp", 132: "sctp"}
_FAMILIES: dict[int, Family] = {NFPROTO_IP[4]: 4, NFPROTO_IP[6]: 6}
_PLAIN4 = struct.Struct("=12s4s")
_PLAIN4_HEAD = struct.pack("=HHHHHH", 16, 0x8007, 12, 0x8001, 8, 0x0001)
"""Before an IPv4 address that is all of a member: as most are, and five times faster to read."""


class SetAnswer(msgspec.Struct, frozen=True, gc=False):
    """The acknowledgement of one request.

    code: 0, an errno, or one of ipset's own codes (IPSET_ERR_*)
    line: the line number of the refused member, None where the kernel doesn't say
    """

    sequence: int
    code: int
    line: int | None = None


class SetHeader(msgspec.Struct, frozen=True):
    """A set's properties.

    type:       as the kernel says, known or not
    family:     4 for a type without addresses
    flags:      IPSET_FLAG_WITH_COUNTERS and others
    size:       maximum number of members, 0 for a type without one
    first, last: ports of a bitmap; 0 otherwise
    elements:   number of members, None where an old kernel doesn't say
    references: number of rules and sets that refer to it
    others:     numbers of properties that are none of these
    """

    name: str
    type: str
    family: Family
    revision: int
    flags: int = 0
    timeout: int = 0
    size: int = 0
    first: int = 0
    last: int = 0
    elements: int | None = None
    references: int = 0
    others: frozenset[int] = frozenset()


class SetPart(msgspec.Struct, frozen=True):
    """What one message of a listing has of a set.

    unknown: number of members of a form that nfagent never writes: with `nomatch`, with a comment, of another type
    """

    name: str
    header: SetHeader | None
    members: tuple[SetMember, ...]
    unknown: int = 0


def decode_answer(reply: Message) -> SetAnswer:
    """Decode an NLMSG_ERROR message. Raises WireError for any other message, and for a truncated one."""
    if reply.type != NLMSG_ERROR or len(reply.payload) < _ACK.size:
        raise WireError(f"netlink message of type {reply.type} and {len(reply.payload)} bytes isn't an acknowledgement")
    code, length = _ACK.unpack_from(reply.payload)
    if not -_MAX_CODE <= code <= 0:
        raise WireError(f"ipset acknowledgement with code {code}, which is no negative error")
    line = None
    # A refused member's request comes back whole, with the number in the command's own attribute.
    if code and len(reply.payload) >= 4 + length > _ACK.size:
        line = _line_of(reply.payload[_ACK.size : 4 + length])
    return SetAnswer(reply.sequence, -code, line)


def _line_of(request: bytes) -> int | None:
    try:
        found = dict(attributes(request, NFGEN_SIZE))
    except WireError:
        return None
    line, changes = found.get(ipset.LINENO), found.get(ipset.ADT)
    if line is None or changes is None or len(line) != _LINE.size:
        return None
    return int(_LINE.unpack(line)[0])


def decode_type(reply: Message) -> ipset.TypeRange:
    """Decode the revisions of a set type. Raises WireError."""
    found = _body(reply, ipset.TYPE)
    most = _byte(found.get(ipset.REVISION, b""), "revision")
    least = _byte(found[ipset.REVISION_MIN], "least revision") if ipset.REVISION_MIN in found else most
    return ipset.TypeRange(least, most)


def decode_name(reply: Message) -> str:
    """Decode the name of a listed set. Raises WireError."""
    return _text(_body(reply, ipset.LIST).get(ipset.SETNAME, b""), "name")


def decode_part(reply: Message) -> SetPart:
    """Decode one message of a listing. Raises WireError."""
    found = _body(reply, ipset.LIST)
    name = _text(found.get(ipset.SETNAME, b""), "name")
    header = _header(name, found) if ipset.TYPENAME in found else None
    members = _members(found.get(ipset.ADT, b""))
    known = tuple([member for member in members if member is not None])
    return SetPart(name, header, known, len(members) - len(known))


def decode_packets(reply: Message) -> Iterator[tuple[str, int]]:
    """Yield each address of a listed set that counts, with its packets. Raises WireError."""
    for _, content in attributes(_body(reply, ipset.LIST).get(ipset.ADT, b"")):
        found = dict(attributes(content))
        if ipset.IP in found and ipset.PACKETS in found:
            yield _address(found[ipset.IP]), _number(found[ipset.PACKETS], _U64)


def _body(reply: Message, kind: int) -> dict[int, bytes]:
    if reply.type != kind:
        raise WireError(f"netlink message of type {reply.type:#x} isn't the ipset reply {kind:#x}")
    return dict(attributes(reply.payload, NFGEN_SIZE))


def _header(name: str, found: dict[int, bytes]) -> SetHeader:
    own = dict(attributes(found.get(ipset.DATA, b"")))
    known = {
        ipset.CADT_FLAGS,
        ipset.TIMEOUT,
        ipset.MAXELEM,
        ipset.PORT,
        ipset.PORT_TO,
        ipset.ELEMENTS,
        ipset.REFERENCES,
        ipset.MEMSIZE,
        _HASHSIZE,
        _BUCKETSIZE,
        _INITVAL,
    }
    return SetHeader(
        name,
        _text(found[ipset.TYPENAME], "type"),
        _FAMILIES.get(_byte(found.get(ipset.FAMILY, b"\0"), "family"), 4),
        _byte(found.get(ipset.REVISION, b"\0"), "revision"),
        flags=_number(own.get(ipset.CADT_FLAGS), _U32),
        timeout=_number(own.get(ipset.TIMEOUT), _U32),
        size=_number(own.get(ipset.MAXELEM), _U32),
        first=_number(own.get(ipset.PORT), _U16),
        last=_number(own.get(ipset.PORT_TO), _U16),
        elements=_number(own[ipset.ELEMENTS], _U32) if ipset.ELEMENTS in own else None,
        references=_number(own.get(ipset.REFERENCES), _U32),
        others=frozenset(own.keys() - known),
    )


_INITVAL, _HASHSIZE, _BUCKETSIZE = 17, 18, 21
"""How the kernel stores a set, which changes as it grows."""


def _members(content: bytes) -> list[SetMember | None]:
    if content and not len(content) % _PLAIN4.size:
        pairs = list(_PLAIN4.iter_unpack(content))
        if all(head == _PLAIN4_HEAD for head, _ in pairs):
            return [address_text(address) for _, address in pairs]
    return [_member(value) if kind == ipset.DATA else None for kind, value in attributes(content)]


def _member(content: bytes) -> SetMember | None:
    found = {kind: value for kind, value in attributes(content) if kind not in _COUNTS}
    decode = _FORMS.get(tuple(sorted(found)))
    return None if decode is None else decode(found)


def _ip_port(found: dict[int, bytes]) -> SetMember | None:
    protocol = _protocol(found)
    return protocol and (_address(found[ipset.IP]), protocol, _number(found[ipset.PORT], _U16))


def _ip_port_ip(found: dict[int, bytes]) -> SetMember | None:
    protocol, second = _protocol(found), _address(found[ipset.IP2])
    return protocol and (_address(found[ipset.IP]), protocol, _number(found[ipset.PORT], _U16), second)


_FORMS: dict[tuple[int, ...], Callable[[dict[int, bytes]], SetMember | None]] = {
    (ipset.IP,): lambda found: _address(found[ipset.IP]),
    (ipset.IP, ipset.CIDR): lambda found: (_address(found[ipset.IP]), _length(found)),
    (ipset.PORT,): lambda found: _number(found[ipset.PORT], _U16),
    (ipset.IP, ipset.PORT, ipset.PROTO): _ip_port,
    (ipset.IP, ipset.PORT, ipset.PROTO, ipset.IP2): _ip_port_ip,
    (ipset.IP, ipset.CIDR, ipset.IFACE): lambda found: (
        _address(found[ipset.IP]),
        _length(found),
        _text(found[ipset.IFACE], "interface"),
    ),
}
"""Decoders of members by the attributes that they have."""
_COUNTS = frozenset({ipset.BYTES, ipset.PACKETS, ipset.TIMEOUT})
"""Of a member, what isn't compared: how often it was looked up, and how long it still lives."""


def _protocol(found: dict[int, bytes]) -> Protocol | None:
    return _PROTOCOL_NAMES.get(_byte(found[ipset.PROTO], "protocol"))


def _address(content: bytes) -> str:
    found = list(attributes(content))
    sizes = {ipset.IPADDR[4]: 4, ipset.IPADDR[6]: 16}
    if len(found) != 1 or len(found[0][1]) != sizes.get(found[0][0]):
        raise WireError(f"address of an ipset's member: {content.hex()}")
    return address_text(found[0][1])


def _length(found: dict[int, bytes]) -> int:
    return _byte(found[ipset.CIDR], "prefix length")


def _byte(value: bytes, what: str) -> int:
    if len(value) != 1:
        raise WireError(f"{what} of an ipset with {len(value)} bytes")
    return value[0]


def _number(value: bytes | None, layout: struct.Struct) -> int:
    if value is None:
        return 0
    if len(value) != layout.size:
        raise WireError(f"number of an ipset with {len(value)} bytes, not {layout.size}")
    return int(layout.unpack(value)[0])


def _text(value: bytes, what: str) -> str:
    text = value.rstrip(b"\0").decode("utf-8", "replace")
    if not text:
        raise WireError(f"ipset without a {what}")
    return text


def parts(replies: Iterator[Message]) -> Iterator[SetPart]:
    """Yield the parts of sets in the replies to a listing. Raises WireError."""
    for reply in replies:
        if reply.type == ipset.LIST:
            yield decode_part(reply)
