"""Encodes sets and verdict maps, without elements, with what nft 1.0.6 keeps about them in their user data.

User data are attributes of one byte for the type and one for the length (libnftnl); the kernel only keeps them. nft's
numbers of data types are its own. A key of several fields has each from a multiple of four bytes on, and the type of
field n is in bits of the key's type: six a field, the last field lowest.
"""

from __future__ import annotations

import struct

import msgspec

from nfagent.errors import WireError
from nfagent.netlink.codec import attribute, nested, nfgen
from nfagent.netlink.nft_messages import (
    ADDRESS_BYTES,
    HEADERS_SIZE,
    IN_TABLE,
    LINK_NAME_BYTES,
    NEWSET,
    NLM_F_CREATE,
    NftMessage,
    name_attribute,
    table_of,
    u32_attribute,
)
from nfagent.nftables.names import COMMENT_BYTES
from nfagent.nftables.objects import FLOW_SECONDS, NamedSet, SetKind, VerdictMap
from nfagent.nftables.transaction import AddMap, AddSet

HOST_ORDER, BIG_ENDIAN = 1, 2
"""nft's numbers of byte orders; 0 for a key of several fields."""
SET_INTERVAL, SET_MAP, SET_TIMEOUT, SET_EVAL = 4, 8, 16, 32
"""Some of NFT_SET_*."""
TYPE_FAMILY, TYPE_IPV4, TYPE_IPV6, TYPE_PROTOCOL, TYPE_PORT, TYPE_LINK = 2, 7, 8, 12, 13, 41
"""Some of nft's numbers of data types."""
_NAME, _FLAGS, _KEY_TYPE, _KEY_LEN, _DATA_TYPE, _DATA_LEN = 2, 3, 4, 5, 6, 7  # NFTA_SET_*
_DESC, _ID, _TIMEOUT, _USERDATA = 9, 10, 11, 13  # NFTA_SET_*
_EXPR = 17  # NFTA_SET_EXPR: of each element
_EXPR_NAME, _EXPR_DATA = 1, 2  # NFTA_EXPR_*
_DESC_SIZE = 1  # NFTA_SET_DESC_SIZE
_VERDICT_TYPE, _VERDICT_LEN = 0xFFFF_FF00, 16  # NFT_DATA_VERDICT, and the size of a register
_TYPE_BITS = 6
_BYTE_ORDER, _DATA_BYTE_ORDER, _TYPE_OF, _DATA_INTERVAL, _COMMENT = 0, 1, 3, 6, 7  # of a set's user data
_CONCATENATION = 13  # nft's number of the expression
_SIZES = {
    TYPE_FAMILY: 1,
    TYPE_IPV4: ADDRESS_BYTES[4],
    TYPE_IPV6: ADDRESS_BYTES[6],
    TYPE_PROTOCOL: 1,
    TYPE_PORT: 2,
    TYPE_LINK: LINK_NAME_BYTES,
}
_ORDERS = {TYPE_FAMILY: 0, TYPE_LINK: HOST_ORDER}
ADDRESS_TYPES = {4: TYPE_IPV4, 6: TYPE_IPV6}
_FLAGS_OF: dict[SetKind, int] = {"range": SET_INTERVAL, "ports": SET_INTERVAL, "flow": SET_TIMEOUT | SET_EVAL}
_SERVICE = TYPE_PROTOCOL, TYPE_PORT
_KEYS: dict[SetKind, tuple[int | None, ...]] = {
    "address": (None,),
    "counted": (None,),
    "range": (None,),
    "port": (None, *_SERVICE),
    "pair": (None, None),
    "flow": (None, *_SERVICE, None, TYPE_PORT),
    "service": _SERVICE,
    "ports": (TYPE_PORT,),
    "family": (TYPE_FAMILY,),
    "link": (TYPE_LINK,),
}
"""Data types of the fields of a key; None for an address of the set's family."""


class SetRequest(msgspec.Struct, frozen=True):
    """The message that adds a set or a verdict map."""

    command: AddSet | AddMap
    family: int

    @property
    def kind(self) -> str:
        """Return 'set' or 'map'."""
        return "set" if isinstance(self.command, AddSet) else "map"

    def describe(self) -> str:
        """Return the command in nft syntax."""
        return self.command.text(table_of(self.family))

    def part_at(self, offset: int | None) -> str:
        """Return the table, or the set or map, whose attribute is at an offset into the message."""
        if offset is None or offset < HEADERS_SIZE:
            return ""
        in_table = offset < HEADERS_SIZE + len(IN_TABLE)
        return f"table {table_of(self.family)}" if in_table else f"{self.kind} {self.command.name}"


def set_message(name: str, shape: NamedSet, *, family: int, set_id: int) -> NftMessage:
    """Encode a set without its elements. `set_id`: its number in the batch, NFTA_SET_ID.

    Raises WireError for a name, a comment or a size that the kernel can't hold.
    """
    try:
        key = _key_types(shape)
        flags = _FLAGS_OF.get(shape.kind, 0)
        about = _about_key(key) + (comment_userdata(_COMMENT, shape.comment) if shape.comment else b"")
        size, timeout = (shape.size, FLOW_SECONDS) if shape.kind == "flow" else (0, 0)
        declared = attributes_of_set(flags, _key_type(key), _key_size(key), about, size=size, timeout=timeout)
        if shape.kind == "counted":
            declared += nested(_EXPR, attribute(_EXPR_NAME, b"counter\0"), nested(_EXPR_DATA))
        return _message(SetRequest(AddSet(name, shape), family), declared, set_id)
    except (ValueError, KeyError, TypeError, OverflowError, struct.error) as error:
        raise WireError(f"set {name} can't be encoded: {error}") from None


def map_message(name: str, shape: VerdictMap, *, family: int, set_id: int) -> NftMessage:
    """Encode a verdict map without its elements. `set_id` and errors as of set_message."""
    try:
        key = ADDRESS_TYPES[shape.family]
        about = _about_key((key,)) + userdata_number(_DATA_BYTE_ORDER, 0) + userdata_number(_DATA_INTERVAL, 0)
        declared = attributes_of_set(SET_MAP, key, _SIZES[key], about)
        verdicts = u32_attribute(_DATA_TYPE, _VERDICT_TYPE) + u32_attribute(_DATA_LEN, _VERDICT_LEN)
        return _message(SetRequest(AddMap(name, shape), family), declared + verdicts, set_id)
    except (ValueError, KeyError, TypeError, OverflowError, struct.error) as error:
        raise WireError(f"map {name} can't be encoded: {error}") from None


def attributes_of_set(
    flags: int, key_type: int, key_size: int, about: bytes, *, size: int = 0, timeout: int = 0
) -> bytes:
    """Encode the attributes of a set after its name.

    about:   user data
    size:    maximum number of elements; 0: as many as memory holds
    timeout: of each element, in seconds; 0: none
    """
    limit = nested(_DESC, u32_attribute(_DESC_SIZE, size)) if size else b""
    duration = attribute(_TIMEOUT, struct.pack("!Q", timeout * 1000)) if timeout else b""
    key = u32_attribute(_FLAGS, flags) + u32_attribute(_KEY_TYPE, key_type) + u32_attribute(_KEY_LEN, key_size)
    return key + limit + duration + attribute(_USERDATA, about)


def userdata(kind: int, value: bytes) -> bytes:
    """Encode one attribute of user data. Raises ValueError for more than 255 bytes."""
    return bytes((kind, len(value))) + value


def userdata_number(kind: int, value: int) -> bytes:
    """Encode one attribute of user data: a number of 32 bits in host byte order."""
    return userdata(kind, struct.pack("=I", value))


def comment_userdata(kind: int, comment: str) -> bytes:
    """Encode a comment as user data. Raises ValueError for one that nft can't read back."""
    encoded = comment.encode()
    if len(encoded) > COMMENT_BYTES or 0 in encoded:
        raise ValueError(f"the comment {comment!r} has more than {COMMENT_BYTES} bytes, or a byte 0")
    return userdata(kind, encoded + b"\0")


def _message(request: SetRequest, declared: bytes, set_id: int) -> NftMessage:
    named = name_attribute(_NAME, request.kind, request.command.name) + u32_attribute(_ID, set_id)
    return NftMessage(NEWSET, NLM_F_CREATE, nfgen(request.family, 0) + IN_TABLE + named + declared, request)


def _key_types(shape: NamedSet) -> tuple[int, ...]:
    """Return nft's data types of the fields of a set's key."""
    address = ADDRESS_TYPES[shape.family]
    return tuple(address if field is None else field for field in _KEYS[shape.kind])


def _key_type(key: tuple[int, ...]) -> int:
    number = 0
    for field in key:
        number = number << _TYPE_BITS | field
    return number


def _key_size(key: tuple[int, ...]) -> int:
    return _SIZES[key[0]] if len(key) == 1 else sum(_SIZES[field] + 3 & ~3 for field in key)


def _about_key(key: tuple[int, ...]) -> bytes:
    if len(key) == 1:
        return userdata_number(_BYTE_ORDER, _ORDERS.get(key[0], BIG_ENDIAN))
    # Of which expressions, an empty attribute doesn't say.
    type_of = userdata_number(0, _CONCATENATION) + userdata(1, b"")
    return userdata_number(_BYTE_ORDER, 0) + userdata(_TYPE_OF, type_of)
