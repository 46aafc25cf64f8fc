"""Encodes a transaction as one nf_tables batch, which the kernel applies as a whole or not at all (nfnetlink.h)."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from itertools import count

import msgspec

from nfagent.netlink.codec import NLM_F_ACK, NLM_F_REQUEST, SEQUENCE_MASK, message, nfgen
from nfagent.netlink.nft_elements import element_messages
from nfagent.netlink.nft_messages import (
    NFNL_MSG_BATCH_BEGIN,
    NFNL_MSG_BATCH_END,
    NFNL_SUBSYS_NFTABLES,
    NFPROTO_INET,
    NftMessage,
    Request,
)
from nfagent.netlink.nft_objects import object_message
from nfagent.netlink.nft_rewrite import rewrite_messages
from nfagent.netlink.nft_rules import rule_messages
from nfagent.netlink.nft_sets import map_message, set_message
from nfagent.nftables.transaction import (
    AddMap,
    AddRule,
    AddSet,
    ChangeElements,
    ChangeMapElements,
    Command,
    RewriteChain,
)

_NO_HANDLES: Mapping[str, tuple[int, ...]] = {}


class Batch(msgspec.Struct, frozen=True):
    """Bytes for one sendmsg, and the request of each sequence number in them.

    data:      begin, messages, end; empty without a change
    first:     sequence number of the begin message: in the kernel's error if it refuses the whole batch
    requests:  sequence number -> request
    last:      sequence number of the only message with NLM_F_ACK; its acknowledgement comes last
    following: the next free sequence number
    """

    data: bytes
    first: int
    requests: dict[int, Request]
    last: int
    following: int


def encode_batch(
    transaction: Iterable[Command],
    first_sequence: int,
    *,
    family: int = NFPROTO_INET,
    handles: Mapping[str, tuple[int, ...]] = _NO_HANDLES,
) -> Batch:
    """Encode a transaction as one batch, its commands in order, in time and memory proportional to it.

    family:  NFPROTO_INET or NFPROTO_BRIDGE: that of the table nfagent to change
    handles: of the rules, in order, of chains that RewriteChain names; without them all rules of a chain are replaced
    Raises WireError for a command that can't be encoded.
    """
    parts = [_mark(NFNL_MSG_BATCH_BEGIN, first_sequence)]
    numbered: dict[int, Request] = {}
    sequence, last = first_sequence, None
    for last in _messages(transaction, family, handles):
        sequence = (sequence + 1) & SEQUENCE_MASK
        numbered[sequence] = last.request
        parts.append(message(last.type, last.flags | NLM_F_REQUEST, sequence, last.body))
    if last is None:
        return Batch(b"", first_sequence, {}, first_sequence, first_sequence)
    parts[-1] = message(last.type, last.flags | NLM_F_REQUEST | NLM_F_ACK, sequence, last.body)
    end = (sequence + 1) & SEQUENCE_MASK
    parts.append(_mark(NFNL_MSG_BATCH_END, end))
    return Batch(b"".join(parts), first_sequence, numbered, sequence, (end + 1) & SEQUENCE_MASK)


def _mark(kind: int, sequence: int) -> bytes:
    return message(kind, NLM_F_REQUEST, sequence, nfgen(0, NFNL_SUBSYS_NFTABLES))


def _messages(
    transaction: Iterable[Command], family: int, handles: Mapping[str, tuple[int, ...]]
) -> Iterator[NftMessage]:
    set_ids = count(1)
    for command in transaction:
        match command:
            case ChangeElements() | ChangeMapElements():
                yield from element_messages(command, family=family)
            case AddRule(chain, rule):
                yield from rule_messages(chain, rule, family=family, set_ids=set_ids)
            case RewriteChain(name):
                yield from rewrite_messages(command, handles.get(name), family=family, set_ids=set_ids)
            case AddSet(name, shape):
                yield set_message(name, shape, family=family, set_id=next(set_ids))
            case AddMap(name, map_shape):
                yield map_message(name, map_shape, family=family, set_id=next(set_ids))
            case _:
                yield object_message(command, family=family)
