"""Requests and decodes counters: named ones (NFT_MSG_GETOBJ), and those of a set's elements (NFT_MSG_GETSETELEM).

The numbers are of linux/netfilter/nf_tables.h. Counters of a table are some thousands; a message has several elements.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator

from nfagent.errors import WireError
from nfagent.netlink.codec import (
    NFGEN_SIZE,
    NLM_F_DUMP,
    NLM_F_REQUEST,
    Message,
    attribute,
    attributes,
    message,
    nested,
    nfgen,
)
from nfagent.netlink.nft_messages import (
    IN_TABLE,
    NEWOBJ,
    NEWSETELEM,
    NFPROTO_INET,
    NFT_OBJECT_COUNTER,
    name_attribute,
    u32_attribute,
)

_GETSETELEM, _GETOBJ = NEWSETELEM + 1, NEWOBJ + 1  # NFT_MSG_*
_OBJ_NAME, _OBJ_TYPE, _OBJ_DATA, _OBJ_HANDLE = 2, 3, 4, 6  # NFTA_OBJ_*
_LIST_SET, _LIST_ELEMENTS = 2, 3  # NFTA_SET_ELEM_LIST_*
_LIST_ELEMENT = 1  # NFTA_LIST_ELEM
_ELEM_KEY, _ELEM_EXPR, _ELEM_EXPRESSIONS = 1, 7, 11  # NFTA_SET_ELEM_*
_DATA_VALUE = 1  # NFTA_DATA_VALUE
_EXPR_NAME, _EXPR_DATA = 1, 2  # NFTA_EXPR_*
_COUNTER_BYTES, _COUNTER_PACKETS = 1, 2  # NFTA_COUNTER_*
_U64 = struct.Struct("!Q")


def encode_named_counters_request(sequence: int) -> bytes:
    """Encode the request for all named counters of table inet nfagent."""
    body = nfgen(NFPROTO_INET, 0) + IN_TABLE + u32_attribute(_OBJ_TYPE, NFT_OBJECT_COUNTER)
    return message(_GETOBJ, NLM_F_REQUEST | NLM_F_DUMP, sequence, body)


def encode_element_counters_request(name: str, sequence: int) -> bytes:
    """Encode the request for all elements of a set of table inet nfagent. Raises WireError for no set's name."""
    body = nfgen(NFPROTO_INET, 0) + IN_TABLE + name_attribute(_LIST_SET, "set", name)
    return message(_GETSETELEM, NLM_F_REQUEST | NLM_F_DUMP, sequence, body)


def encode_element_counter_request(name: str, key: bytes, sequence: int) -> bytes:
    """Encode the request for one element of a set of table inet nfagent, by its key. Raises WireError for no name."""
    element = nested(_LIST_ELEMENT, nested(_ELEM_KEY, attribute(_DATA_VALUE, key)))
    body = nfgen(NFPROTO_INET, 0) + IN_TABLE + name_attribute(_LIST_SET, "set", name)
    return message(_GETSETELEM, NLM_F_REQUEST, sequence, body + nested(_LIST_ELEMENTS, element))


def decode_named_counter(reply: Message) -> tuple[str, int, int]:
    """Return name, packets and handle of the counter in one message of the reply.

    A counter that is made anew has another handle. Raises WireError for any other message.
    """
    name, found = _named_object(reply)
    return name, _packets(found[_OBJ_DATA]), int.from_bytes(found.get(_OBJ_HANDLE, b""), "big")


def decode_named_value(reply: Message) -> tuple[str, int, int]:
    """Return name, packets and bytes of the counter in one message of the reply. Raises WireError for any other."""
    name, found = _named_object(reply)
    return name, _packets(found[_OBJ_DATA]), _number(found[_OBJ_DATA], _COUNTER_BYTES, "bytes")


def decode_element_counters(reply: Message) -> Iterator[tuple[bytes, int]]:
    """Yield key and packets of each element in one message of the reply; those without a counter are left out.

    Raises WireError for any other message.
    """
    if reply.type != NEWSETELEM:
        raise WireError(f"netlink message of type {reply.type} has no elements")
    for kind, listed in attributes(reply.payload, NFGEN_SIZE):
        if kind == _LIST_ELEMENTS:
            for _, element in attributes(listed):
                yield from _counted(dict(attributes(element)))


def _counted(element: dict[int, bytes]) -> Iterator[tuple[bytes, int]]:
    key = dict(attributes(element.get(_ELEM_KEY, b""))).get(_DATA_VALUE)
    several = attributes(element.get(_ELEM_EXPRESSIONS, b""))
    for expression in (element.get(_ELEM_EXPR, b""), *(one for _, one in several)):
        found = dict(attributes(expression))
        if key is not None and found.get(_EXPR_NAME, b"").rstrip(b"\0") == b"counter":
            yield key, _packets(found.get(_EXPR_DATA, b""))
            return


def _named_object(reply: Message) -> tuple[str, dict[int, bytes]]:
    """Return the name and the attributes of a named object, which has a value."""
    if reply.type != NEWOBJ:
        raise WireError(f"netlink message of type {reply.type} is no named object")
    found = dict(attributes(reply.payload, NFGEN_SIZE))
    name = found.get(_OBJ_NAME, b"").rstrip(b"\0").decode("utf-8", "replace")
    if not name or _OBJ_DATA not in found:
        raise WireError("a named counter without a name or a value")
    return name, found


def _packets(counter: bytes) -> int:
    return _number(counter, _COUNTER_PACKETS, "packets")


def _number(counter: bytes, kind: int, word: str) -> int:
    value = dict(attributes(counter)).get(kind, b"")
    if len(value) != _U64.size:
        raise WireError(f"a counter without {word}")
    (found,) = _U64.unpack(value)
    return int(found)
