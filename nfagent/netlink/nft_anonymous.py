"""Encodes the anonymous sets of rules: `{ icmp, icmpv6 }`, `{ ::, fe80::/10 }`, with what nft 1.0.6 keeps about them.

The user data of a set says how nft prints its elements: the byte order, and which expression's type they have. nft's
numbers of data types, expressions, headers and header fields are its own; the kernel only keeps them.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable, Iterator, Sequence
from typing import TypeAlias

import msgspec

from nfagent.model.netaddr import Range
from nfagent.netlink.codec import nested, nfgen
from nfagent.netlink.nft_elements import interval_element, interval_end, single_element
from nfagent.netlink.nft_expressions import ANONYMOUS, META_L4PROTO, META_PKTTYPE
from nfagent.netlink.nft_messages import (
    ADDRESS_BYTES,
    IN_TABLE,
    NEWSET,
    NEWSETELEM,
    NLM_F_CREATE,
    NftMessage,
    Request,
    name_attribute,
    u32_attribute,
)
from nfagent.netlink.nft_sets import (
    ADDRESS_TYPES,
    BIG_ENDIAN,
    HOST_ORDER,
    SET_INTERVAL,
    TYPE_PROTOCOL,
    attributes_of_set,
    userdata,
    userdata_number,
)
from nfagent.nftables.matches import IpAddress

_ANONYMOUS, _CONSTANT = 1, 2  # NFT_SET_*
_SET_NAME, _SET_ID = 2, 10  # NFTA_SET_*
_LIST_SET, _LIST_ELEMENTS, _LIST_SET_ID = 2, 3, 4  # NFTA_SET_ELEM_LIST_*
_TYPE_ETHER, _TYPE_ICMPV6, _TYPE_PACKET, _TYPE_FIB = 10, 29, 31, 38
_MERGE, _TYPE_OF = 2, 3  # of a set's user data
_EXPRESSION, _EXPRESSION_DATA = 0, 1  # in _TYPE_OF
_PAYLOAD, _META, _FIB = 7, 9, 26  # in _EXPRESSION
_FIB_RESULT_TYPE, _FIB_DADDR = 3, 2
_ICMPV6_HEADER, _ICMPV6_TYPE = 14, 1
_ETHER_HEADER, _ETHER_TYPE = 17, 3
_IP_HEADER = {4: 12, 6: 13}
_IP_FIELD = {("saddr", 4): 11, ("daddr", 4): 12, ("saddr", 6): 8, ("daddr", 6): 9}


class AnonymousSet(msgspec.Struct, frozen=True):
    """An anonymous set, encoded: attributes of NFT_MSG_NEWSET, and NFTA_LIST_ELEMs of NFT_MSG_NEWSETELEM."""

    declaration: bytes
    elements: bytes


Part: TypeAlias = bytes | AnonymousSet
"""Expressions, or an anonymous set in which the key of the expressions before it is looked up."""


def anonymous_set_messages(item: AnonymousSet, set_id: int, request: Request, *, family: int) -> Iterator[NftMessage]:
    """Encode the messages that add an anonymous set and its elements, for a rule later in the same batch.

    set_id: number of the set in the batch, by which the rule's look-up names it
    """
    head = nfgen(family, 0) + IN_TABLE
    named = head + name_attribute(_SET_NAME, "set", ANONYMOUS) + u32_attribute(_SET_ID, set_id)
    yield NftMessage(NEWSET, NLM_F_CREATE, named + item.declaration, request)
    listed = head + name_attribute(_LIST_SET, "set", ANONYMOUS) + u32_attribute(_LIST_SET_ID, set_id)
    yield NftMessage(NEWSETELEM, NLM_F_CREATE, listed + nested(_LIST_ELEMENTS, item.elements), request)


def protocol_set(numbers: Sequence[int]) -> AnonymousSet:
    """Return a set of protocols, as of `meta l4proto`."""
    return _bytes_set(TYPE_PROTOCOL, numbers, HOST_ORDER, _of_meta(META_L4PROTO))


def ether_type_set(numbers: Sequence[int]) -> AnonymousSet:
    """Return a set of EtherTypes."""
    keys = [struct.pack("!H", number) for number in numbers]
    return _set(_TYPE_ETHER, keys, userdata_number(0, BIG_ENDIAN) + _of_payload(_ETHER_HEADER, _ETHER_TYPE))


def frame_set(numbers: Sequence[int]) -> AnonymousSet:
    """Return a set of PACKET_*, as of `meta pkttype`."""
    return _bytes_set(_TYPE_PACKET, numbers, HOST_ORDER, _of_meta(META_PKTTYPE))


def icmpv6_type_set(numbers: Sequence[int]) -> AnonymousSet:
    """Return a set of ICMPv6 types."""
    return _bytes_set(_TYPE_ICMPV6, numbers, BIG_ENDIAN, _of_payload(_ICMPV6_HEADER, _ICMPV6_TYPE))


def address_type_set(numbers: Sequence[int]) -> AnonymousSet:
    """Return a set of RTN_*, as of `fib daddr type`."""
    of_fib = _type_of(_FIB, userdata_number(0, _FIB_RESULT_TYPE) + userdata_number(1, _FIB_DADDR))
    keys = [struct.pack("=I", number) for number in numbers]
    return _set(_TYPE_FIB, keys, userdata_number(0, HOST_ORDER) + of_fib)


def range_set(key: IpAddress, ranges: Iterable[Range]) -> AnonymousSet:
    """Return a set of addresses or ranges of a header's field; ranges that overlap or touch are one.

    Raises ValueError without ranges, OverflowError for an address that isn't of the field's family.
    """
    data_type, size = ADDRESS_TYPES[key.family], ADDRESS_BYTES[key.family]
    ordered = sorted(ranges)
    of_field = _of_payload(_IP_HEADER[key.family], _IP_FIELD[key.side, key.family])
    if all(item.first == item.last for item in ordered):
        keys = [item.first.to_bytes(size, "big") for item in ordered]
        return _set(data_type, keys, userdata_number(0, BIG_ENDIAN) + of_field)
    merged = list(_merged(ordered))
    # nft counts both ends of every interval, and the end of what is before the first one: such an end is an element.
    below = [interval_end(bytes(size))] if merged[0][0] else []
    elements = b"".join([*below, *(interval_element(size, first, last) for first, last in merged)])
    about = userdata_number(0, BIG_ENDIAN) + userdata_number(_MERGE, 1) + of_field
    flags = _ANONYMOUS | _CONSTANT | SET_INTERVAL
    count = len(below) + 2 * len(merged)
    return AnonymousSet(attributes_of_set(flags, data_type, size, about, size=count), elements)


def _merged(ordered: Iterable[Range]) -> Iterator[tuple[int, int]]:
    first, last = -1, -2
    for item in ordered:
        if item.first <= last + 1 and first >= 0:
            last = max(last, item.last)
            continue
        if first >= 0:
            yield first, last
        first, last = item.first, item.last
    yield first, last


def _bytes_set(data_type: int, numbers: Iterable[int], order: int, type_of: bytes) -> AnonymousSet:
    return _set(data_type, [bytes((number,)) for number in numbers], userdata_number(0, order) + type_of)


def _set(data_type: int, keys: Sequence[bytes], about: bytes) -> AnonymousSet:
    """Return a set of keys. Raises ValueError without any: nft has no such set."""
    if not keys:
        raise ValueError("no elements")
    declaration = attributes_of_set(_ANONYMOUS | _CONSTANT, data_type, len(keys[0]), about, size=len(keys))
    return AnonymousSet(declaration, b"".join(map(single_element, keys)))


def _of_meta(key: int) -> bytes:
    return _type_of(_META, userdata_number(0, key))


def _of_payload(header: int, field: int) -> bytes:
    return _type_of(_PAYLOAD, userdata_number(0, header) + userdata_number(1, field))


def _type_of(expression: int, fields: bytes) -> bytes:
    return userdata(_TYPE_OF, userdata_number(_EXPRESSION, expression) + userdata(_EXPRESSION_DATA, fields))
