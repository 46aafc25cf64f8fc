"""What the kernel tells the group NFNLGRP_NFTABLES about committed transactions (linux/netfilter/nf_tables.h).

A commit gives one message for each thing that it changed, several in a datagram, and then NFT_MSG_NEWGEN in a datagram
of its own, which names the process that committed. What packets change by themselves (`update @set`), and elements
that time out, give none (tried on 6.18).
"""

from __future__ import annotations

import struct

import msgspec

from nfagent.errors import WireError
from nfagent.ruleset.objects import TABLE
from nfagent.wire import netlink

NFNLGRP_NFTABLES = 7
"""The multicast group, linux/netfilter/nfnetlink.h."""

_NEWGEN = 10 << 8 | 15  # NFNL_SUBSYS_NFTABLES, NFT_MSG_NEWGEN
_TABLE_NAME = 1  # NFTA_TABLE_NAME, and as the first attribute of chains, rules, sets, elements, objects: their table's
_MARK = netlink.attribute(_TABLE_NAME, TABLE.encode() + b"\0")
_NFTA_GEN_PROC_PID = 2
_NFTA_GEN_PROC_NAME = 3
_PROCESS = struct.Struct("!I")


class Committer(msgspec.Struct, frozen=True):
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


def decode_committer(datagram: bytes) -> Committer | None:
    """Give who committed, from the datagram that ends a transaction's; None for any other. Raises WireError."""
    first = next(netlink.messages(datagram), None)
    return None if first is None or first.type != _NEWGEN else _committer(first.payload)


def _committer(payload: bytes) -> Committer:
    found = dict(netlink.attributes(payload, netlink.NFGEN_SIZE))
    process = found.get(_NFTA_GEN_PROC_PID, bytes(_PROCESS.size))
    if len(process) != _PROCESS.size:
        raise WireError(f"nf_tables generation: a process id of {len(process)} bytes, not {_PROCESS.size}")
    name = found.get(_NFTA_GEN_PROC_NAME, b"").rstrip(b"\0")
    return Committer(_PROCESS.unpack(process)[0], name.decode(errors="backslashreplace"))
