"""Rules, sets and maps as messages: any of them gives well-formed messages or a WireError, and a part at any offset."""

from __future__ import annotations

from collections.abc import Callable
from itertools import count
from typing import get_args

import msgspec
from hypothesis import given
from hypothesis import strategies as st

from nfagent.errors import WireError
from nfagent.model.netaddr import Range
from nfagent.netlink.codec import NFGEN_SIZE, attributes
from nfagent.netlink.nft_messages import (
    HEADERS_SIZE,
    NEWRULE,
    NEWSET,
    NEWSETELEM,
    NFPROTO_BRIDGE,
    NFPROTO_INET,
    NftMessage,
)
from nfagent.netlink.nft_rules import RuleRequest, rule_messages
from nfagent.netlink.nft_sets import map_message, set_message
from nfagent.nftables.matches import CtAddress, IpAddress, Match, Within
from nfagent.nftables.objects import Log, MarkSet, NamedSet, PortRange, Rule, SetKind, Verdict, VerdictMap

FAMILIES = st.sampled_from([4, 6])
TABLES = st.sampled_from([NFPROTO_INET, NFPROTO_BRIDGE])
NAMES = st.text(max_size=4) | st.sampled_from(["k", "deny/x", "n" * 255, "n" * 256, "n" * 70_000, "\ud800", "a\0"])
WORDS = st.text(max_size=4) | st.sampled_from(["", "x" * 127, "x" * 128, "ö" * 64, "\ud800", "a\0"])
NUMBERS = st.integers(-2, 300) | st.sampled_from([65_535, 65_536, (1 << 32) - 1, 1 << 32, (1 << 128) - 1, 1 << 128])
HEADER_KEYS = st.builds(IpAddress, st.sampled_from(["saddr", "daddr"]), FAMILIES)
KEYS = HEADER_KEYS | st.builds(CtAddress, st.sampled_from(["client", "server"]), FAMILIES)
VALUES: dict[str, st.SearchStrategy[object]] = {
    **dict.fromkeys(("key", "other"), KEYS),
    **dict.fromkeys(("set", "map", "chain"), NAMES),
    **dict.fromkeys(("negated", "random_fully", "replies"), st.booleans()),
    **dict.fromkeys(("hop_limit", "size", "first", "last", "code", "modulus", "below", "mask", "value"), NUMBERS),
    "family": FAMILIES,
    "ports": st.none() | st.builds(PortRange, NUMBERS, NUMBERS),
    "numbers": st.lists(NUMBERS, max_size=3).map(tuple),
    "ranges": st.lists(st.builds(Range, FAMILIES, NUMBERS, NUMBERS), max_size=3).map(tuple),
    "names": st.lists(st.sampled_from(["tcp", "icmpv6", "nd-redirect", "4", "58", "256", "٣", "odd"]), max_size=3).map(
        tuple
    ),
    "states": st.lists(st.sampled_from(["new", "established", "odd"]), max_size=3).map(tuple),
    "protocol": st.sampled_from(["tcp", "udp", "sctp", "odd"]),
    "direction": st.sampled_from(["original", "reply", "odd"]),
    "expression": st.text(max_size=4),
    "name": NAMES,
    "address": st.sampled_from(["192.0.2.10", "2001:db8::10", "odd", ""]),
}
"""By the name of the field of a match or verdict."""


def drawn(one: type[msgspec.Struct]) -> st.SearchStrategy[object]:
    """Draw an object of a type, with values that may not fit."""
    values = {**VALUES, "key": HEADER_KEYS} if one is Within else VALUES
    return st.builds(one, **{field.name: values[field.name] for field in msgspec.structs.fields(one)})


RULES = st.builds(
    Rule,
    st.lists(st.one_of(*map(drawn, get_args(Match))), max_size=5).map(tuple),
    st.just("") | NAMES,
    st.none() | st.builds(Log, WORDS, NUMBERS),
    st.none() | st.one_of(*map(drawn, get_args(Verdict))),
    WORDS,
    st.none() | st.builds(MarkSet, NUMBERS, NUMBERS),
)
OFFSETS = st.none() | st.integers(-1, 400)


def outcome(encode: Callable[[], list[NftMessage]], words: str) -> list[NftMessage]:
    """Return the messages; none after a WireError, which has these words."""
    try:
        return encode()
    except WireError as error:
        reason = str(error)
    assert words in reason
    return []


def nested_attributes(content: bytes) -> int:
    """Return how many attributes there are in an attribute's value, expressions and elements included."""
    return sum(1 for _, one in attributes(content) for _ in attributes(one))


@given(rule=RULES, family=TABLES, position=st.sampled_from([0, 1, (1 << 64) - 1]), offset=OFFSETS)
def test_any_rule_is_messages_or_a_wire_error(rule: Rule, family: int, position: int, offset: int | None) -> None:
    found = outcome(
        lambda: list(rule_messages("c", rule, family=family, set_ids=count(1), position=position)), "chain c"
    )
    if not found:
        return
    *sets, last = found
    assert last.type == NEWRULE
    assert [one.type for one in sets] == [NEWSET, NEWSETELEM] * (len(sets) // 2)
    for one in found:
        assert len(one.body) % 4 == 0
        assert one.body[0] == family
        assert isinstance(one.request.part_at(offset), str)
        if isinstance(one.request, RuleRequest):
            assert isinstance(one.request.reference_at(offset), str)
        assert one.request.describe().startswith("add rule")
    assert nested_attributes(dict(attributes(last.body, NFGEN_SIZE))[4]) % 2 == 0


@given(
    name=NAMES,
    shape=st.builds(NamedSet, st.sampled_from(get_args(SetKind)), FAMILIES, comment=WORDS, size=NUMBERS)
    | st.builds(VerdictMap, FAMILIES, st.just({})),
    family=TABLES,
    offset=OFFSETS,
)
def test_any_set_or_map_is_a_message_or_a_wire_error(
    name: str, shape: NamedSet | VerdictMap, family: int, offset: int | None
) -> None:
    if isinstance(shape, NamedSet):
        found = outcome(lambda: [set_message(name, shape, family=family, set_id=3)], "set")
    else:
        found = outcome(lambda: [map_message(name, shape, family=family, set_id=3)], "map")
    if not found:
        return
    written = dict(attributes(found[0].body, NFGEN_SIZE))
    request = found[0].request
    assert written[2] == name.encode() + b"\0"
    assert written[10] == bytes((0, 0, 0, 3))
    assert isinstance(request.part_at(offset), str)
    assert request.part_at(HEADERS_SIZE).startswith("table ")
    assert name in request.describe()
