"""Requests and decodes the handles of a chain's rules (NFT_MSG_GETRULE), by which single rules are replaced."""

from __future__ import annotations

import struct

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

_CHAIN, _HANDLE = 2, 3  # NFTA_RULE_CHAIN, NFTA_RULE_HANDLE
_U64 = struct.Struct("!Q")


def encode_handles_request(chain: str, sequence: int, *, family: int = NFPROTO_INET) -> bytes:
    """Encode the request for all rules of a chain of table nfagent; of a chain that is absent there are none.

    Raises WireError for what can't be the name of a chain.
    """
    names = IN_TABLE + name_attribute(_CHAIN, "chain", chain)
    return message(GETRULE, NLM_F_REQUEST | NLM_F_DUMP, sequence, nfgen(family, 0) + names)


def is_interrupted(reply: Message) -> bool:
    """Return whether rules changed during the reply, so that handles may be missing from it."""
    return bool(reply.flags & NLM_F_DUMP_INTR)


def decode_rule_handle(reply: Message) -> int:
    """Return the handle of the rule in one message of the reply. Raises WireError for any other message."""
    if reply.type != NEWRULE:
        raise WireError(f"netlink message of type {reply.type} is no rule")
    for kind, value in attributes(reply.payload, NFGEN_SIZE):
        if kind == _HANDLE and len(value) == _U64.size:
            (handle,) = _U64.unpack(value)
            return int(handle)
    raise WireError("a rule without a handle")
