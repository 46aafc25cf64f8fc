"""Requests for the counters of a table, and their replies: named ones, and those of the elements of a set.

Values are 64 bits in network order (linux/netfilter/nf_tables.h: NFTA_OBJ_*, NFTA_SET_ELEM_*, NFTA_COUNTER_*).
"""

from __future__ import annotations

import struct
from collections.abc import Iterator

from nfagent.errors import WireError
from nfagent.model.netaddr import text
from nfagent.netlink import codec
from nfagent.netlink.nft_messages import (
    IN_TABLE,
    NEWOBJ,
    NEWSETELEM,
    NFPROTO_INET,
    NFT_OBJECT_COUNTER,
    name_attribute,
    u32_attribute,
)

_GETSETELEM, _GETOBJ = 0x0A0D, 0x0A13  # NFNL_SUBSYS_NFTABLES, NFT_MSG_GETSETELEM, NFT_MSG_GETOBJ
_LIST_SET, _LIST_ELEMENTS = 2, 3  # NFTA_SET_ELEM_LIST_*
_KEY, _EXPR = 1, 7  # NFTA_SET_ELEM_*
_VALUE = 1  # NFTA_DATA_VALUE
_EXPR_DATA = 2  # NFTA_EXPR_DATA
_OBJECT_NAME, _OBJECT_TYPE, _OBJECT_DATA = 2, 3, 4  # NFTA_OBJ_*
_PACKETS = 2  # NFTA_COUNTER_PACKETS
_U64 = struct.Struct("!Q")
_FLAGS = codec.NLM_F_REQUEST | codec.NLM_F_DUMP


def encode_elements_request(name: str, sequence: int) -> bytes:
    """Encode the request for the elements of a set. Raises WireError for a name that the kernel can't hold."""
    of_set = name_attribute(_LIST_SET, "set", name)
    return codec.message(_GETSETELEM, _FLAGS, sequence, codec.nfgen(NFPROTO_INET, 0) + IN_TABLE + of_set)


def encode_counters_request(sequence: int) -> bytes:
    """Encode the request for the named counters of table inet nfagent."""
    kind = u32_attribute(_OBJECT_TYPE, NFT_OBJECT_COUNTER)
    return codec.message(_GETOBJ, _FLAGS, sequence, codec.nfgen(NFPROTO_INET, 0) + IN_TABLE + kind)


def decode_element_counts(message: codec.Message) -> Iterator[tuple[str, int]]:
    """Yield the canonical address and the packets of each element of a reply. Raises WireError."""
    found = _attributes(message, NEWSETELEM)
    for _, element in codec.attributes(found.get(_LIST_ELEMENTS, b"")):
        fields = dict(codec.attributes(element))
        counter = dict(codec.attributes(fields.get(_EXPR, b""))).get(_EXPR_DATA, b"")
        yield _address(dict(codec.attributes(fields.get(_KEY, b""))).get(_VALUE, b"")), _packets(counter)


def decode_counter(message: codec.Message) -> tuple[str, int]:
    """Return the name and the packets of a named counter. Raises WireError."""
    found = _attributes(message, NEWOBJ)
    name = found.get(_OBJECT_NAME, b"").rstrip(b"\0").decode(errors="backslashreplace")
    return name, _packets(found.get(_OBJECT_DATA, b""))


def _attributes(message: codec.Message, kind: int) -> dict[int, bytes]:
    if message.type != kind:
        raise WireError(f"nf_tables counters: unexpected message of type {message.type}")
    return dict(codec.attributes(message.payload, codec.NFGEN_SIZE))


def _packets(counter: bytes) -> int:
    value = dict(codec.attributes(counter)).get(_PACKETS, b"")
    if len(value) != _U64.size:
        raise WireError(f"nf_tables counters: a number of packets of {len(value)} bytes, not {_U64.size}")
    return int(_U64.unpack(value)[0])


def _address(value: bytes) -> str:
    if len(value) not in {4, 16}:
        raise WireError(f"nf_tables counters: an address of {len(value)} bytes")
    return text(4 if len(value) == 4 else 6, int.from_bytes(value, "big"))
