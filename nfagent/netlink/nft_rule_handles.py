"""Requests and decodes the handles of a chain's rules (NFT_MSG_GETRULE), by which single rules are replaced.

A handle alone doesn't say which rule it is of, where another program has changed the chain. The rule's user data are
compared too: nearly every rule of ours has a comment, and neighbours that have the same one are of the same policy.
"""

from __future__ import annotations

import struct

import msgspec

from nfagent.errors import WireError
from nfagent.netlink.codec import (
    NFGEN_SIZE,
    NLM_F_DUMP,
    NLM_F_DUMP_INTR,
    NLM_F_REQUEST,
    Message,
    attributes,
    message,
    nfgen,
)
from nfagent.netlink.nft_messages import (
    GETRULE,
    IN_TABLE,
    NEWRULE,
    NFPROTO_INET,
    name_attribute,
)

_CHAIN, _HANDLE, _USERDATA = 2, 3, 7  # NFTA_RULE_*
_U64 = struct.Struct("!Q")


class RuleHandle(msgspec.Struct, frozen=True, gc=False):
    """The kernel's number of a rule, and the rule's user data: its comment."""

    number: int
    userdata: bytes = b""


def encode_handles_request(chain: str, sequence: int, *, family: int = NFPROTO_INET) -> bytes:
    """Encode the request for all rules of a chain of table nfagent; of a chain that is absent there are none.

    Raises WireError for what can't be the name of a chain.
    """
    names = IN_TABLE + name_attribute(_CHAIN, "chain", chain)
    return message(GETRULE, NLM_F_REQUEST | NLM_F_DUMP, sequence, nfgen(family, 0) + names)


def is_interrupted(reply: Message) -> bool:
    """Return whether rules changed during the reply, so that handles may be missing from it."""
    return bool(reply.flags & NLM_F_DUMP_INTR)


def decode_rule_handle(reply: Message) -> RuleHandle:
    """Return the handle of the rule in one message of the reply. Raises WireError for any other message."""
    if reply.type != NEWRULE:
        raise WireError(f"netlink message of type {reply.type} is no rule")
    handle, about = None, b""
    for kind, value in attributes(reply.payload, NFGEN_SIZE):
        if kind == _HANDLE and len(value) == _U64.size:
            (handle,) = _U64.unpack(value)
        elif kind == _USERDATA:
            about = value
    if handle is None:
        raise WireError("a rule without a handle")
    return RuleHandle(handle, about)
