"""Encodes changes of set and map elements as one nf_tables batch (linux/netfilter/nf_tables.h, nfnetlink.h).

libnftables lists the sets of a table before it changes one; a batch needs no listing. The kernel applies a batch as a
whole or not at all.

A message has as many elements of one command as its 16-bit length allows: the kernel looks up the set once for each
message, by a walk of the list of all sets, which is the only cost that grows with the table. Its acknowledgement has
the offset of the element that it refused; old kernels name only the message.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable, Iterator
from functools import lru_cache
from ipaddress import AddressValueError, IPv6Address
from typing import Literal, TypeAlias, TypeGuard

import msgspec

from nfagent.errors import WireError
from nfagent.model.netaddr import Range
from nfagent.netlink.codec import NLM_F_ACK, NLM_F_REQUEST, attribute, message, nested, nfgen
from nfagent.nftables.objects import TABLE, Element, LinkName, PortRange, ProtocolPort
from nfagent.nftables.transaction import ChangeElements, ChangeMapElements, Transaction

ElementCommand: TypeAlias = ChangeElements | ChangeMapElements
MapElement: TypeAlias = tuple[str, str]
"""Address and chain, as in ChangeMapElements."""

_NFNL_SUBSYS_NFTABLES = 10
_BATCH_BEGIN, _BATCH_END = 16, 17  # NFNL_MSG_BATCH_*
_MESSAGE_TYPES = {"add": _NFNL_SUBSYS_NFTABLES << 8 | 12, "delete": _NFNL_SUBSYS_NFTABLES << 8 | 14}  # NFT_MSG_*SETELEM
_NLM_F_EXCL, _NLM_F_CREATE = 0x200, 0x400
_NFPROTO_INET = 1
_LIST_TABLE, _LIST_SET, _LIST_ELEMENTS = 1, 2, 3  # NFTA_SET_ELEM_LIST_*
_LIST_ELEM = 1  # NFTA_LIST_ELEM
_KEY, _DATA, _ELEMENT_FLAGS, _USERDATA = 1, 2, 3, 6  # NFTA_SET_ELEM_*
_VALUE, _VERDICT = 1, 2  # NFTA_DATA_*
_CODE, _CHAIN = 1, 2  # NFTA_VERDICT_*
_NFT_GOTO = struct.pack("!i", -4)
_INTERVAL_END = attribute(_ELEMENT_FLAGS, struct.pack("!I", 1))  # NFT_SET_ELEM_INTERVAL_END
# User data of an element without an end, as nft writes it (NFTNL_UDATA_SET_ELEM_FLAGS: SET_ELEM_F_INTERVAL_OPEN).
_INTERVAL_OPEN = attribute(_USERDATA, struct.pack("=BBI", 1, 4, 1))
_PROTOCOLS = {"tcp": 6, "udp": 17, "sctp": 132}  # IANA protocol numbers
_ADDRESS_BYTES = {4: 4, 6: 16}
_PORT_BYTES = 2
_NFPROTO = {4: 2, 6: 10}  # NFPROTO_IPV4, NFPROTO_IPV6
_LINK_BYTES = 16  # IFNAMSIZ of linux/if.h
_LIST_BYTES = 60_000  # of the 65,531 that an attribute can hold; the largest element has 352
_SEQUENCE_MASK = 0xFFFF_FFFF
_HEADERS_SIZE = 20  # struct nlmsghdr and struct nfgenmsg


class ElementRequest(msgspec.Struct, frozen=True):
    """One message of a batch: adds `elements` to the set or map `set`, or deletes them."""

    verb: Literal["add", "delete"]
    set: str
    elements: tuple[Element | MapElement, ...]
    is_map: bool = False

    def names_table(self, offset: int | None) -> bool:
        """Return whether an offset into the message is that of the attribute with the table's name."""
        return offset == _HEADERS_SIZE

    def element_at(self, offset: int | None) -> Element | MapElement | None:
        """Return the element whose attribute is at an offset into the message; the end of an interval included.

        None for the offset of another attribute. Without an offset (None), only a single element is known.
        """
        if offset is None:
            return self.elements[0] if len(self.elements) == 1 else None
        end = _HEADERS_SIZE + len(_names(self.set)) + 4
        if offset < end:
            return None
        for element, encoded in zip(self.elements, _encoded(self), strict=True):
            end += len(encoded)
            if offset < end:
                return element
        return None


class Batch(msgspec.Struct, frozen=True):
    """Bytes for one sendmsg, and the request of each sequence number in them.

    data:      begin, element messages, end; empty without changes
    first:     sequence number of the begin message: in the kernel's error if it refuses the whole batch
    requests:  sequence number -> request
    last:      sequence number of the only message with NLM_F_ACK; its acknowledgement comes last
    following: the next free sequence number
    """

    data: bytes
    first: int
    requests: dict[int, ElementRequest]
    last: int
    following: int


def is_elements_only(transaction: Transaction) -> TypeGuard[tuple[ElementCommand, ...]]:
    """Return whether all commands of a transaction change elements, so that one batch can encode it."""
    return all(isinstance(command, ChangeElements | ChangeMapElements) for command in transaction)


def encode_batch(transaction: Iterable[ElementCommand], first_sequence: int) -> Batch:
    """Encode a transaction as one batch. Commands and elements keep their order, except that ranges are sorted.

    An element is encoded by its Python type, since the set's kind isn't known: an interval set takes only Ranges or
    PortRanges. The kernel accepts an address that is already in the set, and refuses such an interval.
    Raises WireError for an element that can't be encoded.
    """
    requests = list(_requests(transaction))
    if not requests:
        return Batch(b"", first_sequence, {}, first_sequence, first_sequence)
    numbered = {}
    parts = [message(_BATCH_BEGIN, NLM_F_REQUEST, first_sequence, nfgen(0, _NFNL_SUBSYS_NFTABLES))]
    sequence = first_sequence
    for position, (request, body) in enumerate(requests, 1):
        sequence = (first_sequence + position) & _SEQUENCE_MASK
        numbered[sequence] = request
        flags = _flags(request) | (NLM_F_ACK if position == len(requests) else 0)
        parts.append(message(_MESSAGE_TYPES[request.verb], flags, sequence, body))
    end = (sequence + 1) & _SEQUENCE_MASK
    parts.append(message(_BATCH_END, NLM_F_REQUEST, end, nfgen(0, _NFNL_SUBSYS_NFTABLES)))
    return Batch(b"".join(parts), first_sequence, numbered, sequence, (end + 1) & _SEQUENCE_MASK)


def _flags(request: ElementRequest) -> int:
    if request.verb == "delete":
        return NLM_F_REQUEST
    # Start and end of an interval are two elements to the kernel. Without EXCL it would accept an end that already
    # exists, and so change the interval that this end belongs to.
    interval = isinstance(request.elements[0], Range | PortRange)
    return NLM_F_REQUEST | _NLM_F_CREATE | (_NLM_F_EXCL if interval else 0)


def _requests(transaction: Iterable[ElementCommand]) -> Iterator[tuple[ElementRequest, bytes]]:
    for command in transaction:
        whole = _request(command)
        head = nfgen(_NFPROTO_INET, 0) + _names(whole.set)
        for start, stop, written in _portions(_encoded(whole)):
            part = msgspec.structs.replace(whole, elements=whole.elements[start:stop])
            yield part, head + nested(_LIST_ELEMENTS, *written)


def _request(command: ElementCommand) -> ElementRequest:
    if isinstance(command, ChangeMapElements):
        return ElementRequest(command.verb, command.map, command.elements, is_map=True)
    # Some kernels take a start at the end of a message for one without an end: the interval up to a family's last
    # address must come last, and start and end of an interval must be in one message.
    return ElementRequest(command.verb, command.set, tuple(_ascending(command.elements)))


def _ascending(elements: tuple[Element, ...]) -> Iterable[Element]:
    ranges = [element for element in elements if isinstance(element, Range)]
    ports = [element for element in elements if isinstance(element, PortRange)]
    if len(elements) in {len(ranges), len(ports)}:
        return sorted(ranges) or sorted(ports)
    return elements


def _portions(elements: Iterable[bytes]) -> Iterator[tuple[int, int, list[bytes]]]:
    """Yield, for each message: position of the first element, position after the last one, encoded elements."""
    start, size = 0, 0
    written: list[bytes] = []
    for element in elements:
        if size + len(element) > _LIST_BYTES:
            yield start, start + len(written), written
            start, size, written = start + len(written), 0, []
        written.append(element)
        size += len(element)
    if written:
        yield start, start + len(written), written


@lru_cache(maxsize=512)
def _names(name: str) -> bytes:
    return attribute(_LIST_TABLE, TABLE.encode() + b"\0") + attribute(_LIST_SET, name.encode() + b"\0")


def _encoded(request: ElementRequest) -> Iterator[bytes]:
    """Yield each element encoded: one attribute, or two for an interval with an end."""
    for element in request.elements:
        try:
            yield _element(request, element)
        except (ValueError, KeyError, OverflowError, struct.error):
            raise WireError(f"{element!r} of {request.set} can't be encoded as an element of a set or map") from None


def _element(request: ElementRequest, element: Element | MapElement) -> bytes:
    match element:
        case (str(address), str(chain)) if request.is_map:
            return _map_element(_packed(address), chain if request.verb == "add" else None)
        case Range(family, first, last):
            return _interval(_ADDRESS_BYTES[family], first, last)
        case PortRange(first, last):
            return _interval(_PORT_BYTES, first, last)
        case int():
            return nested(_LIST_ELEM, nested(_KEY, attribute(_VALUE, struct.pack("!B", _NFPROTO[element]))))
    return _single(_key_bytes(element))


def _key_bytes(element: object) -> bytes:
    match element:
        case str():
            return _packed(element)
        case LinkName(name):
            return _link(name)
        case ProtocolPort(protocol, port):
            return _service(protocol, port)
        case tuple():
            return _concatenated(element)
    raise ValueError(element)


def _concatenated(element: tuple[object, ...]) -> bytes:
    match element:
        case (str(first), str(second)):
            return _packed(first) + _packed(second)
        case (str(address), str(protocol), int(port)):
            return _packed(address) + _service(protocol, port)
        case (str(), str(), int(), str(other), int(other_port)):
            return _concatenated(element[:3]) + _packed(other) + struct.pack("!H2x", other_port)
    raise ValueError(element)


def _service(protocol: str, port: int) -> bytes:
    return struct.pack("!B3xH2x", _PROTOCOLS[protocol], port)


def _link(name: str) -> bytes:
    packed = name.encode()
    if not 0 < len(packed) < _LINK_BYTES:
        raise ValueError(name)
    return packed.ljust(_LINK_BYTES, b"\0")


def _packed(address: str) -> bytes:
    if ":" in address:
        return IPv6Address(address).packed
    packed = bytes(map(int, address.split(".")))  # takes a quarter of the time of IPv4Address
    if len(packed) != _ADDRESS_BYTES[4]:
        raise AddressValueError(address)
    return packed


def _single(key: bytes) -> bytes:
    return _key_head(len(key)) + key


def _interval(size: int, first: int, last: int) -> bytes:
    """Encode first as the start, and last + 1 as the end; none after the last value of the family."""
    start = first.to_bytes(size, "big")
    if last + 1 == 1 << 8 * size:
        return nested(_LIST_ELEM, nested(_KEY, attribute(_VALUE, start)), _INTERVAL_OPEN)
    end = (last + 1).to_bytes(size, "big")
    if size % 4:
        closing = nested(_LIST_ELEM, _INTERVAL_END, nested(_KEY, attribute(_VALUE, end)))
        return nested(_LIST_ELEM, nested(_KEY, attribute(_VALUE, start))) + closing
    return _key_head(size) + start + _end_head(size) + end


def _map_element(key: bytes, chain: str | None) -> bytes:
    if chain is None:
        return _single(key)  # the kernel deletes by key alone
    verdict = nested(_VERDICT, attribute(_CODE, _NFT_GOTO), attribute(_CHAIN, chain.encode() + b"\0"))
    return nested(_LIST_ELEM, nested(_KEY, attribute(_VALUE, key)), nested(_DATA, verdict))


@lru_cache
def _key_head(size: int) -> bytes:
    """Encode the attribute headers before a key of `size` bytes, a multiple of four."""
    return nested(_LIST_ELEM, nested(_KEY, attribute(_VALUE, bytes(size))))[:-size]


@lru_cache
def _end_head(size: int) -> bytes:
    return nested(_LIST_ELEM, _INTERVAL_END, nested(_KEY, attribute(_VALUE, bytes(size))))[:-size]
