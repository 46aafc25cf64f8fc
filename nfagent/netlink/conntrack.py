"""Conntrack entries: encodes dump and delete requests, decodes entries (linux/netfilter/nfnetlink_conntrack.h).

An entry has a tuple for each direction. The original tuple has the client, and the address and port that it connected
to; the source of the reply tuple is the server, after DNAT. Values inside attributes are in network byte order.

A table may have 100,000 entries. So a tuple in the kernel's usual layout for protocols with ports is decoded by one
struct; any other tuple is decoded attribute by attribute. And a datagram, of some 200 entries, is first searched for
the bytes of few addresses: without them, its IPv4 entries are only counted.
"""

from __future__ import annotations

import struct
from functools import lru_cache

import msgspec

from nfagent.errors import WireError
from nfagent.model.netaddr import FAMILIES, Family, family_of, is_link_local, number, text
from nfagent.netlink import codec
from nfagent.netlink.extack import Acknowledgement, decode_acknowledgement

_SUBSYSTEM = 1 << 8  # NFNL_SUBSYS_CTNETLINK
_MSG_NEW, _MSG_GET, _MSG_DELETE = _SUBSYSTEM | 0, _SUBSYSTEM | 1, _SUBSYSTEM | 2  # IPCTNL_MSG_CT_*
_NFPROTO = {4: 2, 6: 10}
_IPV4 = bytes([_NFPROTO[4]])
_AF_UNSPEC = 0

_TUPLE_ORIG, _TUPLE_REPLY, _STATUS, _ID, _ZONE, _FILTER = 1, 2, 3, 12, 18, 25  # CTA_*
_TUPLE_IP, _TUPLE_PROTO, _TUPLE_ZONE = 1, 2, 3  # CTA_TUPLE_*
_SOURCE = {4: 1, 6: 3}  # CTA_IP_V4_SRC, CTA_IP_V6_SRC; the destination's number is the next one
_NUMBER, _SOURCE_PORT, _DESTINATION_PORT = 1, 2, 3  # CTA_PROTO_*
_ORIG_FLAGS, _REPLY_FLAGS = 1, 2  # CTA_FILTER_*
_BY_SOURCE = struct.pack("=I", 1 << 0)  # the kernel's CTA_FILTER_F_CTA_IP_SRC: in host byte order

_ADDRESS_BYTES = {4: 4, 6: 16}
_GRE = 47  # its keys are encoded as ports
_BOTH_TUPLES = codec.NFGEN_SIZE + 2 * 24  # bytes of IPv4 addresses alone; what is shorter is refused, not counted
_FEW = 8  # addresses; to search a datagram for twice as many takes as long as to decode both ends of its entries
_U16 = struct.Struct("!H")
_U32 = struct.Struct("!I")
_ERRNO = struct.Struct("=i")


class ConntrackEntry(msgspec.Struct, frozen=True, gc=False):
    """One connection in the conntrack table. Addresses are canonical text.

    client:   source of the original tuple
    called:   destination of the original tuple: a Service's address, or the server's own
    server:   source of the reply tuple: the server, after DNAT
    protocol: IP protocol number
    client_port, called_port, server_port: None for protocols without ports (ICMP, ICMPv6, GRE, ...)
    zone:     conntrack zone of the reply direction, 0 for none
    id:       the kernel's id, 32 bits, constant for the entry; a later entry may get the same id
    status:   IPS_* bits (linux/netfilter/nf_conntrack_common.h)
    reply:    bytes of the reply tuple, without its zone: identifies the entry in `encode_delete`
    """

    client: str
    called: str
    server: str
    protocol: int
    client_port: int | None
    called_port: int | None
    server_port: int | None
    zone: int
    id: int
    status: int
    reply: bytes

    @property
    def reply_destination(self) -> tuple[str, int | None]:
        """Return address and port of the reply tuple's destination: the client's, or the translated ones after SNAT."""
        reply = decode_tuple(self.reply)
        return address_text(reply.destination), reply.destination_port

    @property
    def is_dnat(self) -> bool:
        """Return whether the destination of the connection was translated (DNAT)."""
        return self.called != self.server


class DumpChunk(msgspec.Struct, frozen=True, gc=False):
    """The content of one datagram of a dump.

    entries:     the matching entries, in order
    others:      number of other entries
    others6:     number of IPv6 entries among them
    done:        the dump has ended, or was refused
    interrupted: the table changed during the dump, which may lack entries or repeat them (NLM_F_DUMP_INTR)
    refusal:     the error that ended the dump; None without one
    """

    entries: list[ConntrackEntry]
    others: int
    done: bool
    interrupted: bool
    refusal: Acknowledgement | None
    others6: int = 0


def encode_dump(family: Family | None, sequence: int, *, client: str | None = None, server: str | None = None) -> bytes:
    """Encode a dump request for a family's entries in all zones, optionally only those of a client or server.

    family: None for both families (AF_UNSPEC), which can't be combined with an address

    The kernel filters by CTA_FILTER, since Linux 5.8. Check the result: older kernels ignore the filter and return all
    entries; some compare the server with 0.0.0.0 and return none; and up to 6.18, the latest kernel tried, the filter
    by an IPv6 address returns all entries except its own.

    Raises WireError for an address that isn't of the family.
    """
    parts, filters = [codec.nfgen(_AF_UNSPEC if family is None else _NFPROTO[family], 0)], []
    for address, direction, flags in (client, _TUPLE_ORIG, _ORIG_FLAGS), (server, _TUPLE_REPLY, _REPLY_FLAGS):
        if address is not None:
            if family is None or family_of(address) != family:
                of = "both families" if family is None else f"IPv{family}"
                raise WireError(f"{address} can't filter conntrack entries of {of}")
            source = codec.attribute(_SOURCE[family], _packed(address))
            parts.append(codec.nested(direction, codec.nested(_TUPLE_IP, source)))
            filters.append(codec.attribute(flags, _BY_SOURCE))
    if filters:
        parts.append(codec.nested(_FILTER, *filters))
    return codec.message(_MSG_GET, codec.NLM_F_REQUEST | codec.NLM_F_DUMP, sequence, b"".join(parts))


def encode_delete(entry: ConntrackEntry, sequence: int, *, acknowledge: bool) -> bytes:
    """Encode the request to delete one entry; without `acknowledge` the kernel replies only with an error.

    The entry is identified by zone, reply tuple and id. The id depends on the original tuple and on a memory address,
    which the next entry often gets again (tried): the client's next connection to the same Service may have the same
    original tuple and id. The reply tuple has the server. So the deleted entry is this one, or one that is the same to
    every policy.

    Raises WireError for an entry without a reply tuple.
    """
    if not entry.reply:
        raise WireError(
            f"conntrack entry of {entry.client} to {entry.server} without a reply tuple can't be identified"
        )
    parts = [codec.nfgen(_NFPROTO[family_of(entry.client)], 0), codec.nested(_TUPLE_REPLY, entry.reply)]
    if entry.zone:
        parts.append(codec.attribute(_ZONE, _U16.pack(entry.zone)))
    parts.append(codec.attribute(_ID, _U32.pack(entry.id)))
    flags = codec.NLM_F_REQUEST | (codec.NLM_F_ACK if acknowledge else 0)
    return codec.message(_MSG_DELETE, flags, sequence, b"".join(parts))


def decode_entries(datagram: bytes, addresses: frozenset[str] | None = None) -> DumpChunk:
    """Decode one datagram of a dump; with addresses, only entries whose client or server is one of them.

    Entries with a link-local client or server always match. Messages of other types are skipped. Raises WireError.
    """
    entries: list[ConntrackEntry] = []
    others, others6, done, interrupted, refusal = 0, 0, False, False, None
    unasked = addresses is not None and _has_none(datagram, addresses)
    for message in codec.messages(datagram):
        if message.flags & codec.NLM_F_DUMP_INTR:
            interrupted = True
        if message.type == _MSG_NEW:
            if unasked and message.payload[:1] == _IPV4 and len(message.payload) >= _BOTH_TUPLES:
                others += 1
            elif addresses is None:
                entries.append(decode_entry(message.payload))
            elif (entry := _matching(message.payload, addresses)) is not None:
                entries.append(entry)
            else:
                others += 1
                others6 += message.payload[0] == _NFPROTO[6]
        elif message.type in {codec.NLMSG_DONE, codec.NLMSG_ERROR}:
            done, refusal = True, refusal or _refusal(message)
    return DumpChunk(entries, others, done, interrupted, refusal, others6)


def _has_none(datagram: bytes, addresses: frozenset[str]) -> bool:
    """Return whether a datagram has the bytes of none of the IPv4 addresses; False, unsearched, for many."""
    packed = _packed4(addresses)
    return len(packed) <= _FEW and not any(address in datagram for address in packed)


def decode_entry(body: bytes) -> ConntrackEntry:
    """Decode the payload of an IPCTNL_MSG_CT_NEW message. Raises WireError."""
    found = dict(codec.attributes(body, codec.NFGEN_SIZE))
    try:
        original, reply = decode_tuple(found[_TUPLE_ORIG]), decode_tuple(found[_TUPLE_REPLY])
        return ConntrackEntry(
            address_text(original.source),
            address_text(original.destination),
            address_text(reply.source),
            original.protocol,
            original.source_port,
            original.destination_port,
            reply.source_port,
            _U16.unpack(found[_ZONE])[0] if _ZONE in found else reply.zone,
            _U32.unpack(found[_ID])[0],
            _U32.unpack(found[_STATUS])[0],
            reply.name,
        )
    except KeyError as error:
        raise WireError(f"conntrack entry without attribute {error.args[0]}") from None
    except struct.error as error:
        raise WireError(f"conntrack entry with an attribute of a wrong size: {error}") from None


def _refusal(message: codec.Message) -> Acknowledgement | None:
    if message.type == codec.NLMSG_ERROR:
        answer = decode_acknowledgement(message)
        return answer if answer.errno else None
    if len(message.payload) < _ERRNO.size:
        raise WireError(f"end of a conntrack dump with {len(message.payload)} bytes, an errno has 4")
    (code,) = _ERRNO.unpack_from(message.payload)
    return Acknowledgement(message.sequence, -code) if code < 0 else None


def _matching(body: bytes, addresses: frozenset[str]) -> ConntrackEntry | None:
    ends = _ends(body)
    if ends is not None and _packed_all(addresses).isdisjoint(ends) and not any(map(_is_link_local, ends)):
        return None
    entry = decode_entry(body)
    client, server = entry.client, entry.server
    concerned = client in addresses or server in addresses or is_link_local(client) or is_link_local(server)
    return entry if concerned else None


def _is_link_local(packed: bytes) -> bool:
    return packed[0] == 0xFE and packed[1] & 0xC0 == 0x80 and len(packed) == _ADDRESS_BYTES[6]


class ConntrackTuple(msgspec.Struct, frozen=True, gc=False):
    """One tuple of an entry: packed addresses, ports, CTA_TUPLE_ZONE (0 for none), and its bytes without the zone."""

    source: bytes
    destination: bytes
    protocol: int
    source_port: int | None
    destination_port: int | None
    zone: int
    name: bytes


class _Layout(msgspec.Struct, frozen=True):
    """The kernel's layout of a family's tuples: values, each after a head of one or two attribute headers.

    start: beginning of a tuple in its message: length and type of CTA_TUPLE_*, head, source
    head:  the head in `start`
    value: a tuple with ports: source, destination, protocol, source port and destination port, each after a head
    heads: the heads in `value`
    """

    start: struct.Struct
    head: bytes
    value: struct.Struct
    heads: tuple[bytes, ...]


def _layout(family: Family) -> _Layout:
    size, source = _ADDRESS_BYTES[family], _SOURCE[family]
    addresses = (codec.attribute(kind, bytes(size)) for kind in (source, source + 1))
    ports = (codec.attribute(kind, bytes(2)) for kind in (_SOURCE_PORT, _DESTINATION_PORT))
    protocol = codec.attribute(_NUMBER, bytes(1))
    written = codec.nested(_TUPLE_IP, *addresses) + codec.nested(_TUPLE_PROTO, protocol, *ports)
    value = struct.Struct(f"!8s{size}s4s{size}s8sB3x4sH2x4sH2x")
    heads = value.unpack(written)[::2]
    return _Layout(struct.Struct(f"=HH8s{size}s"), heads[0], value, heads)


_LAYOUTS = {_NFPROTO[family]: _layout(family) for family in FAMILIES}
_LAYOUTS_BY_SIZE = {layout.value.size: layout for layout in _LAYOUTS.values()}
_TUPLES = (_TUPLE_ORIG | codec.NLA_F_NESTED, _TUPLE_REPLY | codec.NLA_F_NESTED)


def _ends(body: bytes) -> tuple[bytes, bytes] | None:
    """Decode only client and server, packed, at a small part of the cost of `decode_entry`; None in another layout."""
    layout = _LAYOUTS.get(body[0]) if body else None
    if layout is None:
        return None
    unpack = layout.start.unpack_from
    try:
        length, original, original_head, client = unpack(body, codec.NFGEN_SIZE)
        _, reply, reply_head, server = unpack(body, codec.NFGEN_SIZE + length)
    except struct.error:
        return None
    if (original, reply) == _TUPLES and original_head == reply_head == layout.head:
        return client, server
    return None


def decode_tuple(value: bytes) -> ConntrackTuple:
    """Decode the members of CTA_TUPLE_ORIG or CTA_TUPLE_REPLY.

    Raises WireError, KeyError for a missing attribute, struct.error for one of a wrong size.
    """
    layout = _LAYOUTS_BY_SIZE.get(len(value))
    if layout is not None:
        read = layout.value.unpack(value)
        if read[::2] == layout.heads:
            _, source, _, destination, _, protocol, _, source_port, _, destination_port = read
            if protocol != _GRE:
                return ConntrackTuple(source, destination, protocol, source_port, destination_port, 0, value)
    return _tuple_by_attributes(value)


def _tuple_by_attributes(value: bytes) -> ConntrackTuple:
    found = dict(codec.attributes(value))
    addresses = dict(codec.attributes(found[_TUPLE_IP]))
    proto = dict(codec.attributes(found[_TUPLE_PROTO]))
    family: Family = 6 if _SOURCE[6] in addresses else 4
    (protocol,) = struct.unpack("B", proto[_NUMBER])
    source_port, destination_port = (
        _U16.unpack(proto[kind])[0] if kind in proto and protocol != _GRE else None
        for kind in (_SOURCE_PORT, _DESTINATION_PORT)
    )
    source, destination = (
        struct.unpack(f"{_ADDRESS_BYTES[family]}s", addresses[kind])[0]
        for kind in (_SOURCE[family], _SOURCE[family] + 1)
    )
    zone = _U16.unpack(found[_TUPLE_ZONE])[0] if _TUPLE_ZONE in found else 0
    name = codec.nested(_TUPLE_IP, found[_TUPLE_IP]) + codec.nested(_TUPLE_PROTO, found[_TUPLE_PROTO])
    return ConntrackTuple(source, destination, protocol, source_port, destination_port, zone, name)


@lru_cache(maxsize=4_096)
def address_text(raw: bytes) -> str:
    """Return a packed address, of 4 or 16 bytes, as canonical text."""
    # memoised: formatting an IPv6 address costs more than decoding the rest of the entry
    return ".".join(map(str, raw)) if len(raw) == _ADDRESS_BYTES[4] else text(6, int.from_bytes(raw, "big"))


@lru_cache(maxsize=2)
def _packed_all(addresses: frozenset[str]) -> frozenset[bytes]:
    return frozenset(map(_packed, addresses))


@lru_cache(maxsize=2)
def _packed4(addresses: frozenset[str]) -> tuple[bytes, ...]:
    return tuple(packed for packed in _packed_all(addresses) if len(packed) == _ADDRESS_BYTES[4])


def _packed(address: str) -> bytes:
    try:
        return number(address).to_bytes(_ADDRESS_BYTES[family_of(address)], "big")
    except ValueError:
        raise WireError(f"{address!r} is not an IP address") from None
