"""A table that belongs to a netlink socket (`flags owner`): no other program may change it while that is open."""

from __future__ import annotations

import socket
import struct
from collections.abc import Iterator
from contextlib import contextmanager

from nfagent.netlink import codec
from nfagent.netlink.nft_messages import NFPROTO_INET

_BEGIN, _END = 0x10, 0x11  # NFNL_MSG_BATCH_*, linux/netfilter/nfnetlink.h
_NEWTABLE, _DELTABLE = 0x0A00, 0x0A02
_NAME, _FLAGS = 1, 2  # NFTA_TABLE_*
DORMANT, _OWNER, PERSIST = 1, 2, 4  # NFT_TABLE_F_*
_CREATE = 0x400


@contextmanager
def owned_table(name: str, *, replaces: bool = False, flags: int = 0, family: int = NFPROTO_INET) -> Iterator[None]:
    """Create the table and own it; `replaces`: in place of an existing one.

    The kernel deletes it with the socket; with the flag `persist` it stays, without an owner.
    """
    table = codec.attribute(_NAME, name.encode() + b"\0")
    flagged = codec.attribute(_FLAGS, struct.pack("!I", _OWNER | flags))
    requests = [(_NEWTABLE, codec.NLM_F_ACK | _CREATE, codec.nfgen(family, 0) + table + flagged)]
    if replaces:
        requests.insert(0, (_DELTABLE, codec.NLM_F_ACK, codec.nfgen(family, 0) + table))
    frame = [(_BEGIN, 0, codec.nfgen(0, 10)), *requests, (_END, 0, codec.nfgen(0, 10))]
    batch = b"".join(
        codec.message(kind, codec.NLM_F_REQUEST | more, number, payload)
        for number, (kind, more, payload) in enumerate(frame)
    )
    with socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, codec.NETLINK_NETFILTER) as owner:
        owner.bind((0, 0))
        owner.settimeout(10)
        owner.send(batch)
        for _ in requests:
            for answer in codec.messages(owner.recv(65536)):
                assert codec.ack_errno(answer) == 0
        yield
