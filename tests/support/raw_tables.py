"""What the kernel has of table nfagent: its own netlink dumps, attribute by attribute, without libnftables.

Handles, positions and counter values are left out. An anonymous set stands where a rule names it, since the kernel
numbers such sets by what is free. Left out too is what a named set of intervals has of its first address, where none
begins there: nft adds the end of what is below the first interval to a set that is empty, and our bytes don't, since
look-ups and listings are the same; the kernel's count of elements includes it.

Numbers are those of linux/netfilter/nf_tables.h.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from typing import TypeAlias

from nfagent.errors import KernelError
from nfagent.kernel.sockets import netlink_socket
from nfagent.netlink import codec
from nfagent.netlink.nft_messages import GETRULE, NFNL_SUBSYS_NFTABLES
from nfagent.nftables.objects import TABLE

Attributes: TypeAlias = tuple[tuple[int, str], ...]
"""Types and values, in hexadecimal, of attributes."""
RawTable: TypeAlias = dict[str, object]
"""Objects by kind and name; rules by chain and number."""

_SUBSYSTEM = NFNL_SUBSYS_NFTABLES << 8
_GETTABLE, _GETCHAIN, _GETSET, _GETSETELEM, _GETOBJ = (_SUBSYSTEM | kind for kind in (1, 4, 10, 13, 19))
_NLM_F_DUMP = 0x300
_TABLE_HANDLE = 4
_CHAIN_HANDLE, _CHAIN_NAME, _CHAIN_COUNTERS = 2, 3, 8
_RULE_CHAIN, _RULE_HANDLE, _RULE_EXPRESSIONS, _RULE_POSITION = 2, 3, 4, 6
_EXPRESSION_NAME, _EXPRESSION_CONTENT = 1, 2
_LOOKUP_SET = 1
_SET_NAME, _SET_FLAGS, _SET_HANDLE, _SET_COUNT = 2, 3, 16, 20
_SET_ANONYMOUS, _SET_INTERVAL = 1, 4
_ELEMENTS_SET, _ELEMENTS = 2, 3
_ELEMENT_KEY, _ELEMENT_FLAGS, _ELEMENT_EXPIRATION = 1, 3, 5
_INTERVAL_END = b"\0\0\0\1"
_OBJECT_NAME, _OBJECT_VALUES, _OBJECT_HANDLE = 2, 4, 6
_DATAGRAM = 1 << 20


def raw_table(family: int) -> RawTable:
    """Return table nfagent of a family (NFPROTO_*) in this thread's network namespace; empty without it."""
    found: RawTable = {}
    for item in _dump(_GETTABLE, family):
        if _name(item[1]) == TABLE:
            found["table"] = _kept(item, _TABLE_HANDLE)
    for item in _dumped(_GETCHAIN, family):
        found[f"chain {_name(item[_CHAIN_NAME])}"] = _kept(item, _CHAIN_HANDLE, _CHAIN_COUNTERS)
    for item in _dumped(_GETOBJ, family):
        found[f"object {_name(item[_OBJECT_NAME])}"] = _kept(item, _OBJECT_HANDLE, _OBJECT_VALUES)
    anonymous: dict[bytes, object] = {}
    for item in _dumped(_GETSET, family):
        name = item[_SET_NAME]
        flags = int.from_bytes(item.get(_SET_FLAGS, b""), "big")
        elements = _dump(_GETSETELEM, family, codec.attribute(_ELEMENTS_SET, name))
        if flags & _SET_ANONYMOUS:
            anonymous[name] = (_kept(item, _SET_HANDLE, _SET_NAME), _elements(elements))
        elif flags & _SET_INTERVAL:
            found[f"set {_name(name)}"] = (_kept(item, _SET_HANDLE, _SET_COUNT), _elements(elements, intervals=True))
        else:
            found[f"set {_name(name)}"] = (_kept(item, _SET_HANDLE), _elements(elements))
    numbers: dict[str, int] = {}
    for item in _dumped(GETRULE, family):
        chain = _name(item[_RULE_CHAIN])
        numbers[chain] = numbers.get(chain, 0) + 1
        expressions = tuple(_expressions(item[_RULE_EXPRESSIONS], anonymous))
        found[f"rule {numbers[chain]} of {chain}"] = (
            _kept(item, _RULE_HANDLE, _RULE_POSITION, _RULE_EXPRESSIONS),
            expressions,
        )
    return found


def _expressions(content: bytes, anonymous: dict[bytes, object]) -> Iterator[object]:
    for _, expression in codec.attributes(content):
        parts = dict(codec.attributes(expression))
        values = dict(codec.attributes(parts.get(_EXPRESSION_CONTENT, b"")))
        name = _name(parts[_EXPRESSION_NAME])
        looked_up = anonymous.get(values.get(_LOOKUP_SET, b"")) if name == "lookup" else None
        yield name, _kept(values, _LOOKUP_SET) if looked_up else _kept(values), looked_up


def _elements(messages: Iterable[dict[int, bytes]], *, intervals: bool = False) -> tuple[Attributes, ...]:
    """Return the elements of a set in the order of their bytes: that of a dump depends on a random hash."""
    found = []
    for message in messages:
        for _, content in codec.attributes(message.get(_ELEMENTS, b"")):
            element = dict(codec.attributes(content))
            if not (intervals and _ends_at_first(element)):
                found.append(_kept(element, _ELEMENT_EXPIRATION))
    return tuple(sorted(found))


def _ends_at_first(element: dict[int, bytes]) -> bool:
    """Return whether it is the end of an interval, and the key has no bit: the first address."""
    ((_, key),) = codec.attributes(element[_ELEMENT_KEY])
    return element.get(_ELEMENT_FLAGS) == _INTERVAL_END and not any(key)


def _kept(item: dict[int, bytes], *omitted: int) -> Attributes:
    return tuple((kind, value.hex()) for kind, value in item.items() if kind not in omitted)


def _name(value: bytes) -> str:
    return value.rstrip(b"\0").decode()


def _dumped(kind: int, family: int) -> Iterable[dict[int, bytes]]:
    """Return the objects of a kind that are in the table."""
    return [item for item in _dump(kind, family) if _name(item[1]) == TABLE]


def _dump(kind: int, family: int, content: bytes = b"") -> Iterator[dict[int, bytes]]:
    table = codec.attribute(1, f"{TABLE}\0".encode()) if kind in {_GETSETELEM, GETRULE} else b""
    with netlink_socket(codec.NETLINK_NETFILTER, blocking=True) as opened:
        request = codec.nfgen(family, 0) + table + content
        opened.send(codec.message(kind, codec.NLM_F_REQUEST | _NLM_F_DUMP, 1, request))
        while True:
            for reply in codec.messages(opened.recv(_DATAGRAM)):
                if reply.type == codec.NLMSG_DONE:
                    return
                if reply.type == codec.NLMSG_ERROR:
                    raise KernelError(f"a dump of {kind & 0xFF} failed: {os.strerror(codec.ack_errno(reply))}")
                yield dict(codec.attributes(reply.payload, codec.NFGEN_SIZE))
