"""Decodes nf_tables notifications of commits, generations and tables (linux/netfilter/nf_tables.h).

A commit sends one message for each object that it changed, several in a datagram, and then NFT_MSG_NEWGEN in a datagram
of its own, which names the process that committed. Set updates by packets (`update @set`) and element timeouts send
none (tried on 6.18). NFT_MSG_NEWGEN is also the reply to a request for the generation.
"""

from __future__ import annotations

import struct

import msgspec

from nfagent.errors import WireError
from nfagent.netlink import codec
from nfagent.netlink.nft_messages import (
    GETCHAIN,
    GETGEN,
    GETTABLE,
    IN_TABLE,
    NEWCHAIN,
    NEWGEN,
    NEWTABLE,
    TABLE_ATTRIBUTE,
)

NFNLGRP_NFTABLES = 7
"""The multicast group of nf_tables notifications, linux/netfilter/nfnetlink.h."""

_NFTA_TABLE_FLAGS = 2
_NFTA_TABLE_USE = 3
_NFTA_TABLE_HANDLE = 4
_NFTA_CHAIN_NAME = 3
TABLE_DORMANT = 1
"""NFT_TABLE_F_DORMANT: the table's chains see no packets."""
TABLE_OWNER = 2
"""NFT_TABLE_F_OWNER: only the socket that made the table may change it."""
TABLE_PERSIST = 4
"""NFT_TABLE_F_PERSIST: the table outlives the socket that owned it. No command clears the flag."""
_NFTA_GEN_ID = 1
_NFTA_GEN_PROC_PID = 2
_NFTA_GEN_PROC_NAME = 3
_NUMBER = struct.Struct("!I")


class TableInfo(msgspec.Struct, frozen=True):
    """A table without its contents.

    family: NFPROTO_*
    flags:  TABLE_*
    size:   number of its chains, sets, maps and named objects
    handle: a table that is made anew has another
    """

    family: int
    name: str
    flags: int
    size: int
    handle: int


class ChainName(msgspec.Struct, frozen=True):
    """Where a chain is; family: NFPROTO_*."""

    family: int
    table: str
    name: str


class CommitOrigin(msgspec.Struct, frozen=True):
    """The process that committed a transaction.

    process:  thread id in the initial PID namespace, 0 if unknown
    name:     name of the thread, at most 15 bytes
    families: NFPROTO_* of the tables `nfagent` that it was about; None: unknown, as where notifications were lost
    """

    process: int = 0
    name: str = ""
    families: frozenset[int] | None = None

    def concerns(self, family: int) -> bool:
        """Return whether the commit may have changed the table `nfagent` of a family."""
        return self.families is None or family in self.families

    def __str__(self) -> str:
        """Return it as text: 'nft (process 4711)'."""
        return f"{self.name or 'unknown'} (process {self.process})" if self.process else self.name


def named_families(datagram: bytes) -> frozenset[int]:
    """Return the families of the tables `nfagent` that a datagram is about. Raises WireError.

    Another program's ten thousand elements come as hundreds of datagrams: the bytes are searched, and decoded where
    they have the name. The same bytes with another meaning give a false positive.
    """
    if IN_TABLE not in datagram:
        return frozenset()
    return frozenset(each.payload[0] for each in codec.messages(datagram) if IN_TABLE in each.payload)


def decode_commit_origin(datagram: bytes) -> CommitOrigin | None:
    """Decode the process that committed, from an NFT_MSG_NEWGEN; None for any other message. Raises WireError."""
    first = next(codec.messages(datagram), None)
    return None if first is None or first.type != NEWGEN else _commit_origin(first.payload)


def encode_generation_request(sequence: int) -> bytes:
    """Encode the request for the generation: the number of commits in a network namespace."""
    return codec.message(GETGEN, codec.NLM_F_REQUEST, sequence, codec.nfgen(0, 0))


def decode_generation(datagram: bytes) -> int:
    """Decode the generation, which wraps from 2**32 - 1 to 1. Raises WireError."""
    first = next(codec.messages(datagram), None)
    if first is None or first.type != NEWGEN:
        raise WireError("nf_tables generation: the reply is not NFT_MSG_NEWGEN")
    found = dict(codec.attributes(first.payload, codec.NFGEN_SIZE))
    if _NFTA_GEN_ID not in found:
        raise WireError("nf_tables generation: the reply has no NFTA_GEN_ID")
    return _number(found[_NFTA_GEN_ID], "generation")


def encode_tables_request(sequence: int) -> bytes:
    """Encode the request for all tables of all families."""
    return codec.message(GETTABLE, codec.NLM_F_REQUEST | codec.NLM_F_DUMP, sequence, codec.nfgen(0, 0))


def decode_table(message: codec.Message) -> TableInfo:
    """Decode a table. Raises WireError."""
    found = _attributes_of(message, NEWTABLE, "table")
    return TableInfo(
        family=message.payload[0],
        name=_text(found, TABLE_ATTRIBUTE),
        flags=_number(found.get(_NFTA_TABLE_FLAGS, bytes(_NUMBER.size)), "table's flags"),
        size=_number(found.get(_NFTA_TABLE_USE, bytes(_NUMBER.size)), "table's size"),
        handle=int.from_bytes(found.get(_NFTA_TABLE_HANDLE, b""), "big"),
    )


def encode_chains_request(sequence: int) -> bytes:
    """Encode the request for all chains of all tables."""
    return codec.message(GETCHAIN, codec.NLM_F_REQUEST | codec.NLM_F_DUMP, sequence, codec.nfgen(0, 0))


def decode_chain_name(message: codec.Message) -> ChainName:
    """Decode where a chain is. Raises WireError."""
    found = _attributes_of(message, NEWCHAIN, "chain")
    return ChainName(message.payload[0], _text(found, TABLE_ATTRIBUTE), _text(found, _NFTA_CHAIN_NAME))


def _attributes_of(message: codec.Message, wanted: int, what: str) -> dict[int, bytes]:
    """Return the attributes of an object that was listed; its family is the payload's first byte. Raises WireError."""
    if message.type != wanted:
        raise WireError(f"nf_tables {what}: unexpected message of type {message.type}")
    if len(message.payload) < codec.NFGEN_SIZE:
        raise WireError(f"nf_tables {what}: the message ends inside its header")
    return dict(codec.attributes(message.payload, codec.NFGEN_SIZE))


def _text(found: dict[int, bytes], attribute: int) -> str:
    return found.get(attribute, b"").rstrip(b"\0").decode(errors="backslashreplace")


def _commit_origin(payload: bytes) -> CommitOrigin:
    found = dict(codec.attributes(payload, codec.NFGEN_SIZE))
    process = _number(found.get(_NFTA_GEN_PROC_PID, bytes(_NUMBER.size)), "process id")
    return CommitOrigin(process, _text(found, _NFTA_GEN_PROC_NAME))


def _number(value: bytes, what: str) -> int:
    if len(value) != _NUMBER.size:
        raise WireError(f"nf_tables: a {what} of {len(value)} bytes, not {_NUMBER.size}")
    return int(_NUMBER.unpack(value)[0])
