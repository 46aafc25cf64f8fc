"""Which masquerade and SNAT rules of other programs count as conflicts."""

from __future__ import annotations

import json
import struct

import pytest

from nfagent.model.netaddr import Range, parse_cidr, single, without
from nfagent.nftables.foreign_json import parse_rules, parse_texts
from nfagent.nftables.foreign_nat import NatConflict, TranslatedTraffic, find_conflicts, translated_traffic
from nfagent.nftables.foreign_rules import EVERY, ForeignTable, common, joined
from nfagent.nftables.foreign_xtables import XtMatch
from nfagent.nftables.iptables_save import parse_iptables_save
from nfagent.nftables.objects import ABSENT, Chain, Hook, NamedSet, Ruleset

PODS = (parse_cidr("10.244.1.0/24"),)
KEPT = (parse_cidr("10.0.0.0/8"), parse_cidr("172.16.0.0/12"), parse_cidr("192.168.0.0/16"))
TRAFFIC = TranslatedTraffic(PODS, KEPT)

KUBE_PROXY = """
:KUBE-POSTROUTING - [0:0]
-A POSTROUTING -m comment --comment "kubernetes postrouting rules" -j KUBE-POSTROUTING
-A KUBE-POSTROUTING -m mark ! --mark 0x4000/0x4000 -j RETURN
-A KUBE-POSTROUTING -j MARK --set-xmark 0x4000/0x0
-A KUBE-POSTROUTING -m comment --comment "kubernetes service traffic requiring SNAT" -j MASQUERADE --random-fully
"""
OLD_KUBE_PROXY = "-A POSTROUTING -m mark --mark 0x4000/0x4000 -j MASQUERADE"
DOCKER = """
-A POSTROUTING -s 172.17.0.0/16 ! -o docker0 -j MASQUERADE
-A POSTROUTING -s 172.17.0.2/32 -d 172.17.0.2/32 -p tcp -m tcp --dport 80 -j MASQUERADE
"""
DOCKER_LOCAL = "-A POSTROUTING -o docker0 -m addrtype --src-type LOCAL -j MASQUERADE"
PORTMAP = """
:CNI-HOSTPORT-MASQ - [0:0]
-A POSTROUTING -m comment --comment "CNI portfwd requiring masquerade" -j CNI-HOSTPORT-MASQ
-A CNI-HOSTPORT-MASQ -m mark --mark 0x2000/0x2000 -j MASQUERADE
"""
LIBVIRT = """
:LIBVIRT_PRT - [0:0]
-A POSTROUTING -j LIBVIRT_PRT
-A LIBVIRT_PRT -s 192.168.122.0/24 ! -d 192.168.122.0/24 -p tcp -j MASQUERADE --to-ports 1024-65535
-A LIBVIRT_PRT -s 192.168.122.0/24 ! -d 192.168.122.0/24 -j MASQUERADE
"""
SAME_LIST = """
:IP-MASQ - [0:0]
-A POSTROUTING -m comment --comment "ip-masq-agent: -j IP-MASQ" -m addrtype ! --dst-type LOCAL -j IP-MASQ
-A IP-MASQ -d 10.0.0.0/8 -j RETURN
-A IP-MASQ -d 172.16.0.0/12 -j RETURN
-A IP-MASQ -d 192.168.0.0/16 -j RETURN
-A IP-MASQ -j MASQUERADE
"""
SHORTER_LIST = """
:IP-MASQ - [0:0]
-A POSTROUTING -m addrtype ! --dst-type LOCAL -j IP-MASQ
-A IP-MASQ -d 10.0.0.0/8 -j RETURN
-A IP-MASQ -j MASQUERADE --random-fully
"""
FLANNEL = """
:FLANNEL-POSTRTG - [0:0]
-A POSTROUTING -m comment --comment "flanneld masq" -j FLANNEL-POSTRTG
-A FLANNEL-POSTRTG -m mark --mark 0x4000/0x4000 -m comment --comment "flanneld masq" -j RETURN
-A FLANNEL-POSTRTG -s 10.244.1.0/24 -d 10.244.0.0/16 -j RETURN
-A FLANNEL-POSTRTG -s 10.244.0.0/16 ! -d 224.0.0.0/4 -j MASQUERADE --random-fully
"""
BRIDGE_PLUGIN = """
:CNI-0a1b - [0:0]
-A POSTROUTING -s 10.244.1.5/32 -m comment --comment "name: \\"cbr0\\" id: \\"x\\"" -j CNI-0a1b
-A CNI-0a1b -d 10.0.0.0/8 -j ACCEPT
-A CNI-0a1b ! -d 224.0.0.0/4 -j MASQUERADE
"""
CALICO = "-A POSTROUTING -m set --match-set cali40masq-ipam-pools src -m set ! --match-set all dst -j MASQUERADE"
MARKED_HERE = """
-A POSTROUTING -s 10.244.0.0/16 -j MARK --set-xmark 0x4000/0x4000
-A POSTROUTING -m mark --mark 0x4000/0x4000 -j MASQUERADE
"""
GOTO = """
:A - [0:0]
:B - [0:0]
-A POSTROUTING -j A
-A A -g B
-A A -j MASQUERADE
-A B -d 10.0.0.0/8 -j RETURN
-A B -j ACCEPT
"""
LOOP = """
:A - [0:0]
-A POSTROUTING -j A
-A A -j A
"""


def conflicts(rules: str, traffic: TranslatedTraffic = TRAFFIC) -> tuple[NatConflict, ...]:
    saved = f"*filter\n-A POSTROUTING -j MASQUERADE\nCOMMIT\n*nat\n:POSTROUTING ACCEPT [0:0]\n{rules}\nCOMMIT\n"
    return find_conflicts([parse_iptables_save(saved, "iptables-legacy, table nat", 4, "iptables -S")], traffic)


@pytest.mark.parametrize(
    "rules",
    [
        pytest.param("", id="no rule"),
        pytest.param(KUBE_PROXY, id="kube-proxy's masquerade of marked packets"),
        pytest.param(OLD_KUBE_PROXY, id="the same in its older form"),
        pytest.param(DOCKER, id="Docker's rules for its own bridge"),
        pytest.param(DOCKER_LOCAL, id="a rule for the node's own addresses"),
        pytest.param(PORTMAP, id="the portmap plugin's masquerade of marked packets"),
        pytest.param(LIBVIRT, id="libvirt's rules for its own network"),
        pytest.param(SAME_LIST, id="ip-masq-agent with the list that nfagent has"),
        pytest.param("-A POSTROUTING -o lo -j MASQUERADE", id="a rule for the loopback interface"),
        pytest.param("-A POSTROUTING -d 10.0.0.0/8 -j ACCEPT", id="a rule that translates nothing"),
        pytest.param(
            "-A POSTROUTING -s 10.244.0.0/16 -d 192.0.2.0/24 -j MASQUERADE", id="masquerade of what nfagent masquerades"
        ),
        pytest.param(GOTO, id="a goto doesn't return to the chain that it leaves"),
        pytest.param(LOOP, id="chains that lead in a circle"),
    ],
)
def test_a_rule_is_no_conflict_where_pods_traffic_leaves_as_nfagent_sends_it(rules: str) -> None:
    assert conflicts(rules) == ()


@pytest.mark.parametrize(
    ("rules", "chain", "effect", "destinations", "certain"),
    [
        pytest.param(
            "-A POSTROUTING -j MASQUERADE",
            "POSTROUTING",
            "kept",
            "10.0.0.0/8, 172.16.0.0/12, 192.168.0.0/16",
            True,
            id="masquerade of everything",
        ),
        pytest.param(
            SHORTER_LIST, "IP-MASQ", "kept", "172.16.0.0/12, 192.168.0.0/16", True, id="ip-masq-agent, a shorter list"
        ),
        pytest.param(
            FLANNEL,
            "FLANNEL-POSTRTG",
            "kept",
            "10.0.0.0-10.243.255.255, 10.245.0.0-10.255.255.255, 172.16.0.0/12 and 1 more",
            True,
            id="flannel's masquerade",
        ),
        pytest.param(
            BRIDGE_PLUGIN, "CNI-0a1b", "kept", "172.16.0.0/12, 192.168.0.0/16", True, id="the bridge plugin's ipMasq"
        ),
        pytest.param(
            CALICO, "POSTROUTING", "kept", "10.0.0.0/8, 172.16.0.0/12, 192.168.0.0/16", False, id="a set of ipset"
        ),
        pytest.param(
            "-A POSTROUTING -d 10.0.0.0/8 -p tcp -j MASQUERADE", "POSTROUTING", "kept", "10.0.0.0/8", False, id="TCP"
        ),
        pytest.param(
            MARKED_HERE,
            "POSTROUTING",
            "kept",
            "10.0.0.0/8, 172.16.0.0/12, 192.168.0.0/16",
            False,
            id="a mark that the same chains set",
        ),
        pytest.param(
            "-A POSTROUTING -d 198.51.100.0/24 -j SNAT --to-source 192.0.2.9",
            "POSTROUTING",
            "source",
            "198.51.100.0/24",
            True,
            id="SNAT of what nfagent masquerades",
        ),
        pytest.param(
            "-A POSTROUTING ! -s 10.244.1.5/32 -d 10.1.0.0/16 -j NETMAP --to 192.0.2.0/24",
            "POSTROUTING",
            "kept",
            "10.1.0.0/16",
            True,
            id="a netmap with a negated source",
        ),
        pytest.param(
            "-A POSTROUTING -m iprange --src-range 10.244.1.9-10.244.1.20 -d 10.1.2.3 -j SNAT --to-source 192.0.2.9",
            "POSTROUTING",
            "kept",
            "10.1.2.3",
            True,
            id="a range of sources",
        ),
        pytest.param(
            "-A POSTROUTING -s 10.244.1.5/32 -j ACCEPT\n-A POSTROUTING -d 10.1.2.3 -j MASQUERADE",
            "POSTROUTING",
            "kept",
            "10.1.2.3",
            True,
            id="an exception for one Pod",
        ),
        pytest.param(
            "-A POSTROUTING -s nonsense -d 10.1.2.3 -j MASQUERADE",
            "POSTROUTING",
            "kept",
            "10.1.2.3",
            False,
            id="an address that can't be read",
        ),
    ],
)
def test_a_rule_is_a_conflict(rules: str, chain: str, effect: str, destinations: str, *, certain: bool) -> None:
    [found] = conflicts(rules)
    assert (found.chain, found.effect, found.destinations, found.certain) == (chain, effect, destinations, certain)


def test_the_message_names_table_chain_rule_and_what_to_do() -> None:
    [found] = conflicts(SHORTER_LIST)
    assert str(found) == (
        "iptables-legacy, table nat, chain IP-MASQ (from POSTROUTING): rule `-A IP-MASQ -j MASQUERADE --random-fully` "
        "translates traffic of Pods to 172.16.0.0/12, 192.168.0.0/16, which should keep the Pod's address"
    )
    assert found.fix == "delete the DaemonSet ip-masq-agent, whose place nfagent takes, and its chain"


def test_traffic_that_an_earlier_rule_translates_is_reported_once() -> None:
    found = conflicts("-A POSTROUTING -d 10.0.0.0/8 -j MASQUERADE\n-A POSTROUTING -j MASQUERADE")
    assert [item.destinations for item in found] == ["10.0.0.0/8", "172.16.0.0/12, 192.168.0.0/16"]


def test_many_exceptions_keep_the_findings() -> None:
    exceptions = "\n".join(f"-A POSTROUTING -s 10.244.1.{n}/32 -d 10.{n}.0.0/16 -j ACCEPT" for n in range(1, 200))
    assert conflicts(f"{exceptions}\n-A POSTROUTING -j MASQUERADE")[-1].effect == "kept"


def test_the_other_family_is_not_concerned() -> None:
    table = parse_iptables_save("*nat\n:POSTROUTING ACCEPT\n-A POSTROUTING -j MASQUERADE", "ip6tables", 6)
    assert find_conflicts([table], TRAFFIC) == ()


def test_a_pod_s_traffic_to_itself_is_meant_to_be_translated() -> None:
    assert conflicts("-A POSTROUTING -s 10.244.1.5/32 -d 10.244.1.5/32 -j MASQUERADE") == ()
    assert conflicts("-A POSTROUTING -s 10.244.1.5/32 -d 10.244.1.6/32 -j MASQUERADE") != ()


def marked(value: int, *, inverted: bool = False) -> XtMatch:
    return XtMatch("mark", 1, struct.pack("=IIB3x", value, 0x4000, inverted))


def of_types(source: int, destination: int, flags: int = 0, revision: int = 1) -> XtMatch:
    return XtMatch("addrtype", revision, struct.pack("=HHI", source, destination, flags))


XT = [
    pytest.param(of_types(4, 0), "masquerade", None, id="Docker's rule for the node's own sources: no finding"),
    pytest.param(of_types(0, 4), "masquerade", None, id="destinations of the node itself: no finding"),
    pytest.param(of_types(0, 4, 2), "masquerade", True, id="destinations other than the node: certain"),
    pytest.param(of_types(4, 0, 1), "masquerade", True, id="sources other than the node: certain"),
    pytest.param(of_types(0, 8), "masquerade", False, id="broadcast destinations: may"),
    pytest.param(of_types(4, 0, 4), "masquerade", False, id="local to one interface: may"),
    pytest.param(of_types(4, 0, revision=0), "masquerade", False, id="another revision of a match: may"),
    pytest.param(XtMatch("addrtype", 1, b"\4"), "masquerade", False, id="a structure that is cut off: may"),
    pytest.param(XtMatch("set", 4, bytes(8)), "masquerade", False, id="a set of ipset: may"),
    pytest.param(marked(0x4000), "masquerade", None, id="packets with a mark: no finding"),
    pytest.param(marked(0), "masquerade", True, id="packets without the mark: certain"),
    pytest.param(marked(0x4000), "return", True, id="packets with the mark return, the others are masqueraded"),
    pytest.param(marked(0x4000, inverted=True), "return", None, id="packets without the mark return: no finding"),
    pytest.param(None, "masquerade", False, id="a match whose structure isn't known: may"),
    pytest.param(None, "return", True, id="a return whose match isn't known keeps nothing away from the next rule"),
]


@pytest.mark.parametrize(("match", "action", "certain"), XT)
def test_a_match_of_iptables_nft_that_nft_lists_by_name_only(
    match: XtMatch | None, action: str, *, certain: bool | None
) -> None:
    name = match.name if match is not None else "mark"
    matched = {"rule": {"handle": 7, "expr": [{"xt": {"type": "match", "name": name}}, {action: None}]}}
    last = {"rule": {"handle": 8, "expr": [{"xt": {"type": "target", "name": "MASQUERADE"}}]}}
    listing = json.dumps({"nftables": [matched, last] if action == "return" else [matched]})
    matches = {7: (match,)} if match is not None else {}
    chains = {"POSTROUTING": parse_rules(listing, {}, {}, {}, matches)}
    found = find_conflicts([ForeignTable("table ip nat", 4, (("POSTROUTING", 100),), chains)], TRAFFIC)
    assert [item.certain for item in found] == ([] if certain is None else [certain])
    assert all(("may translate" in str(item)) is not certain for item in found)


def test_what_cannot_be_read_of_a_rule_of_iptables_nft_is_told_as_possible_among_what_can() -> None:
    names = ("comment", "set", "addrtype")
    expressions = [{"xt": {"type": "match", "name": name}} for name in names]
    matches = {1: (XtMatch("comment", 0, b""), XtMatch("set", 4, b""), of_types(0, 4, 2))}
    listing = json.dumps({"nftables": [{"rule": {"handle": 1, "expr": [*expressions, {"masquerade": None}]}}]})
    chains = {"POSTROUTING": parse_rules(listing, {}, {}, {}, matches)}
    [found] = find_conflicts([ForeignTable("table ip nat", 4, (("POSTROUTING", 100),), chains)], TRAFFIC)
    assert not found.certain
    never = {1: (*matches[1][:2], of_types(4, 0))}
    chains = {"POSTROUTING": parse_rules(listing, {}, {}, {}, never)}
    assert find_conflicts([ForeignTable("table ip nat", 4, (("POSTROUTING", 100),), chains)], TRAFFIC) == ()


def test_texts_of_rules_are_found_by_their_handles_alone() -> None:
    rules = ('\t\tcounter packets 3 bytes 9 comment "x # handle 3" masquerade # handle 7', "\t\taccept # handle \u00b2")
    lines = [
        "table ip nat { # handle 1",
        "\tchain X { # handle 2",
        *rules,
        f"\t\tdrop # handle {'9' * 5000}",
        "\t}",
        "}",
    ]
    assert parse_texts("\n".join(lines)) == {7: 'counter comment "x # handle 3" masquerade'}


@pytest.mark.parametrize(
    "text", ["", "*nat", "*nat\n-A", "*nat\n-A X -s", '*nat\n:POSTROUTING\n-A POSTROUTING "', "\0"]
)
def test_text_that_is_no_table_is_read_without_an_error(text: str) -> None:
    assert find_conflicts([parse_iptables_save(text, "x", 4)], TRAFFIC) == ()


def _branching(last: str) -> str:
    """Return sixteen levels of chains, each of which jumps to the next eight times: 8^16 paths to the last rules."""
    jumps = [
        f"-A {'POSTROUTING' if level == 0 else f'L{level}'} -d 10.{level}.{way}.0/24 -p tcp -j L{level + 1}"
        for level in range(16)
        for way in (1, 1, 1, 1, 2, 2, 2, 2)
    ]
    return "\n".join(["*nat", ":POSTROUTING ACCEPT", *(jump.replace("-d 10", "! -d 10") for jump in jumps), last])


def test_chains_with_more_paths_than_can_be_followed_have_each_rule_judged_once() -> None:
    text = _branching("-A L16 -d 10.9.0.0/16 -j MASQUERADE\n-A L16 -s 10.9.0.0/16 -j MASQUERADE")
    [found] = find_conflicts([parse_iptables_save(text, "x", 4)], TRAFFIC)
    assert (found.chain, found.destinations, found.certain) == ("L16", "10.9.0.0/16", False)


def test_a_mark_on_one_of_too_many_paths_counts_as_set() -> None:
    marked = "-A L16 -m mark --mark 0x4000/0x4000 -j MASQUERADE"
    assert find_conflicts([parse_iptables_save(_branching(marked), "x", 4)], TRAFFIC) == ()
    text = _branching(f"{marked}\n-A L16 -j MARK --set-xmark 0x4000/0x4000")
    assert [item.chain for item in find_conflicts([parse_iptables_save(text, "x", 4)], TRAFFIC)] == ["L16"]


def test_chains_that_lead_to_themselves_are_walked_to_an_end() -> None:
    text = "*nat\n:POSTROUTING\n" + "-A POSTROUTING -j POSTROUTING\n" * 40 + "-A POSTROUTING -j MASQUERADE\n"
    [found] = find_conflicts([parse_iptables_save(text, "x", 4)], TRAFFIC)
    assert found.chain == "POSTROUTING"


def test_the_traffic_is_that_of_the_sets_of_the_ruleset() -> None:
    sets = {
        f"{word}{parsed.family}": NamedSet("range", parsed.family, frozenset({parsed}))
        for word, parsed in {"pods": PODS[0], "cluster": KEPT[0], "nonmasq": KEPT[1]}.items()
    }
    chains = {"masquerade-pods": Chain((), Hook("nat", "postrouting", 100))}
    assert translated_traffic(Ruleset(sets=sets, chains=chains)) == TranslatedTraffic(PODS, KEPT[:2])
    by_policy = {**sets, "kept4/payments": NamedSet("range", 4, frozenset({single("198.51.100.1")}))}
    traffic = translated_traffic(Ruleset(sets=by_policy, chains=chains))
    assert traffic == TranslatedTraffic(PODS, (*KEPT[:2], single("198.51.100.1")))
    assert translated_traffic(Ruleset(sets=sets)) is None
    assert translated_traffic(ABSENT) is None


def test_common_and_other_addresses_of_both_families() -> None:
    left = (parse_cidr("10.0.0.0/8"), parse_cidr("2001:db8::/32"))
    right = (single("10.1.2.3"), parse_cidr("11.0.0.0/8"), parse_cidr("2001:db8:1::/48"))
    assert common(left, right) == (single("10.1.2.3"), parse_cidr("2001:db8:1::/48"))
    assert joined(without(left, right), common(left, right)) == left
    assert without(EVERY, EVERY) == ()
    assert common((Range(4, 0, 9),), (Range(4, 2, 3), Range(4, 5, 20))) == (Range(4, 2, 3), Range(4, 5, 9))
