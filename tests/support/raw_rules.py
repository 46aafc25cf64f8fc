"""Rules and names that `nft` never writes, added by netlink as another program's library would."""

from __future__ import annotations

import struct

from nfagent.kernel.sockets import DATAGRAM_BYTES, netfilter_socket
from nfagent.netlink.codec import NLM_F_ACK, NLM_F_REQUEST, ack_errno, attribute, message, messages, nested, nfgen
from nfagent.netlink.nft_messages import (
    NEWCHAIN,
    NEWRULE,
    NEWSET,
    NEWSETELEM,
    NFNL_MSG_BATCH_BEGIN,
    NFNL_MSG_BATCH_END,
    NFNL_SUBSYS_NFTABLES,
    NFPROTO_INET,
    NLM_F_APPEND,
    NLM_F_CREATE,
)

_NUMBER = struct.Struct("!I")


def expression(name: str, *fields: bytes) -> bytes:
    """Return an expression of a rule (NFTA_LIST_ELEM)."""
    return nested(1, attribute(1, name.encode() + b"\0"), nested(2, *fields))


def number(kind: int, value: int) -> bytes:
    return attribute(kind, _NUMBER.pack(value))


def add_rule(family: int, table: str, chain: str, *expressions: bytes) -> None:
    """Append a rule to a chain; family: NFPROTO_*."""
    _commit(NEWRULE, family, _text(1, table), _text(2, chain), nested(4, *expressions))


def add_postrouting_chain(family: int, table: str, chain: str) -> None:
    """Add a nat chain at hook postrouting, which may have any name."""
    hook = nested(4, number(1, 4), number(2, 100))
    _commit(NEWCHAIN, family, _text(1, table), _text(3, chain), hook, _text(7, "nat"))


def add_hidden_map(table: str, name: str, chain: str) -> None:
    """Add a map of a table inet that jumps to a chain; its keys have a type that nft lacks, so that it isn't listed."""
    inet, verdict = NFPROTO_INET, 0xFFFF_FF00  # NFT_DATA_VERDICT
    # Of NFTA_SET_*: flags (NFT_SET_MAP), types and bytes of keys and of values, an id in the batch.
    numbers = ((3, 8), (4, 62_959), (5, 4), (6, verdict), (7, 16), (10, 1))
    _commit(NEWSET, inet, _text(1, table), _text(2, name), *(number(*each) for each in numbers))
    jump = nested(2, nested(2, number(1, 0xFFFF_FFFD), _text(2, chain)))  # of NFTA_VERDICT_*: NFT_JUMP, and where to
    element = nested(1, nested(1, attribute(1, bytes(4))), jump)
    _commit(NEWSETELEM, inet, _text(1, table), _text(2, name), nested(3, element))


def _text(kind: int, words: str) -> bytes:
    return attribute(kind, words.encode() + b"\0")


def _commit(kind: int, family: int, *attributes: bytes) -> None:
    added = message(
        kind, NLM_F_REQUEST | NLM_F_ACK | NLM_F_APPEND | NLM_F_CREATE, 2, nfgen(family, 0) + b"".join(attributes)
    )
    # Without a request for an acknowledgement, which would be the first one, and say nothing of what was added.
    frame = nfgen(0, NFNL_SUBSYS_NFTABLES)
    begin, end = (message(kind, NLM_F_REQUEST, 1, frame) for kind in (NFNL_MSG_BATCH_BEGIN, NFNL_MSG_BATCH_END))
    with netfilter_socket(blocking=True) as opened:
        opened.send(begin + added + end)
        opened.settimeout(10)
        acknowledged = [ack_errno(reply) for reply in messages(opened.recv(DATAGRAM_BYTES))]
    assert set(acknowledged) == {0}


def _extension_header(operation: int) -> bytes:
    """Return the expression that loads whether there is a header of type 0x45; operation: NFT_EXTHDR_OP_*."""
    # Of NFTA_EXTHDR_*: register, type, offset, length, flag "present", operation.
    numbers = (number(3 + at, value) for at, value in enumerate((0, 1, 1, operation)))
    return expression("exthdr", number(1, 1), attribute(2, b"\x45"), *numbers)


# Of NFTA_CMP_*: register, the operation for equal, and what it is compared with.
_IS_ONE = expression("cmp", number(1, 1), number(2, 0), nested(3, attribute(1, b"\1")))
UNLISTABLE = (_extension_header(0), _IS_ONE)
"""The expressions of a rule at which nft 1.0.6 ends by an assertion: an extension header of a type that it lacks.

It does where it lists the rule as JSON.
"""
UNREADABLE = (_extension_header(3), _IS_ONE)
"""Those of a rule at which it also ends where it reads the rule to list something else: an SCTP chunk."""
