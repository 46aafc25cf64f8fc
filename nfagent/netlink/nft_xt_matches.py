"""Requests and decodes xtables' matches in a chain's rules (NFT_MSG_GETRULE), which nft's JSON has by name only."""

from __future__ import annotations

import struct
from collections.abc import Iterator

from nfagent.errors import WireError
from nfagent.netlink.codec import NFGEN_SIZE, NLM_F_DUMP, NLM_F_REQUEST, Message, attributes, message, nfgen
from nfagent.netlink.nft_messages import FAMILY_NUMBERS, GETRULE, NEWRULE, TABLE_ATTRIBUTE, name_attribute
from nfagent.nftables.foreign_xtables import XtMatch

_CHAIN, _HANDLE, _EXPRESSIONS = 2, 3, 4  # NFTA_RULE_*
_LIST_ELEMENT = 1  # NFTA_LIST_ELEM
_EXPRESSION_NAME, _EXPRESSION_DATA = 1, 2  # NFTA_EXPR_*
_NAME, _REVISION, _INFO = 1, 2, 3  # NFTA_MATCH_*
_U32 = struct.Struct("!I")
_U64 = struct.Struct("!Q")


def encode_rules_request(family: str, table: str, chain: str, sequence: int) -> bytes:
    """Encode the request for the rules of a chain; family: 'ip', 'ip6', 'inet'. Raises WireError for other names."""
    if family not in FAMILY_NUMBERS:
        raise WireError(f"{family!r} is no family of tables with nat chains")
    names = name_attribute(TABLE_ATTRIBUTE, "table", table) + name_attribute(_CHAIN, "chain", chain)
    return message(GETRULE, NLM_F_REQUEST | NLM_F_DUMP, sequence, nfgen(FAMILY_NUMBERS[family], 0) + names)


def decode_xt_matches(reply: Message) -> tuple[int, tuple[XtMatch, ...]]:
    """Return a rule's handle and its matches of xtables, in their order. Raises WireError."""
    if reply.type != NEWRULE:
        raise WireError(f"netlink message of type {reply.type} is no rule")
    found = dict(attributes(reply.payload, NFGEN_SIZE))
    handle = found.get(_HANDLE, b"")
    if len(handle) != _U64.size:
        raise WireError("a rule without a handle")
    return _U64.unpack(handle)[0], tuple(_matches(found.get(_EXPRESSIONS, b"")))


def _matches(expressions: bytes) -> Iterator[XtMatch]:
    for kind, element in attributes(expressions):
        parts = dict(attributes(element)) if kind == _LIST_ELEMENT else {}
        if parts.get(_EXPRESSION_NAME) == b"match\0":
            fields = dict(attributes(parts.get(_EXPRESSION_DATA, b"")))
            revision = fields.get(_REVISION, b"")
            name = fields.get(_NAME, b"").rstrip(b"\0").decode(errors="replace")
            number = _U32.unpack(revision)[0] if len(revision) == _U32.size else -1
            yield XtMatch(name, number, fields.get(_INFO, b""))
