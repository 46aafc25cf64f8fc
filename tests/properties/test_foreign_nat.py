"""Listings of other programs' rules: any input is read, and what is found agrees with single packets."""

from __future__ import annotations

import shlex
from contextlib import suppress

import msgspec
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from nfagent.errors import WireError
from nfagent.model.netaddr import Range, text
from nfagent.netlink.codec import Message, attribute, nested
from nfagent.netlink.nft_messages import NEWRULE
from nfagent.netlink.nft_xt_matches import decode_xt_matches
from nfagent.nftables import foreign_nat
from nfagent.nftables.foreign_json import parse_base_chains, parse_elements, parse_rules, parse_targets, referred_sets
from nfagent.nftables.foreign_nat import TranslatedTraffic, find_conflicts
from nfagent.nftables.foreign_rules import Action, ForeignRule, ForeignTable
from nfagent.nftables.foreign_xtables import XtMatch, with_xt_match
from nfagent.nftables.iptables_save import split_words

WORDS = st.sampled_from(
    [
        *("nftables", "rule", "set", "map", "chain", "expr", "elem", "match", "left", "right", "op", "==", "!=", "xt"),
        *("payload", "protocol", "ip", "field", "saddr", "meta", "key", "mark", "&", "prefix", "addr", "len", "range"),
        *("vmap", "data", "jump", "target", "@s", "10.0.0.1", "name", "type", "fib", "result", "local", "val", "snat"),
    ]
)
VALUES = st.recursive(
    st.none() | st.booleans() | st.integers(-1, 40) | WORDS,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(WORDS, inner, max_size=4),
    max_leaves=30,
)
RULES = st.lists(st.dictionaries(WORDS, VALUES, max_size=2), max_size=3).map(
    lambda expressions: {"nftables": [{"rule": {"handle": 1, "expr": expressions}}]}
)


@given(VALUES | RULES)
@example({"nftables": [{"rule": {"handle": 1, "expr": [{"match": {"op": [], "left": {}}}]}}]})
@example({"nftables": [{"chain": {"type": "nat", "hook": "postrouting", "family": {}}}]})
@example({"nftables": [{"rule": {"expr": [{"match": {"op": "==", "left": {"payload": {"field": []}}}}]}}]})
@example({"nftables": [{"rule": {"expr": [{"match": {"op": "==", "left": {"meta": {"key": []}}, "right": {}}}]}}]})
def test_any_listing_is_read_or_refused(value: object) -> None:
    listing = msgspec.json.encode(value).decode()
    for read in (
        parse_base_chains,
        parse_elements,
        parse_targets,
        referred_sets,
        lambda text: parse_rules(text, {}, {}, {}),
    ):
        try:
            read(listing)
        except WireError:
            continue


@given(st.binary(max_size=60), st.sampled_from(["mark", "connmark", "addrtype", "set"]), st.integers(-1, 2))
def test_any_structure_of_a_match_narrows_a_rule_or_is_read(info: bytes, name: str, revision: int) -> None:
    rule = with_xt_match(ForeignRule(text="x"), name, XtMatch(name, revision, info))
    assert rule.narrowed or rule.never or rule.mark or name == "addrtype"
    handle, names = attribute(3, bytes(8)), attribute(2, f"{name}\0".encode())
    for body in (info, handle + nested(4, nested(1, names, info))):
        with suppress(WireError):
            decode_xt_matches(Message(NEWRULE, 0, 1, 0, bytes(4) + body))


SMALL = st.tuples(st.integers(0, 7), st.integers(0, 7)).map(lambda ends: (Range(4, min(ends), max(ends)),))
CHAINS = ("base", "one", "two")


def rules(chain: int) -> st.SearchStrategy[tuple[ForeignRule, ...]]:
    """Return rules that jump only to later chains."""
    actions: list[Action] = ["masquerade", "accept", "return", ""]
    plain = st.builds(
        ForeignRule, text=st.just("plain"), sources=SMALL, destinations=SMALL, action=st.sampled_from(actions)
    )
    later = CHAINS[chain + 1 :]
    if not later:
        return st.lists(plain, max_size=4).map(tuple)
    ways: list[Action] = ["jump", "goto"]
    leading = st.builds(
        ForeignRule,
        text=st.just("way"),
        sources=SMALL,
        destinations=SMALL,
        action=st.sampled_from(ways),
        target=st.sampled_from(later),
    )
    return st.lists(plain | leading, max_size=4).map(tuple)


TABLES = st.fixed_dictionaries({name: rules(number) for number, name in enumerate(CHAINS)})


def outcome(chains: dict[str, tuple[ForeignRule, ...]], name: str, source: int, destination: int) -> str:
    """Return what becomes of one packet in a chain: 'masquerade', 'accept', or 'return'."""
    for rule in chains[name]:
        hit = rule.sources[0].first <= source <= rule.sources[0].last
        if not (hit and rule.destinations[0].first <= destination <= rule.destinations[0].last):
            continue
        if rule.action in {"masquerade", "accept", "return"}:
            return rule.action
        if rule.action in {"jump", "goto"}:
            below = outcome(chains, rule.target, source, destination)
            if below != "return" or rule.action == "goto":
                return below
    return "return"


@settings(max_examples=10 * settings().max_examples)
@given(TABLES, SMALL, SMALL)
def test_destinations_are_reported_where_a_packet_to_them_is_translated(
    chains: dict[str, tuple[ForeignRule, ...]], pods: tuple[Range], kept: tuple[Range]
) -> None:
    table = ForeignTable("t", 4, (("base", 100),), chains)
    found = bool(find_conflicts([table], TranslatedTraffic(pods, kept)))
    packets = (
        (source, destination)
        for source in range(pods[0].first, pods[0].last + 1)
        for destination in range(kept[0].first, kept[0].last + 1)
    )
    translated = [pair for pair in packets if outcome(chains, "base", *pair) == "masquerade"]
    # A rule for a Pod's traffic to itself alone is no conflict.
    to_others = [pair for pair in translated if pair[0] != pair[1]]
    assert bool(to_others) <= found <= bool(translated), [
        tuple(text(4, value) for value in pair) for pair in translated
    ]


@given(TABLES, SMALL, SMALL, st.integers(0, 100))
def test_a_table_with_too_many_paths_has_no_fewer_findings(
    chains: dict[str, tuple[ForeignRule, ...]], pods: tuple[Range], kept: tuple[Range], most: int
) -> None:
    tables, traffic = [ForeignTable("t", 4, (("base", 100),), chains)], TranslatedTraffic(pods, kept)
    every = {(item.chain, item.rule, item.effect) for item in find_conflicts(tables, traffic)}
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(foreign_nat, "_MOST_WORK", most)
        bounded = {(item.chain, item.rule, item.effect) for item in find_conflicts(tables, traffic)}
    assert every <= bounded


def words_of_a_shell(line: str) -> list[str] | None:
    try:
        return shlex.split(line)
    except ValueError:
        return None


@settings(max_examples=10 * settings().max_examples)
@given(st.text(alphabet="a-! \t\r\n\x0b\x1c\x85\xa0#'\"\\", max_size=12) | st.text(alphabet="a '\"", max_size=12))
def test_words_of_a_rule_are_those_that_a_shell_reads(line: str) -> None:
    try:
        words = split_words(line)
    except ValueError:
        words = None
    assert words == words_of_a_shell(line)
