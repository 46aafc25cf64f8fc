"""Decodes a batch that was encoded earlier and kept on disk, and checks that it only adds to table nfagent."""

from __future__ import annotations

import msgspec

from nfagent.errors import WireError
from nfagent.netlink import codec
from nfagent.netlink.nft_batch import Batch
from nfagent.netlink.nft_messages import (
    IN_TABLE,
    NEWCHAIN,
    NEWOBJ,
    NEWRULE,
    NEWSET,
    NEWSETELEM,
    NEWTABLE,
    NFNL_MSG_BATCH_BEGIN,
    NFNL_MSG_BATCH_END,
    NFPROTO_INET,
    TABLE_ATTRIBUTE,
)

_KINDS = {
    NEWTABLE: "table",
    NEWCHAIN: "chain",
    NEWRULE: "rule",
    NEWSET: "set",
    NEWSETELEM: "elements",
    NEWOBJ: "counter",
}


class SavedRequest(msgspec.Struct, frozen=True):
    """One message of a saved batch. Implements nft_messages.Request.

    kind:   what it adds
    number: its position in the batch, from 1
    """

    kind: str
    number: int

    def describe(self) -> str:
        """Return the request for an error message."""
        return f"add {self.kind} (message {self.number} of a saved batch)"

    def part_at(self, offset: int | None) -> str:  # noqa: ARG002 - the protocol's signature
        """Return '': which part of the message was refused isn't known."""
        return ""


def decode_saved_batch(content: bytes) -> Batch:
    """Decode a batch. Raises WireError unless it is whole, and only adds objects to table inet nfagent."""
    found = list(codec.messages(content))
    if len(found) < 3 or found[0].type != NFNL_MSG_BATCH_BEGIN or found[-1].type != NFNL_MSG_BATCH_END:
        raise WireError("not a batch: it has a begin, messages and an end")
    requests: dict[int, SavedRequest] = {}
    for number, each in enumerate(found[1:-1], 1):
        kind = _KINDS.get(each.type)
        if kind is None:
            raise WireError(f"message {number} of the batch adds no object: type {each.type:#x}")
        if not _is_own(each.payload):
            raise WireError(f"message {number} of the batch is about another table than inet nfagent")
        requests[each.sequence] = SavedRequest(kind, number)
    last = found[-2]
    if not last.flags & codec.NLM_F_ACK:
        raise WireError("the last message of the batch asks for no acknowledgement")
    following = (found[-1].sequence + 1) & codec.SEQUENCE_MASK
    return Batch(content, found[0].sequence, dict(requests), last.sequence, following)


def _is_own(payload: bytes) -> bool:
    """Return whether a message is about table inet nfagent. Raises WireError.

    Of an attribute that is there twice, the kernel takes the last: there is one.
    """
    if payload[:1] != bytes((NFPROTO_INET,)) or not payload.startswith(IN_TABLE, codec.NFGEN_SIZE):
        return False
    others = codec.attributes(payload, codec.NFGEN_SIZE + len(IN_TABLE))
    return all(kind != TABLE_ATTRIBUTE for kind, _ in others)
