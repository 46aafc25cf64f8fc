"""Encodes rules as nf_tables messages (linux/netfilter/nf_tables.h), each after the anonymous sets that it names."""

from __future__ import annotations

import struct
from collections.abc import Iterator

import msgspec

from nfagent.errors import WireError
from nfagent.netlink import nft_expressions as nft
from nfagent.netlink.codec import attribute, nested, nfgen
from nfagent.netlink.nft_anonymous import AnonymousSet, Part, anonymous_set_messages
from nfagent.netlink.nft_icmpv6 import steps
from nfagent.netlink.nft_known import Known
from nfagent.netlink.nft_match import mark_expressions, match_parts, verdict_expressions
from nfagent.netlink.nft_messages import (
    HEADERS_SIZE,
    IN_TABLE,
    NEWRULE,
    NFPROTO_INET,
    NLM_F_APPEND,
    NLM_F_CREATE,
    NftMessage,
    name_attribute,
    table_of,
)
from nfagent.netlink.nft_sets import comment_userdata
from nfagent.nftables.objects import Log, Rule
from nfagent.nftables.transaction import AddRule

_CHAIN, _EXPRESSIONS, _POSITION, _USERDATA = 2, 4, 6, 7  # NFTA_RULE_*
_COMMENT = 0  # of a rule's user data
_LONGEST_PREFIX = 127  # NF_LOG_PREFIXLEN, without the final NUL
_ATTRIBUTE_HEADER = 4
_UNENCODABLE = (ValueError, KeyError, TypeError, OverflowError, struct.error)


class RuleRequest(msgspec.Struct, frozen=True):
    """The message that adds a rule, or one of its anonymous sets."""

    chain: str
    rule: Rule
    family: int = NFPROTO_INET

    def describe(self) -> str:
        """Return the command in nft syntax."""
        return AddRule(self.chain, self.rule).text(table_of(self.family))

    def part_at(self, offset: int | None) -> str:
        """Return the table or chain, or the kernel's name of the expression, at an offset into the rule's message."""
        chain_at = HEADERS_SIZE + len(IN_TABLE)
        if offset is None or offset < HEADERS_SIZE:
            return ""
        if offset < chain_at:
            return f"table {table_of(self.family)}"
        expressions_at = self._expressions_at()
        if offset < expressions_at:
            return f"chain {self.chain}"
        return nft.expression_at(self._expressions(), offset - expressions_at)

    def reference_at(self, offset: int | None) -> str:
        """Return the name of the object that the expression at an offset refers to; '' if it refers to none by name."""
        expressions_at = self._expressions_at()
        if offset is None or offset < expressions_at:
            return ""
        return nft.reference_at(self._expressions(), offset - expressions_at)

    def _expressions_at(self) -> int:
        chain = name_attribute(_CHAIN, "chain", self.chain)
        return HEADERS_SIZE + len(IN_TABLE) + len(chain) + _ATTRIBUTE_HEADER

    def _expressions(self) -> bytes:
        """Return the expressions as in the message, but for the numbers of anonymous sets."""
        return b"".join(
            nft.anonymous_lookup(0) if isinstance(part, AnonymousSet) else part
            for part in _parts(self.rule, self.family)
        )


class AnonymousSetRequest(msgspec.Struct, frozen=True):
    """A message about an anonymous set of a rule."""

    rule: RuleRequest

    def describe(self) -> str:
        """Return the command that adds the rule, in nft syntax."""
        return self.rule.describe()

    def part_at(self, offset: int | None) -> str:
        """Return the table if an offset into the message is that of its name, 'set' otherwise."""
        return self.rule.part_at(offset) if offset == HEADERS_SIZE else "set"


def rule_messages(
    chain: str, rule: Rule, *, family: int, set_ids: Iterator[int], position: int = 0
) -> Iterator[NftMessage]:
    """Encode a rule after its anonymous sets.

    set_ids:  numbers for anonymous sets, each of which no other set of the batch has
    position: 0 appends the rule to the chain; the handle of a rule inserts it before that one
    Raises WireError for what can't be encoded: an UnknownExpr, a name or a comment that is too long.
    """
    try:
        yield from _messages(RuleRequest(chain, rule, family), set_ids, position)
    except WireError as error:
        raise WireError(f"a rule of chain {chain} can't be encoded: {error}") from None


def _messages(request: RuleRequest, set_ids: Iterator[int], position: int) -> Iterator[NftMessage]:
    rule, family = request.rule, request.family
    written = []
    for part in _parts(rule, family):
        if not isinstance(part, AnonymousSet):
            written.append(part)
            continue
        set_id = next(set_ids)
        yield from anonymous_set_messages(part, set_id, AnonymousSetRequest(request), family=family)
        written.append(nft.anonymous_lookup(set_id))
    flags, place = (NLM_F_CREATE, attribute(_POSITION, struct.pack("!Q", position))) if position else _APPENDED
    named = name_attribute(_CHAIN, "chain", request.chain)
    userdata = rule_userdata(rule)
    comment = attribute(_USERDATA, userdata) if userdata else b""
    body = nfgen(family, 0) + IN_TABLE + named + nested(_EXPRESSIONS, *written) + place + comment
    yield NftMessage(NEWRULE, flags, body, request)


def _parts(rule: Rule, family: int) -> list[Part]:
    known = Known(family)
    parts: list[Part] = []
    for step in steps(rule.matches):
        try:
            encoded, known = match_parts(step, known)
        except _UNENCODABLE as error:
            raise WireError(f"{step!r}: {error}") from None
        parts += encoded
    if rule.counter:
        parts.append(nft.counter_reference(rule.counter))
    if rule.log is not None:
        parts.append(_log(rule.log))
    if rule.mark is not None:
        try:
            parts.append(mark_expressions(rule.mark))
        except _UNENCODABLE as error:
            raise WireError(f"{rule.mark!r}: {error}") from None
    if rule.verdict is not None:
        try:
            parts.append(verdict_expressions(rule.verdict, known))
        except _UNENCODABLE as error:
            raise WireError(f"{rule.verdict!r}: {error}") from None
    return parts


def _log(item: Log) -> bytes:
    try:
        prefix = item.prefix.encode()
        if len(prefix) > _LONGEST_PREFIX or 0 in prefix:
            raise ValueError(f"a prefix has at most {_LONGEST_PREFIX} bytes, none of them 0")
        return nft.log(prefix, item.group)
    except _UNENCODABLE as error:
        raise WireError(f"{item!r}: {error}") from None


def rule_userdata(rule: Rule) -> bytes:
    """Encode a rule's comment as its user data; b"" without one. Raises WireError for one that nft can't read back."""
    try:
        return comment_userdata(_COMMENT, rule.comment) if rule.comment else b""
    except ValueError as error:
        raise WireError(str(error)) from None


_APPENDED = NLM_F_CREATE | NLM_F_APPEND, b""
