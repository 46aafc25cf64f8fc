from __future__ import annotations

import pytest

from nfagent.model.netaddr import FAMILIES, Range, parse_cidr, single
from nfagent.nftables.matches import (
    AddressInSet,
    ConntrackState,
    CtAddress,
    CtDirectionIs,
    CtFlowInSet,
    CtUnconfirmed,
    EtherType,
    FamilyInSet,
    FamilyIs,
    FibLocalSource,
    Fragment,
    FromBridge,
    FromInterface,
    FromVeth,
    HopLimit,
    Icmpv6Code,
    Icmpv6Type,
    IpAddress,
    L4Proto,
    MaxPayload,
    MulticastAddress,
    MulticastFrame,
    NamedPort,
    NotLoopback,
    PacketNamedPort,
    PacketPort,
    PacketPortIn,
    PairInSet,
    ServerPort,
    ServerPortIn,
    SetUpdate,
    UnknownExpr,
    Within,
)
from nfagent.nftables.objects import (
    ABSENT,
    Accept,
    Chain,
    Drop,
    Goto,
    Hook,
    Jump,
    Log,
    Masquerade,
    NamedSet,
    Return,
    Rule,
    Ruleset,
    VmapLookup,
)
from nfagent.nftables.render import element_text, rule_text, set_properties, table_text

FLOW6 = "ip6 saddr . meta l4proto . th sport . ip6 daddr . th dport"


@pytest.mark.parametrize(
    ("rule", "written"),
    [
        (Rule((AddressInSet(CtAddress("client", 4), "s"),), verdict=Accept()), "ct original ip saddr @s accept"),
        (Rule((AddressInSet(CtAddress("server", 6), "s"),), verdict=Drop()), "ct reply ip6 saddr @s drop"),
        (Rule((AddressInSet(IpAddress("daddr", 4), "s", negated=True),)), "ip daddr != @s"),
        (Rule((L4Proto(("tcp",)), ServerPort(80, 80))), "meta l4proto tcp ct reply proto-src 80"),
        (Rule((L4Proto(("tcp", "udp")), ServerPort(1, 9))), "meta l4proto { tcp, udp } ct reply proto-src 1-9"),
        (Rule((L4Proto(("tcp",)), ServerPortIn("s"))), "meta l4proto tcp ct reply proto-src @s"),
        (Rule((PacketPortIn("sctp", "s"),)), "sctp dport @s"),
        (Rule((PacketPort("tcp", 80, 80), PacketPort("udp", 1, 9))), "tcp dport 80 udp dport 1-9"),
        (Rule((PacketNamedPort(6, "s"),)), "ip6 daddr . meta l4proto . th dport @s"),
        (Rule((Fragment(4), Fragment(6))), "ip frag-off & 0x1fff != 0 exthdr frag exists"),
        (Rule((NamedPort(6, "s"),)), "ct reply ip6 saddr . meta l4proto . th dport @s"),
        (
            Rule((CtDirectionIs("original"), NamedPort(4, "s"))),
            "ct direction original ct reply ip saddr . meta l4proto . th dport @s",
        ),
        (
            Rule((CtDirectionIs("reply"), NamedPort(4, "s", "reply"))),
            "ct direction reply ct reply ip saddr . meta l4proto . th sport @s",
        ),
        (
            Rule((FamilyInSet("s"), ConntrackState(("invalid", "untracked")))),
            "meta nfproto @s ct state invalid,untracked",
        ),
        (Rule((FamilyInSet("s", negated=True), ConntrackState(("invalid",)))), "meta nfproto != @s ct state invalid"),
        (Rule((CtUnconfirmed(), Icmpv6Type(("nd-redirect",)))), "ct status ! confirmed icmpv6 type nd-redirect"),
        (
            Rule((), "deny/x", Log("deny x", 100), Goto("c"), "why"),
            'counter name "deny/x" log prefix "deny x" group 100 goto c comment "why"',
        ),
        (
            Rule((ConntrackState(("new",)), CtFlowInSet(6, "s"), SetUpdate(6, "s")), "c", verdict=Drop()),
            f'ct state new {FLOW6} @s update @s {{ {FLOW6} }} counter name "c" drop',
        ),
        (Rule((NotLoopback(), FibLocalSource()), verdict=Drop()), 'iifname != "lo" fib saddr type local drop'),
        (
            Rule((PairInSet(CtAddress("server", 6), "s"), PairInSet(IpAddress("saddr", 4), "t", negated=True))),
            "ip6 saddr . ct reply ip6 saddr @s ip saddr . ip saddr != @t",
        ),
        (
            Rule((Within(IpAddress("saddr", 6), (single("::"), parse_cidr("fe80::/10"))), HopLimit(1), Icmpv6Code(0))),
            "ip6 saddr { ::, fe80::/10 } ip6 hoplimit 1 icmpv6 code 0",
        ),
        (
            Rule((Within(IpAddress("daddr", 6), (parse_cidr("fe80::/10"),)), MaxPayload(64))),
            "ip6 daddr fe80::/10 ip6 length <= 64",
        ),
        (
            Rule((MulticastFrame(), FromBridge(), FamilyIs(4), MulticastAddress())),
            (
                'meta pkttype { broadcast, multicast } meta iifkind "bridge" '
                "meta nfproto ipv4 fib daddr type { broadcast, multicast }"
            ),
        ),
        (Rule((FromInterface("links", negated=True),)), "iifname != @links"),
        (
            Rule((EtherType((0x800, 0x806, 0x8035, 0x86DD)), FromVeth())),
            'ether type { ip, arp, 0x8035, ip6 } meta iifkind "veth"',
        ),
        (Rule((EtherType((0x806,)),)), "ether type arp"),
        (Rule(verdict=Jump("c")), "jump c"),
        (Rule(verdict=Return()), "return"),
        (Rule(verdict=VmapLookup(IpAddress("saddr", 6), "m")), "ip6 saddr vmap @m"),
        (Rule(verdict=Masquerade(random_fully=True)), "masquerade fully-random"),
        (Rule(verdict=Masquerade(random_fully=False)), "masquerade"),
        (Rule((UnknownExpr("{}"),)), "# not nfagent's: {}"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_rule(rule: Rule, written: str) -> None:
    assert rule_text(rule) == written


def test_elements() -> None:
    assert element_text("10.0.0.1") == "10.0.0.1"
    assert element_text(parse_cidr("10.0.0.0/8")) == "10.0.0.0/8"
    assert element_text(Range(4, 1, 3)) == "0.0.0.1-0.0.0.3"
    assert element_text(("10.0.0.1", "10.0.0.2")) == "10.0.0.1 . 10.0.0.2"
    assert element_text(("10.0.0.1", "tcp", 80)) == "10.0.0.1 . tcp . 80"
    assert [element_text(family) for family in FAMILIES] == ["ipv4", "ipv6"]
    assert element_text(("10.0.0.1", "udp", 53, "10.0.0.2", 4000)) == "10.0.0.1 . udp . 53 . 10.0.0.2 . 4000"


def test_a_set_of_flows_forgets_them_by_itself() -> None:
    assert list(set_properties(NamedSet("flow", 6, comment="why"))) == [
        "type ipv6_addr . inet_proto . inet_service . ipv6_addr . inet_service",
        "size 65536",
        "flags dynamic,timeout",
        "timeout 300s",
        'comment "why"',
    ]


def test_a_set_of_pairs_is_in_order() -> None:
    pairs = frozenset({("10.0.0.10", "10.0.0.10"), ("10.0.0.9", "10.0.0.9"), ("10.0.0.9", "10.0.0.10")})
    text = table_text(Ruleset({"pairs": NamedSet("pair", 4, pairs)}))
    assert [line.strip(" \t,") for line in text.splitlines()[2:-3]] == [
        *("type ipv4_addr . ipv4_addr", "elements = {"),
        *("10.0.0.9 . 10.0.0.9", "10.0.0.9 . 10.0.0.10", "10.0.0.10 . 10.0.0.10"),
    ]


def test_a_set_of_families_is_of_no_family() -> None:
    text = table_text(Ruleset({"rechecking": NamedSet("family", 4, frozenset(FAMILIES), "why")}))
    assert text.splitlines()[1:-1] == [
        "\tset rechecking {",
        "\t\ttype nf_proto",
        '\t\tcomment "why"',
        "\t\telements = {",
        "\t\t\tipv4,",
        "\t\t\tipv6",
        "\t\t}",
        "\t}",
    ]


def test_a_chain_is_rendered_after_the_chains_that_it_refers_to() -> None:
    leads = {
        "egress/shop/db": (Jump("admin/egress/anp.a"), Goto("deny/egress/shop/db")),
        "egress/baseline_banp.default": (Goto("baseline/egress/banp.default"),),
        "admin/egress/anp.a": (Goto("allow/egress/anp.a"), Return()),
        "baseline/egress/banp.default": (Goto("deny/egress/banp.default"),),
    }
    ends = ("allow/egress/anp.a", "deny/egress/banp.default", "deny/egress/shop/db")
    chains = {name: Chain(tuple(Rule(verdict=verdict) for verdict in verdicts)) for name, verdicts in leads.items()}
    chains |= {name: Chain((Rule(verdict=Drop()),)) for name in ends}
    chains["forward-egress"] = Chain((Rule(verdict=Goto("stray-egress")),), Hook("filter", "forward", -2))
    chains["stray-egress"] = Chain()
    lines = table_text(Ruleset(chains=chains)).splitlines()
    declared = [line.split()[1] for line in lines if line.startswith("\tchain ")]
    assert sorted(declared) == sorted(chains)
    for name, chain in chains.items():
        targets = [rule.verdict.chain for rule in chain.rules if isinstance(rule.verdict, Goto | Jump)]
        assert all(declared.index(target) < declared.index(name) for target in targets)


def test_a_table_sorts_addresses_by_number_and_explains_them() -> None:
    elements: frozenset[str] = frozenset({"10.0.0.10", "10.0.0.9"})
    ruleset = Ruleset(sets={"peers4/1": NamedSet("address", 4, elements, "pods")}, foreign=frozenset({("map", "x")}))
    known = {"10.0.0.9": "shop/web"}
    assert table_text(ruleset, lambda address: known.get(address, "")).splitlines() == [
        "table inet nfagent {",
        "\tset peers4/1 {",
        "\t\ttype ipv4_addr",
        '\t\tcomment "pods"',
        "\t\telements = {",
        "\t\t\t10.0.0.9,  # shop/web",
        "\t\t\t10.0.0.10",
        "\t\t}",
        "\t}",
        "",
        "\t# not nfagent's: map x",
        "}",
    ]


def test_an_absent_table_is_rendered_as_a_comment() -> None:
    assert table_text(ABSENT) == "# there is no table inet nfagent\n"


def test_a_foreign_name_with_a_newline_is_escaped() -> None:
    named = "x\nadd rule inet nfagent y accept\x1b[2J"
    text = table_text(
        Ruleset(
            chains={"y": Chain(rules=(Rule((UnknownExpr(named),), comment=named),))},
            sets={"s": NamedSet("address", 4, frozenset(), named)},
            foreign=frozenset({("map", named)}),
        )
    )
    assert not [line for line in text.splitlines() if line.startswith("add")]
    assert text.replace("\n", "").replace("\t", "").isprintable()
