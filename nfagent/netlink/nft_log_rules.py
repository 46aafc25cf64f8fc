"""Requests all rules of nf_tables (NFT_MSG_GETRULE), and decodes those that log to NFLOG groups.

Of nft's own log statement the group is in NFTA_LOG_GROUP; rules of iptables and ebtables over nf_tables may have the
target NFLOG of xtables instead (struct xt_nflog_info, linux/netfilter/xt_NFLOG.h).
"""

from __future__ import annotations

import struct
from collections.abc import Iterator

import msgspec

from nfagent.errors import WireError
from nfagent.netlink.codec import NFGEN_SIZE, NLM_F_DUMP, NLM_F_REQUEST, Message, attributes, message, nfgen
from nfagent.netlink.nft_messages import GETRULE, NEWRULE

_TABLE, _CHAIN, _HANDLE, _EXPRESSIONS = 1, 2, 3, 4  # NFTA_RULE_*
_LIST_ELEMENT = 1  # NFTA_LIST_ELEM
_EXPRESSION_NAME, _EXPRESSION_DATA = 1, 2  # NFTA_EXPR_*
_LOG_GROUP = 1  # NFTA_LOG_GROUP
_TARGET_NAME, _TARGET_INFO = 1, 3  # NFTA_TARGET_*
_ANY_FAMILY = 0  # NFPROTO_UNSPEC
_FAMILIES = {1: "inet", 2: "ip", 3: "arp", 5: "netdev", 7: "bridge", 10: "ip6"}  # NFPROTO_*
_U64 = struct.Struct("!Q")
_U16 = struct.Struct("!H")
_NFLOG_INFO = struct.Struct("=IH")  # len, group


class LogRule(msgspec.Struct, frozen=True, order=True):
    """A rule with a log statement; family as nft names it; group: 0 to 65535."""

    family: str
    table: str
    chain: str
    handle: int
    group: int


def encode_all_rules_request(sequence: int) -> bytes:
    """Encode the request for the rules of every table."""
    return message(GETRULE, NLM_F_REQUEST | NLM_F_DUMP, sequence, nfgen(_ANY_FAMILY, 0))


def decode_log_rules(reply: Message) -> tuple[LogRule, ...]:
    """Return a rule once for each NFLOG group that it logs to; none for others. Raises WireError."""
    if reply.type != NEWRULE:
        raise WireError(f"netlink message of type {reply.type} is no rule")
    # Most rules log nothing: those are not decoded.
    if b"log\0" not in reply.payload and b"NFLOG\0" not in reply.payload:
        return ()
    found = dict(attributes(reply.payload, NFGEN_SIZE))
    handle = found.get(_HANDLE, b"")
    if len(handle) != _U64.size:
        raise WireError("a rule without a handle")
    family = _FAMILIES.get(reply.payload[0], str(reply.payload[0]))
    place = family, _text(found.get(_TABLE, b"")), _text(found.get(_CHAIN, b"")), _U64.unpack(handle)[0]
    return tuple(LogRule(*place, group) for group in _groups(found.get(_EXPRESSIONS, b"")))


def _groups(expressions: bytes) -> Iterator[int]:
    for kind, element in attributes(expressions):
        parts = dict(attributes(element)) if kind == _LIST_ELEMENT else {}
        name = parts.get(_EXPRESSION_NAME)
        if name not in {b"log\0", b"target\0"}:
            continue
        fields = dict(attributes(parts.get(_EXPRESSION_DATA, b"")))
        # Without a group, nft's statement writes to the kernel's log.
        group = fields.get(_LOG_GROUP, b"") if name == b"log\0" else _target_group(fields)
        if len(group) == _U16.size:
            yield _U16.unpack(group)[0]


def _target_group(fields: dict[int, bytes]) -> bytes:
    """Return the group of the target NFLOG in network order; b'' for another target."""
    info = fields.get(_TARGET_INFO, b"")
    if fields.get(_TARGET_NAME, b"").rstrip(b"\0") != b"NFLOG" or len(info) < _NFLOG_INFO.size:
        return b""
    return _U16.pack(_NFLOG_INFO.unpack_from(info)[1])


def _text(name: bytes) -> str:
    return name.rstrip(b"\0").decode(errors="replace")
