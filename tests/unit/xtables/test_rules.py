from __future__ import annotations

import pytest

from nfagent.model.netaddr import Family
from nfagent.nftables.matches import (
    AddressInSet,
    CtAddress,
    IpAddress,
    L4Proto,
    Match,
    NextHopInSet,
    PacketPortIn,
    ServerPort,
    ServerPortIn,
    UnknownExpr,
)
from nfagent.nftables.objects import Accept, Drop, Goto, Jump, Log, NamedSet, PortRange, Return, Rule, Verdict
from nfagent.xtables.context import Reading, RuleContext
from nfagent.xtables.names import chain_name, set_name
from nfagent.xtables.options import LoweringOptions
from nfagent.xtables.rules import LoweredRule, lower_rule
from nfagent.xtables.text import rule_text

NUMBERS = NamedSet("ports", 4, frozenset({PortRange(80, 90), PortRange(443, 443)}))
PEER = AddressInSet(CtAddress("client", 4), "peers4/x")


def lowered(
    rule: Rule,
    reading: Reading = "original",
    *,
    base: bool = False,
    family: Family = 4,
    options: LoweringOptions = LoweringOptions(),  # noqa: B008 - frozen
) -> LoweredRule:
    context = RuleContext("ingress/shop/db", family, "mangle", base, reading, {"numbers/x": NUMBERS}, options)
    return lower_rule(rule, context)


def texts(rule: Rule, reading: Reading = "original", *, base: bool = False, family: Family = 4) -> list[str]:
    found = lowered(rule, reading, base=base, family=family)
    assert found.unavailable == ()
    return [rule_text("c", item).removeprefix("-A c ") for item in found.rules]


@pytest.mark.parametrize(
    ("reading", "sides"),
    [
        pytest.param("original", "src -m tcp --dport 80", id="of the client: source, and destination port"),
        pytest.param("reply", "dst -m tcp --sport 80", id="of the server: destination, and source port"),
    ],
)
def test_a_match_on_the_connection_is_one_on_the_header_by_the_packet_s_direction(reading: Reading, sides: str) -> None:
    rule = Rule((PEER, L4Proto(("tcp",)), ServerPort(80, 80)), verdict=Drop())
    assert texts(rule, reading) == [f"-p tcp -m set --match-set {set_name('peers4/x', 4)} {sides} -j DROP"]


def test_where_both_directions_come_the_rule_tells_them_apart() -> None:
    name = set_name("peers4/x", 4)
    assert texts(Rule((PEER,), verdict=Drop()), "either") == [
        f"-m conntrack --ctdir ORIGINAL -m set --match-set {name} src -j DROP",
        f"-m conntrack --ctdir REPLY -m set --match-set {name} dst -j DROP",
    ]


def test_rules_of_the_other_family_are_left_out_also_negated_ones() -> None:
    other = AddressInSet(IpAddress("saddr", 4), "peers4/x", negated=True)
    assert texts(Rule((other,), verdict=Drop()), family=6) == []


def test_a_base_chain_accepts_by_return_and_any_other_by_the_chain_that_marks() -> None:
    assert texts(Rule(verdict=Accept()), base=True) == ["-j RETURN"]
    assert texts(Rule(verdict=Accept())) == [f"-g {chain_name('accept')}"]


def test_behind_a_jump_what_was_accepted_there_returns() -> None:
    assert texts(Rule(verdict=Jump("admin/ingress/a"))) == [
        f"-j {chain_name('admin/ingress/a')}",
        "-m mark --mark 0x1000/0x1000 -j RETURN",
    ]


def test_a_log_is_a_rule_of_its_own_before_the_verdict() -> None:
    rule = Rule(
        (L4Proto(("udp",)),), log=Log("deny ingress shop/db", 100), verdict=Drop(), counter="deny/ingress/shop/db"
    )
    log, drop = texts(rule)
    assert log == '-p udp -j NFLOG --nflog-prefix "deny ingress shop/db" --nflog-group 100'
    assert drop.startswith("-p udp -m nfacct --nfacct-name nfa-deny-ingress")
    assert drop.endswith(" -j DROP")


@pytest.mark.parametrize(
    "match",
    [pytest.param(PacketPortIn("sctp", "numbers/x"), id="header"), pytest.param(ServerPortIn("numbers/x"), id="ct")],
)
def test_a_set_of_sctp_ports_is_a_rule_for_each_range(match: Match) -> None:
    rule = Rule((L4Proto(("sctp",)), match), verdict=Drop())
    assert texts(rule) == ["-p sctp -m sctp --dport 80:90 -j DROP", "-p sctp -m sctp --dport 443 -j DROP"]


@pytest.mark.parametrize(
    ("verdict", "left"),
    [
        pytest.param(Accept(), [], id="accept"),
        pytest.param(Goto("allow/ingress/shop/db"), [], id="a policy's allow"),
        pytest.param(Drop(), ["-p tcp -j DROP"], id="drop"),
        pytest.param(Return(), ["-p tcp -j DROP"], id="return, which may lead to an allow"),
        pytest.param(Goto("deny/ingress/shop/db"), ["-p tcp -j DROP"], id="a policy's deny"),
    ],
)
@pytest.mark.parametrize(
    "unknown", [pytest.param(NextHopInSet(4, "nodes4"), id="next hop"), pytest.param(UnknownExpr("{}"), id="unknown")]
)
def test_a_rule_with_a_match_that_iptables_lacks_allows_nothing_and_drops_no_less(
    unknown: Match, verdict: Verdict, left: list[str]
) -> None:
    found = lowered(Rule((unknown, L4Proto(("tcp",))), verdict=verdict))
    assert [rule_text("c", item).removeprefix("-A c ") for item in found.rules] == left
    assert [item.chain for item in found.unavailable] == ["ingress/shop/db"]


def test_a_word_with_spaces_and_quotes_stays_one_word() -> None:
    rule = Rule(verdict=Drop(), comment='a "b" \\c')
    assert texts(rule) == ['-m comment --comment "a \\"b\\" \\\\c" -j DROP']


def test_a_set_of_ports_that_needs_a_missing_match_for_its_protocol_closes_the_protocol() -> None:
    """Without the protocol it is a set, which every kernel has: neither match alone tells that both can't be had."""
    lacking = LoweringOptions(lacking=frozenset({(4, "sctp")}))
    rule = Rule((PEER, L4Proto(("sctp",)), ServerPortIn("numbers/x")), verdict=Drop())
    found = lowered(rule, options=lacking)
    assert [rule_text("c", item).removeprefix("-A c ") for item in found.rules] == [
        f"-p sctp -m set --match-set {set_name('peers4/x', 4)} src -j DROP"
    ]
    assert len(found.unavailable) == 1
