"""Encodes changes of set and map elements as nf_tables messages (linux/netfilter/nf_tables.h).

A message has as many elements of one command as its 16-bit length allows: the kernel looks up the set once for each
message, by a walk of the list of all sets. This, and its check of all reachable chains where a map gets an element, are
the only costs that grow with the table. An acknowledgement has the offset of the element that was refused; old kernels
name only the message.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable, Iterator
from functools import lru_cache
from ipaddress import AddressValueError, IPv6Address
from typing import Literal, TypeAlias

import msgspec

from nfagent.errors import WireError
from nfagent.model.netaddr import Range
from nfagent.netlink.codec import attribute, nested, nfgen
from nfagent.netlink.nft_expressions import NFT_GOTO, verdict_data
from nfagent.netlink.nft_messages import (
    ADDRESS_BYTES,
    DELSETELEM,
    HEADERS_SIZE,
    IN_TABLE,
    LINK_NAME_BYTES,
    NEWSETELEM,
    NFPROTO_INET,
    NFPROTO_IP,
    NLM_F_CREATE,
    NLM_F_EXCL,
    NftMessage,
    name_attribute,
    table_of,
    u32_attribute,
)
from nfagent.netlink.nft_names import protocol_number
from nfagent.nftables.objects import Element, LinkName, PortRange, ProtocolPort
from nfagent.nftables.render import element_text, map_element_text
from nfagent.nftables.transaction import ChangeElements, ChangeMapElements

ElementCommand: TypeAlias = ChangeElements | ChangeMapElements
MapElement: TypeAlias = tuple[str, str]
"""Address and chain, as in ChangeMapElements."""

_LIST_SET, _LIST_ELEMENTS = 2, 3  # NFTA_SET_ELEM_LIST_SET, NFTA_SET_ELEM_LIST_ELEMENTS
_LIST_ELEM = 1  # NFTA_LIST_ELEM
_KEY, _DATA, _ELEMENT_FLAGS, _USERDATA = 1, 2, 3, 6  # NFTA_SET_ELEM_*
_VALUE = 1  # NFTA_DATA_VALUE
_INTERVAL_END = u32_attribute(_ELEMENT_FLAGS, 1)  # NFT_SET_ELEM_INTERVAL_END
# User data of an element without an end, as nft writes it (NFTNL_UDATA_SET_ELEM_FLAGS: SET_ELEM_F_INTERVAL_OPEN).
_INTERVAL_OPEN = attribute(_USERDATA, struct.pack("=BBI", 1, 4, 1))
_PROTOCOLS = {name: protocol_number(name) for name in ("tcp", "udp", "sctp")}
"""Those that have ports."""
_PORT_BYTES = 2
_KEPT_ADDRESSES = 4096  # a megabyte; a Pod's address is in some ten sets, one after the other
_KEPT_NAMES = 64
"""Encoded names of sets and chains: those of a change are used several times in it, and seldom in later ones."""
_LIST_BYTES = 60_000  # of the 65,531 that an attribute can hold; the largest element has 352


class ElementRequest(msgspec.Struct, frozen=True):
    """One message of a batch: adds `elements` to the set or map `set`, or deletes them."""

    verb: Literal["add", "delete"]
    set: str
    elements: tuple[Element | MapElement, ...]
    family: int = NFPROTO_INET
    is_map: bool = False

    def describe(self) -> str:
        """Return the command in nft syntax; of several elements only their number."""
        what = self._text(self.elements[0]) if len(self.elements) == 1 else f"{len(self.elements)} elements"
        return f"{self.verb} element {table_of(self.family)} {self.set} {{ {what} }}"

    def part_at(self, offset: int | None) -> str:
        """Return the table, set, map or element whose attribute is at an offset into the message; '' if there is none.

        Without an offset (None), only a single element is known.
        """
        element = self.element_at(offset)
        if element is not None:
            return self._text(element)
        if offset is None or not HEADERS_SIZE <= offset < HEADERS_SIZE + len(_names(self.set)):
            return ""
        in_set = offset >= HEADERS_SIZE + len(IN_TABLE)
        return f"{self.kind} {self.set}" if in_set else f"table {table_of(self.family)}"

    def _text(self, element: Element | MapElement) -> str:
        match element:
            case (str(address), str(chain)) if self.is_map:
                return map_element_text(address, chain)
        return element_text(element)

    @property
    def kind(self) -> str:
        """Return 'set' or 'map'."""
        return "map" if self.is_map else "set"

    def element_at(self, offset: int | None) -> Element | MapElement | None:
        """Return the element whose attribute is at an offset into the message; the end of an interval included.

        None for the offset of another attribute. Without an offset (None), only a single element is known.
        """
        if offset is None:
            return self.elements[0] if len(self.elements) == 1 else None
        end = HEADERS_SIZE + len(_names(self.set)) + 4
        if offset < end:
            return None
        for element, encoded in zip(self.elements, _encoded(self), strict=True):
            end += len(encoded)
            if offset < end:
                return element
        return None


def element_messages(command: ElementCommand, *, family: int) -> Iterator[NftMessage]:
    """Encode a command, in as few messages as hold its elements. They keep their order, except that ranges are sorted.

    An element is encoded by its Python type, since the set's kind isn't known: an interval set takes only Ranges or
    PortRanges. The kernel accepts an address that is already in the set, and refuses such an interval.
    Raises WireError for an element or a name that can't be encoded.
    """
    whole = _request(command, family)
    head = nfgen(family, 0) + _names(whole.set)
    for start, stop, written in _portions(_encoded(whole)):
        part = msgspec.structs.replace(whole, elements=whole.elements[start:stop])
        kind = DELSETELEM if part.verb == "delete" else NEWSETELEM
        yield NftMessage(kind, _flags(part), head + nested(_LIST_ELEMENTS, *written), part)


def _flags(request: ElementRequest) -> int:
    if request.verb == "delete":
        return 0
    # Start and end of an interval are two elements to the kernel. Without EXCL it would accept an end that already
    # exists, and so change the interval that this end belongs to.
    interval = isinstance(request.elements[0], Range | PortRange)
    return NLM_F_CREATE | (NLM_F_EXCL if interval else 0)


def _request(command: ElementCommand, family: int) -> ElementRequest:
    if isinstance(command, ChangeMapElements):
        return ElementRequest(command.verb, command.map, command.elements, family, is_map=True)
    # Some kernels take a start at the end of a message for one without an end: the interval up to a family's last
    # address must come last, and start and end of an interval must be in one message.
    return ElementRequest(command.verb, command.set, tuple(_ascending(command.elements)), family)


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


@lru_cache(maxsize=_KEPT_NAMES)
def _names(name: str) -> bytes:
    return IN_TABLE + name_attribute(_LIST_SET, "set or map", name)


def _encoded(request: ElementRequest) -> Iterator[bytes]:
    """Yield each element encoded: one attribute, or two for an interval with an end."""
    for element in request.elements:
        try:
            yield _element(request, element)
        except (ValueError, KeyError, OverflowError, struct.error):
            raise WireError(f"{element!r} of {request.set} can't be encoded as an element of a set or map") from None


def _element(request: ElementRequest, element: Element | MapElement) -> bytes:
    match element:
        case str():
            return single_element(_packed(element))
        case (str(address), str(chain)) if request.is_map:
            return _map_element(_packed(address), chain if request.verb == "add" else None)
        case Range(family, first, last):
            return interval_element(ADDRESS_BYTES[family], first, last)
        case PortRange(first, last):
            return interval_element(_PORT_BYTES, first, last)
        case int():
            return single_element(bytes((NFPROTO_IP[element],)))
    return single_element(_key_bytes(element))


def _key_bytes(element: object) -> bytes:
    match element:
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
    if not 0 < len(packed) < LINK_NAME_BYTES:
        raise ValueError(name)
    return packed.ljust(LINK_NAME_BYTES, b"\0")


@lru_cache(maxsize=_KEPT_ADDRESSES)
def _packed(address: str) -> bytes:
    if ":" in address:
        return IPv6Address(address).packed
    packed = bytes(map(int, address.split(".")))  # takes a quarter of the time of IPv4Address
    if len(packed) != ADDRESS_BYTES[4]:
        raise AddressValueError(address)
    return packed


def single_element(key: bytes) -> bytes:
    """Encode an element of a set of single keys: one NFTA_LIST_ELEM."""
    if len(key) % 4:
        return nested(_LIST_ELEM, nested(_KEY, attribute(_VALUE, key)))
    return _key_head(len(key)) + key


def interval_element(size: int, first: int, last: int) -> bytes:
    """Encode first as the start, and last + 1 as the end; none after the last value of `size` bytes."""
    start = first.to_bytes(size, "big")
    if last + 1 == 1 << 8 * size:
        return nested(_LIST_ELEM, nested(_KEY, attribute(_VALUE, start)), _INTERVAL_OPEN)
    end = (last + 1).to_bytes(size, "big")
    if size % 4:
        return single_element(start) + interval_end(end)
    return _key_head(size) + start + _end_head(size) + end


def _map_element(key: bytes, chain: str | None) -> bytes:
    if chain is None:
        return single_element(key)  # the kernel deletes by key alone
    head, tail = _around_map_key(len(key), chain)
    return head + key + tail


@lru_cache(maxsize=_KEPT_NAMES)
def _around_map_key(size: int, chain: str) -> tuple[bytes, bytes]:
    """Encode what is before and after the key of a map element: `size` bytes, a multiple of four."""
    tail = nested(_DATA, verdict_data(NFT_GOTO, chain))
    element = nested(_LIST_ELEM, nested(_KEY, attribute(_VALUE, bytes(size))), tail)
    return element[: -size - len(tail)], tail


@lru_cache
def _key_head(size: int) -> bytes:
    """Encode the attribute headers before a key of `size` bytes, a multiple of four."""
    return nested(_LIST_ELEM, nested(_KEY, attribute(_VALUE, bytes(size))))[:-size]


def interval_end(key: bytes) -> bytes:
    """Encode the end of an interval that starts elsewhere: one NFTA_LIST_ELEM."""
    return nested(_LIST_ELEM, _INTERVAL_END, nested(_KEY, attribute(_VALUE, key)))


@lru_cache
def _end_head(size: int) -> bytes:
    return interval_end(bytes(size))[:-size]
