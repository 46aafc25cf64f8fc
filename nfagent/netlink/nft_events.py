"""What nf_tables tells of commits and tables, those of others too (linux/netfilter/nf_tables.h).

A commit gives one message for each thing that it changed, several in a datagram, and then NFT_MSG_NEWGEN in a datagram
of its own, which names the process that committed. What packets change by themselves (`update @set`), and elements
that time out, give none (tried on 6.18). The same message answers who asks for the generation.
"""

from __future__ import annotations

import struct

import msgspec

from nfagent.errors import WireError
from nfagent.netlink import codec
from nfagent.nftables.objects import TABLE

NFNLGRP_NFTABLES = 7
"""The multicast group, linux/netfilter/nfnetlink.h."""

_SUBSYSTEM = 10 << 8  # NFNL_SUBSYS_NFTABLES
_NEWTABLE, _GETTABLE, _NEWGEN, _GETGEN = (_SUBSYSTEM | number for number in (0, 1, 15, 16))  # NFT_MSG_*
_NLM_F_DUMP = 0x300  # linux/netlink.h
_TABLE_NAME = 1  # NFTA_TABLE_NAME, and as the first attribute of chains, rules, sets, elements, objects: their table's
_MARK = codec.attribute(_TABLE_NAME, TABLE.encode() + b"\0")
_NFTA_TABLE_FLAGS = 2
_NFTA_TABLE_USE = 3
TABLE_OWNER = 2
"""NFT_TABLE_F_OWNER: only the socket that made the table may change it."""
TABLE_PERSIST = 4
"""NFT_TABLE_F_PERSIST: the table outlives the socket that owned it. No command takes it away again."""
NFPROTO_INET = 1
_NFTA_GEN_ID = 1
_NFTA_GEN_PROC_PID = 2
_NFTA_GEN_PROC_NAME = 3
_NUMBER = struct.Struct("!I")


class CommitOrigin(msgspec.Struct, frozen=True):
    """Who committed a transaction.

    process: a thread's id in the first PID namespace, 0 where it isn't told
    name:    the thread's name, 15 bytes at most
    """

    process: int = 0
    name: str = ""

    def __str__(self) -> str:
        """Name it for people: 'nft (process 4711)'."""
        return f"{self.name or 'somebody'} (process {self.process})" if self.process else self.name


def names_table(datagram: bytes) -> bool:
    """Tell whether a datagram names a table `nfagent`, of whatever family.

    Somebody's ten thousand elements come as hundreds of datagrams: they are searched, not decoded. Where the same
    bytes stand for something else, the answer is yes too.
    """
    return _MARK in datagram


def decode_committer(datagram: bytes) -> CommitOrigin | None:
    """Give who committed, from the datagram that ends a transaction's; None for any other. Raises WireError."""
    first = next(codec.messages(datagram), None)
    return None if first is None or first.type != _NEWGEN else _committer(first.payload)


def encode_generation_request(sequence: int) -> bytes:
    """Write the question for the generation: how many transactions were committed in a network namespace."""
    return codec.message(_GETGEN, codec.NLM_F_REQUEST, sequence, codec.nfgen(0, 0))


def decode_generation(datagram: bytes) -> int:
    """Give the generation from the answer; it counts up to 2**32 - 1, then from 1. Raises WireError."""
    first = next(codec.messages(datagram), None)
    if first is None or first.type != _NEWGEN:
        raise WireError("nf_tables generation: the answer is something else")
    found = dict(codec.attributes(first.payload, codec.NFGEN_SIZE))
    if _NFTA_GEN_ID not in found:
        raise WireError("nf_tables generation: the answer has no number")
    return _number(found[_NFTA_GEN_ID], "generation")


def encode_tables_request(sequence: int) -> bytes:
    """Write the question for all tables of all families."""
    return codec.message(_GETTABLE, codec.NLM_F_REQUEST | _NLM_F_DUMP, sequence, codec.nfgen(0, 0))


def decode_table_size(message: codec.Message) -> tuple[str, int]:
    """Give a table's name, and how many chains, sets, maps and named objects it has. Raises WireError."""
    if message.type != _NEWTABLE:
        raise WireError(f"nf_tables table: a message of type {message.type} is none")
    found = dict(codec.attributes(message.payload, codec.NFGEN_SIZE))
    name = found.get(_TABLE_NAME, b"").rstrip(b"\0").decode(errors="backslashreplace")
    return name, _number(found.get(_NFTA_TABLE_USE, bytes(_NUMBER.size)), "table's size")


def decode_table_flags(message: codec.Message) -> tuple[int, str, int]:
    """Give a table's family (NFPROTO_*), name and flags (TABLE_*). Raises WireError."""
    name, _ = decode_table_size(message)
    found = dict(codec.attributes(message.payload, codec.NFGEN_SIZE))
    flags = _number(found.get(_NFTA_TABLE_FLAGS, bytes(_NUMBER.size)), "table's flags")
    return message.payload[0], name, flags


def _committer(payload: bytes) -> CommitOrigin:
    found = dict(codec.attributes(payload, codec.NFGEN_SIZE))
    process = _number(found.get(_NFTA_GEN_PROC_PID, bytes(_NUMBER.size)), "process id")
    name = found.get(_NFTA_GEN_PROC_NAME, b"").rstrip(b"\0")
    return CommitOrigin(process, name.decode(errors="backslashreplace"))


def _number(value: bytes, what: str) -> int:
    if len(value) != _NUMBER.size:
        raise WireError(f"nf_tables: a {what} of {len(value)} bytes, not {_NUMBER.size}")
    return int(_NUMBER.unpack(value)[0])
