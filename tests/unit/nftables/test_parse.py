"""Parsing of libnftables listings, with foreign objects in the nfagent table."""

from __future__ import annotations

import json
from typing import Any

import pytest

from nfagent.errors import WireError
from nfagent.model.netaddr import FAMILIES, Range, parse_cidr, single
from nfagent.nftables.diff import diff
from nfagent.nftables.matches import (
    CtAddress,
    CtDirectionIs,
    CtFlowInSet,
    CtSeenReply,
    EtherType,
    FamilyInSet,
    FamilyIs,
    FibLocalSource,
    FromBridge,
    FromInterface,
    FromVeth,
    HopLimit,
    Icmpv6Code,
    IpAddress,
    L4Proto,
    MaxPayload,
    MulticastAddress,
    MulticastFrame,
    NamedPort,
    NotLoopback,
    PairInSet,
    SetUpdate,
    UnicastDestination,
    UnknownExpr,
    Within,
)
from nfagent.nftables.objects import (
    ABSENT,
    TABLE_FLAGS,
    Accept,
    Chain,
    Drop,
    Hook,
    Jump,
    NamedSet,
    PortRange,
    Return,
    Rule,
    Ruleset,
    VerdictMap,
)
from nfagent.nftables.parse import CounterValue, parse_counters, parse_listing, parse_ruleset
from nfagent.nftables.transaction import Delete, RewriteChain

Entry = dict[str, Any]
TABLE: Entry = {"table": {"family": "inet", "name": "nfagent", "handle": 1}}


def ours(kind: str, **item: Any) -> Entry:  # noqa: ANN401 - libnftables' own fields
    return {kind: {"family": "inet", "table": "nfagent", "handle": 7, **item}}


def listing(*entries: Entry) -> Entry:
    return {"nftables": [{"metainfo": {"version": "1.0.6"}}, *entries]}


def test_a_listing_without_our_table_is_absent() -> None:
    other = {"table": {"family": "ip", "name": "nfagent", "handle": 1}}
    assert parse_ruleset(listing()) == ABSENT
    assert parse_ruleset(listing(other, {"table": {"family": "inet", "name": "filter"}})) == ABSENT


def test_other_tables_are_not_looked_at() -> None:
    odd = {"set": {"family": "inet", "table": "filter", "name": "x", "type": "odd"}}
    assert parse_ruleset(listing(TABLE, odd)) == Ruleset()


@pytest.mark.parametrize(
    "junk", [None, [], {}, {"nftables": None}, {"nftables": [5]}, {"nftables": [{}]}, {"nftables": [{"a": 1, "b": 2}]}]
)
def test_what_is_no_listing_is_refused(junk: object) -> None:
    with pytest.raises(WireError):
        parse_ruleset(junk)


def test_what_is_known_already_is_given_as_what_is_known() -> None:
    """A comparison must not hold a large table twice."""
    same = ours("set", name="same", type="ipv4_addr", elem=["10.0.0.1"])
    other = ours("set", name="other", type="ipv4_addr", elem=["10.0.0.2"])
    known = Ruleset(sets={"same": NamedSet("address", 4, frozenset({"10.0.0.1"})), "other": NamedSet("address", 4)})
    found = parse_listing(json.dumps(listing(TABLE, same, other)), known)
    assert found == parse_ruleset(listing(TABLE, same, other))
    assert found.sets["same"] is known.sets["same"]
    assert found.sets["other"].elements == {"10.0.0.2"}


def test_elements_of_every_kind_are_read() -> None:
    found = parse_ruleset(
        listing(
            TABLE,
            ours("set", name="a", type="ipv6_addr", elem=["2001:db8::1"]),
            ours(
                "set",
                name="r",
                type="ipv4_addr",
                flags=["interval"],
                comment="words",
                elem=[{"prefix": {"addr": "10.0.0.0", "len": 8}}, {"range": ["1.0.0.1", "1.0.0.3"]}, "9.9.9.9"],
            ),
            ours(
                "set",
                name="p",
                type=["ipv4_addr", "inet_proto", "inet_service"],
                elem=[{"concat": ["10.0.0.1", "tcp", 80]}, {"concat": ["10.0.0.1", 132, 80]}],
            ),
            ours("set", name="n", type="inet_service", flags=["interval"], elem=[80, {"range": [8000, 8080]}]),
            ours("set", name="f", type="nf_proto", elem=["ipv4", "ipv6"]),
            ours("map", name="m", type="ipv4_addr", map="verdict", elem=[["10.0.0.1", {"goto": {"target": "c"}}]]),
        )
    )
    ranges = {parse_cidr("10.0.0.0/8"), Range(4, 0x01000001, 0x01000003), single("9.9.9.9")}
    assert found.sets == {
        "a": NamedSet("address", 6, frozenset({"2001:db8::1"})),
        "r": NamedSet("range", 4, frozenset(ranges), "words"),
        "p": NamedSet("port", 4, frozenset({("10.0.0.1", "tcp", 80), ("10.0.0.1", "sctp", 80)})),
        "n": NamedSet("ports", 4, frozenset({PortRange(80, 80), PortRange(8000, 8080)})),
        "f": NamedSet("family", 4, frozenset(FAMILIES)),
    }
    assert found.maps == {"m": VerdictMap(4, {"10.0.0.1": "c"})}


FLOW_TYPES = ["ipv4_addr", "inet_proto", "inet_service", "ipv4_addr", "inet_service"]

FOREIGN: dict[str, Entry] = {
    "a set of another type": ours("set", name="x", type="ether_addr"),
    "a set with a timeout": ours("set", name="x", type="ipv4_addr", timeout=60),
    "a dynamic set": ours("set", name="x", type="ipv4_addr", flags=["dynamic"]),
    "a set of intervals of ports": ours(
        "set", name="x", type=["ipv4_addr", "inet_proto", "inet_service"], flags=["interval"]
    ),
    "a set of a family that is none of ours": ours("set", name="x", type="nf_proto", elem=["arp"]),
    "a set of flows that stay": ours("set", name="x", type=FLOW_TYPES),
    "a set of flows with another time": ours(
        "set", name="x", type=FLOW_TYPES, size=65536, flags=["timeout"], timeout=301
    ),
    "a small set of flows": ours("set", name="x", type=FLOW_TYPES, size=99, flags=["timeout"], timeout=300),
    "a set of ports without intervals": ours("set", name="x", type="inet_service", elem=[80]),
    "a set of intervals of families": ours("set", name="x", type="nf_proto", flags=["interval"]),
    "a map of marks": ours("map", name="x", type="ipv4_addr", map="mark", elem=[["10.0.0.1", 5]]),
    "a map that jumps": ours(
        "map", name="x", type="ipv4_addr", map="verdict", elem=[["10.0.0.1", {"jump": {"target": "c"}}]]
    ),
    "a map with elements in words": ours(
        "map", name="x", type="ipv4_addr", map="verdict", elem=[["10.0.0.1", "goto c"]]
    ),
    "a base chain that drops": ours("chain", name="x", type="filter", hook="input", prio=0, policy="drop"),
    "a quota": ours("quota", name="x", bytes=5),
    "a flowtable": ours("flowtable", name="x"),
}


@pytest.mark.parametrize("entry", FOREIGN.values(), ids=FOREIGN)
def test_only_foreign_objects_are_removed(entry: Entry) -> None:
    found = parse_ruleset(listing(TABLE, entry))
    [kind] = entry
    assert found.foreign == {(kind, "x")}
    assert diff(found, Ruleset())[-1] == Delete(kind, "x")


@pytest.mark.parametrize("flags", ["inet", "dormant", ["dormant"], ["owner", "persist"]])
def test_a_table_with_flags_differs(flags: object) -> None:
    found = parse_ruleset(listing({"table": {**TABLE["table"], "flags": flags}}))
    assert found.foreign == {TABLE_FLAGS}


@pytest.mark.parametrize("kind", ["chain", "set", "map", "counter", "quota"])
@pytest.mark.parametrize("name", ["", "5", "a b", "x; delete table inet filter", "x\n"])
def test_what_has_a_name_that_syntax_can_not_write_is_foreign(kind: str, name: str) -> None:
    found = parse_ruleset(listing(TABLE, ours(kind, name=name, type="ipv4_addr", map="verdict")))
    assert found == Ruleset(foreign=frozenset({(kind, name)}))


@pytest.mark.parametrize("flags", ["interval", ["interval"]], ids=["one word", "a list"])
def test_flags_may_be_listed_as(flags: object) -> None:
    found = parse_ruleset(listing(TABLE, ours("set", name="x", type="ipv4_addr", flags=flags)))
    assert found.sets == {"x": NamedSet("range", 4)}


@pytest.mark.parametrize(
    "flags", [["timeout"], ["timeout", "dynamic"], ["dynamic", "timeout"], "timeout"], ids=["1.0.6", "1.1.3", "3", "4"]
)
def test_a_dynamic_set_is_known_with_or_without_the_dynamic_flag(flags: object) -> None:
    entry = ours("set", name="x", type=FLOW_TYPES, size=65536, flags=flags, timeout=300)
    assert parse_ruleset(listing(TABLE, entry)).sets == {"x": NamedSet("flow", 4)}


@pytest.mark.parametrize("size", [65_536, 262_144])
def test_a_dynamic_set_is_known_with_at_least_the_default_capacity(size: int) -> None:
    entry = ours("set", name="x", type=FLOW_TYPES, size=size, flags=["timeout"], timeout=300)
    assert parse_ruleset(listing(TABLE, entry)).sets == {"x": NamedSet("flow", 4, size=size)}


def concat(port: str, protocol: str = "th") -> Entry:
    """Write what a named port looks up, as libnftables lists it."""
    server = {"ct": {"key": "ip saddr", "dir": "reply"}}
    return {"concat": [server, {"meta": {"key": "l4proto"}}, {"payload": {"protocol": protocol, "field": port}}]}


FLOW: Entry = {
    "concat": [
        {"payload": {"protocol": "ip", "field": "saddr"}},
        {"meta": {"key": "l4proto"}},
        {"payload": {"protocol": "th", "field": "sport"}},
        {"payload": {"protocol": "ip", "field": "daddr"}},
        {"payload": {"protocol": "th", "field": "dport"}},
    ]
}


def test_what_a_set_of_flows_remembers_is_not_compared() -> None:
    remembered = {"elem": {"val": {"concat": ["10.0.0.1", "tcp", 80, "10.0.0.2", 4000]}, "expires": 299}}
    entry = ours(
        "set", name="w", type=FLOW_TYPES, size=65536, flags=["timeout"], timeout=300, comment="c", elem=[remembered]
    )
    assert parse_ruleset(listing(TABLE, entry)).sets == {"w": NamedSet("flow", 4, comment="c")}


def match(left: Entry, right: object, op: str = "==") -> Entry:
    return {"match": {"op": op, "left": left, "right": right}}


SOURCE = {"payload": {"protocol": "ip", "field": "saddr"}}

KNOWN: dict[str, tuple[list[Entry], Rule]] = {
    "a jump": ([{"jump": {"target": "c"}}], Rule(verdict=Jump("c"))),
    "a return": ([{"return": None}], Rule(verdict=Return())),
    "a family in a set": ([match({"meta": {"key": "nfproto"}}, "@f")], Rule((FamilyInSet("f"),))),
    "a family": ([match({"meta": {"key": "nfproto"}}, "ipv6")], Rule((FamilyIs(6),))),
    "a family that is in none": (
        [match({"meta": {"key": "nfproto"}}, "@f", "!=")],
        Rule((FamilyInSet("f", negated=True),)),
    ),
    "protocols by their names": (
        [match({"meta": {"key": "l4proto"}}, {"set": ["icmp", "IPv6-ICMP", "tcp"]})],
        Rule((L4Proto(("icmp", "icmpv6", "tcp")),)),
    ),
    "protocols by their numbers, as without /etc/protocols": (
        [match({"meta": {"key": "l4proto"}}, {"set": [1, 58, 6, 17, 132]})],
        Rule((L4Proto(("icmp", "icmpv6", "tcp", "udp", "sctp")),)),
    ),
    "a protocol that is none of ours": ([match({"meta": {"key": "l4proto"}}, 47)], Rule((L4Proto(("47",)),))),
    "a packet's way": ([match({"ct": {"key": "direction"}}, "reply")], Rule((CtDirectionIs("reply"),))),
    "a connection with an answer": (
        [match({"ct": {"key": "status"}}, "seen-reply", "in")],
        Rule((CtSeenReply(),)),
    ),
    "a named port on the way there": ([match(concat("dport"), "@p")], Rule((NamedPort(4, "p"),))),
    "a flow in a set": ([match(FLOW, "@w")], Rule((CtFlowInSet(4, "w"),))),
    "a flow's time that begins anew": (
        [{"set": {"op": "update", "elem": FLOW, "set": "@w"}}, {"drop": None}],
        Rule((SetUpdate(4, "w"),), verdict=Drop()),
    ),
    "a packet that says it is the node's": (
        [match({"fib": {"result": "type", "flags": ["saddr"]}}, "local")],
        Rule((FibLocalSource(),)),
    ),
    "a packet for a group, by its routes": (
        [match({"fib": {"result": "type", "flags": "daddr"}}, {"set": ["broadcast", "multicast"]})],
        Rule((MulticastAddress(),)),
    ),
    "a packet for one host, by its routes": (
        [match({"fib": {"result": "type", "flags": ["daddr"]}}, {"set": ["unicast", "local"]})],
        Rule((UnicastDestination(),)),
    ),
    "a packet for a group, by its link": (
        [match({"meta": {"key": "pkttype"}}, {"set": ["broadcast", "multicast"]})],
        Rule((MulticastFrame(),)),
    ),
    "a packet of a bridge, from another interface than these": (
        [match({"meta": {"key": "iifkind"}}, "bridge"), match({"meta": {"key": "iifname"}}, "@links", "!=")],
        Rule((FromBridge(), FromInterface("links", negated=True))),
    ),
    "a frame of a veth link with one of these EtherTypes": (
        [
            match({"payload": {"protocol": "ether", "field": "type"}}, {"set": ["ip6", 32821, "ip"]}),
            match({"meta": {"key": "iifkind"}}, "veth"),
        ],
        Rule((EtherType((0x800, 0x8035, 0x86DD)), FromVeth())),
    ),
    "a frame of one EtherType": (
        [match({"payload": {"protocol": "ether", "field": "type"}}, "arp")],
        Rule((EtherType((0x806,)),)),
    ),
    "a code by the name that another type has for it": (
        [match({"payload": {"protocol": "icmpv6", "field": "code"}}, "no-route")],
        Rule((Icmpv6Code(0),)),
    ),
    "a code by its number": (
        [match({"payload": {"protocol": "icmpv6", "field": "code"}}, 0)],
        Rule((Icmpv6Code(0),)),
    ),
    "a hop limit and a length": (
        [
            match({"payload": {"protocol": "ip6", "field": "hoplimit"}}, 255),
            match({"payload": {"protocol": "ip6", "field": "length"}}, 64, "<="),
        ],
        Rule((HopLimit(255), MaxPayload(64))),
    ),
    "an address and a range": (
        [
            match(
                {"payload": {"protocol": "ip6", "field": "saddr"}},
                {"set": ["::", {"prefix": {"addr": "fe80::", "len": 10}}]},
            )
        ],
        Rule((Within(IpAddress("saddr", 6), (single("::"), parse_cidr("fe80::/10"))),)),
    ),
    "a range alone": (
        [match({"payload": {"protocol": "ip6", "field": "daddr"}}, {"prefix": {"addr": "fe80::", "len": 10}})],
        Rule((Within(IpAddress("daddr", 6), (parse_cidr("fe80::/10"),)),)),
    ),
    "a source and an end of its connection": (
        [match({"concat": [SOURCE, {"ct": {"key": "ip saddr", "dir": "reply"}}]}, "@p")],
        Rule((PairInSet(CtAddress("server", 4), "p"),)),
    ),
    "a source that is not in a set with itself": (
        [match({"concat": [SOURCE, SOURCE]}, "@p", "!=")],
        Rule((PairInSet(IpAddress("saddr", 4), "p", negated=True),)),
    ),
    "one that came in from elsewhere": ([match({"meta": {"key": "iifname"}}, "lo", "!=")], Rule((NotLoopback(),))),
    "a named port on the way back": ([match(concat("sport"), "@p")], Rule((NamedPort(4, "p", "reply"),))),
}


@pytest.mark.parametrize(("expressions", "rule"), KNOWN.values(), ids=KNOWN)
def test_expressions_of_nfagent_are_parsed(expressions: list[Entry], rule: Rule) -> None:
    found = parse_ruleset(listing(TABLE, ours("chain", name="c"), ours("rule", chain="c", expr=expressions)))
    assert found.chains["c"].rules == (rule,)


RULES: dict[str, list[Entry]] = {
    "a match of a kind that we never write": [
        {"match": {"op": "==", "left": {"meta": {"key": "iifname"}}, "right": "lo"}}
    ],
    "a comparison that we never write": [{"match": {"op": "!=", "left": {"meta": {"key": "l4proto"}}, "right": "tcp"}}],
    "a family that is none of ours": [match({"meta": {"key": "nfproto"}}, "arp")],
    "a flow that is in no set": [match(FLOW, "@w", "!=")],
    "a flow that is added": [{"set": {"op": "add", "elem": FLOW, "set": "@w"}}],
    "an address that is remembered": [
        {"set": {"op": "update", "elem": {"payload": {"protocol": "ip", "field": "saddr"}}, "set": "@w"}}
    ],
    "a packet to this node": [match({"fib": {"result": "type", "flags": ["daddr"]}}, "local")],
    "another interface": [match({"meta": {"key": "iifname"}}, "eth0", "!=")],
    "a way that is none": [match({"ct": {"key": "direction"}}, "both")],
    "a packet that doesn't go a way": [match({"ct": {"key": "direction"}}, "reply", "!=")],
    "a named port that is not in a set": [match(concat("dport"), "@p", "!=")],
    "a named port of one protocol": [match(concat("dport", "tcp"), "@p")],
    "an anonymous counter": [{"counter": {"packets": 1, "bytes": 2}}, {"accept": None}],
    "a log without a group": [{"log": {"prefix": "x"}}],
    "a log behind its verdict": [{"accept": None}, {"log": {"prefix": "x", "group": 1}}],
    "two verdicts": [{"accept": None}, {"drop": None}],
    "a rejection": [{"reject": None}],
    "a masquerade to a set of ports": [{"masquerade": {"port": {"set": [5, 7]}}}],
    "a masquerade to an address": [{"masquerade": {"port": 5, "addr": "192.0.2.1"}}],
    "an expression of text": ["accept"],  # type: ignore[list-item]
}


@pytest.mark.parametrize("expressions", RULES.values(), ids=RULES)
def test_foreign_rules_are_unequal_to_those_of_nfagent_and_flushed(expressions: list[Entry]) -> None:
    chain = ours("chain", name="c")
    found = parse_ruleset(listing(TABLE, chain, ours("rule", chain="c", expr=expressions)))
    [rule] = found.chains["c"].rules
    assert any(isinstance(match, UnknownExpr) for match in rule.matches)
    assert diff(found, Ruleset(chains={"c": Chain()})) == (RewriteChain("c", found.chains["c"].rules, ()),)


def test_chains_hold_their_rules_in_order() -> None:
    hook = ours("chain", name="c", type="filter", hook="forward", prio=-1, policy="accept")
    rules = [ours("rule", chain="c", comment=str(number), expr=[{"accept": None}]) for number in range(3)]
    found = parse_ruleset(listing(TABLE, hook, *rules))
    expected = tuple(Rule(verdict=Accept(), comment=str(number)) for number in range(3))
    assert found.chains == {"c": Chain(expected, Hook("filter", "forward", -1))}


def test_counters_are_read_with_their_values() -> None:
    entries = listing(TABLE, ours("counter", name="deny/x", packets=3, bytes=180), ours("counter", name="y"))
    assert parse_counters(entries) == {"deny/x": CounterValue(3, 180), "y": CounterValue(0, 0)}
    assert parse_ruleset(entries).counters == {"deny/x", "y"}
    with pytest.raises(WireError, match="counter without packets and bytes"):
        parse_counters(listing(TABLE, ours("counter", name="x", packets=None)))
