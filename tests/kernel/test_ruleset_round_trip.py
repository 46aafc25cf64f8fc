"""Rulesets in a real kernel: the loaded ruleset is read back unchanged."""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml
from hypothesis import given, settings

from nfagent.desired.state import DesiredState
from nfagent.model.gvk import Item
from nfagent.nftables.diff import diff
from nfagent.nftables.matches import Fragment, PacketPortIn, ServerPortIn
from nfagent.nftables.objects import ABSENT, Ruleset
from nfagent.nftables.parse import parse_ruleset
from nfagent.nftables.render import table_text
from nfagent.nftables.transaction import AddRule, Transaction, transaction_text
from tests.properties.strategies import desired, worlds
from tests.support.two_node_cluster import DECODERS, Document, TwoNodeCluster, labelled, pod, policy, port, tier_policy

pytestmark = pytest.mark.kernel

GOLDENS = sorted((Path(__file__).parents[1] / "golden").glob("*.yaml"))
NEIGHBOUR = 'table ip nfagent {\n\tchain ours {\n\t\tcomment "another family\'s table of the same name"\n\t}\n}\n'
_SECONDS = 60


# Hides the names of protocols from a command, in a mount namespace that ends with it.
_NAMELESS = ("unshare", "--mount", "sh", "-c", '[ ! -e /etc/protocols ] || mount --bind /dev/null /etc/protocols; "$@"')


class NftNamespace:
    """nftables of one network namespace; `nameless`: without /etc/protocols, as in a small container image."""

    def __init__(self, namespace: str, *, nameless: bool = False) -> None:
        self.namespace = namespace
        self.prefix = ["ip", "netns", "exec", namespace, *((*_NAMELESS, "sh") if nameless else ())]

    def nft(self, *arguments: str, text: str = "") -> str:
        command = [*self.prefix, "nft", *arguments]
        done = subprocess.run(command, input=text, capture_output=True, text=True, check=False, timeout=_SECONDS)
        assert done.returncode == 0, f"{' '.join(arguments)}: {done.stderr}{text}"
        return done.stdout

    def apply(self, transaction: Transaction) -> None:
        if transaction:
            self.nft("-f", "-", text=transaction_text(transaction))

    def ruleset(self) -> Ruleset:
        return parse_ruleset(json.loads(self.nft("-j", "list", "ruleset")))

    def start_with(self, ruleset: Ruleset) -> None:
        self.nft("-f", "-", text=f"flush ruleset\n{NEIGHBOUR}{transaction_text(diff(ABSENT, ruleset))}")


@pytest.fixture(scope="module")
def kernel() -> Iterator[NftNamespace]:
    namespace = f"nfagent-ruleset-{os.getpid()}"
    subprocess.run(["ip", "netns", "add", namespace], check=True, timeout=_SECONDS)
    try:
        yield NftNamespace(namespace)
    finally:
        subprocess.run(["ip", "netns", "del", namespace], check=True, timeout=_SECONDS)


def golden(manifests: Path) -> Ruleset:
    view = DesiredState("a")
    for document in yaml.safe_load_all(manifests.read_text()):
        item = DECODERS[document["kind"]](document)
        assert item is not None
        view.put(item)
    return view.ruleset()


@pytest.mark.parametrize("manifests", GOLDENS, ids=lambda path: path.stem)
def test_a_golden_is_read_back_as_it_was_loaded(kernel: NftNamespace, manifests: Path) -> None:
    ruleset = golden(manifests)
    kernel.start_with(ruleset)
    assert kernel.ruleset() == ruleset
    assert diff(kernel.ruleset(), ruleset) == ()


@pytest.mark.parametrize("manifests", GOLDENS, ids=lambda path: path.stem)
def test_a_goldens_text_loads_as_the_same_table(kernel: NftNamespace, manifests: Path) -> None:
    kernel.nft("flush", "ruleset")
    kernel.nft("-f", str(manifests.with_suffix(".nft")))
    assert kernel.ruleset() == golden(manifests)


@pytest.mark.parametrize("manifests", GOLDENS, ids=lambda path: path.stem)
def test_a_golden_loads_and_is_read_back_without_names_of_protocols(kernel: NftNamespace, manifests: Path) -> None:
    nameless = NftNamespace(kernel.namespace, nameless=True)
    ruleset = golden(manifests)
    nameless.start_with(ruleset)
    assert nameless.ruleset() == kernel.ruleset() == ruleset
    nameless.nft("-c", "-f", str(manifests.with_suffix(".nft")))


def test_protocols_are_listed_by_number_where_their_names_are_hidden(kernel: NftNamespace) -> None:
    """Otherwise the tests above compare names with names."""
    kernel.start_with(SCENE)
    nameless = NftNamespace(kernel.namespace, nameless=True).nft("list", "table", "inet", "nfagent")
    assert "l4proto { 1, 58 }" in nameless
    assert "l4proto { icmp, ipv6-icmp }" in kernel.nft("list", "table", "inet", "nfagent")


def test_what_judges_packets_without_a_connection_is_read_back_as_it_was_loaded(kernel: NftNamespace) -> None:
    ports: list[Document] = [
        {"portNumber": {"protocol": "UDP", "port": 53}},
        {"portRange": {"protocol": "TCP", "start": 1, "end": 9}},
    ]
    named: Document = {"namedPort": "http"}
    rule = {"action": "Deny", "from": [{"namespaces": {}}], "ports": [*ports, named]}
    guard = tier_policy("AdminNetworkPolicy", "guard", {"namespaces": {}}, priority=1, ingress=[rule])
    ruleset = TwoNodeCluster(WEB, DB, guard).views["a"].ruleset()
    assert {Fragment(4), Fragment(6)} <= {
        match for rule in ruleset.chains[f"stray/{SECTION}"].rules for match in rule.matches
    }
    kernel.start_with(ruleset)
    assert kernel.ruleset() == ruleset
    kernel.nft("-c", "-f", "-", text=table_text(ruleset))


def test_a_second_policy_set_of_an_address_is_added_and_deleted_with_its_maps_and_base_chains(
    kernel: NftNamespace,
) -> None:
    alone = TwoNodeCluster(WEB, policy("shop/p", labelled(app="web"), **RULES), policy("ops/q", types=["Ingress"]))
    shared = TwoNodeCluster(WEB, policy("shop/p", labelled(app="web"), **RULES), policy("ops/q", types=["Ingress"]))
    shared.put(pod("ops/twin", "a", 10))
    before, after = alone.views["a"].ruleset(), shared.views["a"].ruleset()
    kernel.start_with(before)
    kernel.apply(diff(before, after))
    assert kernel.ruleset() == after
    kernel.apply(diff(after, before))
    assert kernel.ruleset() == before


@settings(max_examples=20)
@given(world=worlds())
def test_a_random_ruleset_is_read_back_as_it_was_loaded(kernel: NftNamespace, world: list[Item]) -> None:
    ruleset = desired("a", world).ruleset()
    kernel.start_with(ruleset)
    assert kernel.ruleset() == ruleset
    kernel.nft("-c", "-f", "-", text=table_text(ruleset))


@settings(max_examples=20)
@given(first=worlds(), second=worlds())
def test_the_difference_turns_one_ruleset_into_the_other(
    kernel: NftNamespace, first: list[Item], second: list[Item]
) -> None:
    before, after = (desired("a", world).ruleset() for world in (first, second))
    kernel.start_with(before)
    kernel.apply(diff(before, after))
    assert kernel.ruleset() == after
    kernel.apply(diff(after, ABSENT))
    assert kernel.ruleset() == ABSENT
    assert kernel.nft("list", "ruleset") == NEIGHBOUR


WEB = pod("shop/web", "a", 10, (port(80, "http"),), app="web")
DB = pod("shop/db", "a", 11, app="db")
RULES: Document = {
    "ingress": [
        {"from": [{"podSelector": labelled(app="db")}], "ports": [{"port": 80}]},
        {"from": [{"ipBlock": {"cidr": "203.0.113.0/24"}}], "ports": [{"port": "http"}]},
    ]
}
CHAIN = "ingress/admin_anp.guard/shop/p"
SECTION = "admin/ingress/anp.guard"
MINE = "add chain inet nfagent mine\n"


def peers(ruleset: Ruleset, word: str = "peers4/") -> str:
    return next(name for name in ruleset.sets if name.startswith(word))


ALL_NAMESPACES: Document = {"namespaces": {}}
GUARD = tier_policy(
    "AdminNetworkPolicy",
    "guard",
    ALL_NAMESPACES,
    priority=1,
    ingress=[
        {
            "action": "Pass",
            "from": [{"namespaces": {"matchLabels": {"team": "red"}}}],
            "ports": [{"namedPort": "http"}],
        },
        {"action": "Deny", "from": [{"pods": {"namespaceSelector": {}, "podSelector": labelled(app="bad")}}]},
    ],
    egress=[{"action": "Allow", "to": [{"nodes": {}}]}, {"action": "Deny", "to": [{"networks": ["198.18.0.0/15"]}]}],
)
FLOOR = tier_policy(
    "BaselineAdminNetworkPolicy", "default", ALL_NAMESPACES, egress=[{"action": "Deny", "to": [ALL_NAMESPACES]}]
)
NAT: Document = {
    "kind": "EgressNATPolicy",
    "metadata": {"name": "web"},
    "spec": {
        "action": "NoSNAT",
        "destinations": [{"cidr": "203.0.113.0/24"}],
        "sources": [{"podSelector": {"matchLabels": {"app": "web"}}}],
    },
}
VIEW = TwoNodeCluster(WEB, DB, policy("shop/p", labelled(app="web"), **RULES), GUARD, FLOOR, NAT).views["a"]
VIEW.recheck_all()
SCENE = VIEW.ruleset()
PEERS = next(name for name, item in SCENE.sets.items() if item.comment == "pods app=db in namespace shop")
BLOCKS = next(name for name, item in SCENE.sets.items() if item.comment == "203.0.113.0/24")

UNUSED_PEERS = f"flush chain inet nfagent {CHAIN}\nflush chain inet nfagent stray/{CHAIN}\n"


def with_option(kind: str, name: str, option: str) -> str:
    """Recreate an own set or map with its elements, the rules that name it, and one more option."""
    table = Ruleset(SCENE.sets, SCENE.maps, SCENE.chains, SCENE.counters)
    users = [chain for chain, found in SCENE.chains.items() if any(repr(name) in repr(rule) for rule in found.rules)]
    made = [command.text() for command in diff(ABSENT, table) if name in command.text().split()]
    made = [text.replace("size 65536;", "") if "size 2" in option else text for text in made]
    made[0] = made[0].replace("type ", f"{option}; type ", 1)
    rules = [AddRule(chain, rule).text() for chain in users for rule in SCENE.chains[chain].rules]
    flushed = [f"flush chain inet nfagent {chain}" for chain in users]
    going = [f"flush {kind} inet nfagent {name}", f"delete {kind} inet nfagent {name}"]
    return "".join(f"{line}\n" for line in (*flushed, *going, *made, *rules))


DAMAGE = {
    "a foreign rule before ours": "insert rule inet nfagent forward-ingress accept",
    "a foreign rule behind ours": "add rule inet nfagent forward-ingress counter drop",
    "a foreign rule with our own words": f"insert rule inet nfagent {CHAIN} tcp dport 22 accept",
    "a foreign set": "add set inet nfagent mine { type ipv4_addr; flags timeout; }",
    "a foreign set of a type that we use": "add set inet nfagent mine { type ipv4_addr; elements = { 10.0.0.1 }; }",
    "a foreign map": "add map inet nfagent mine { type ipv4_addr : mark; elements = { 10.0.0.1 : 5 }; }",
    "a foreign chain": f"{MINE}add rule inet nfagent mine ip saddr 10.0.0.1 drop",
    "a foreign chain that our own jumps to": f"{MINE}insert rule inet nfagent forward-egress jump mine",
    "a foreign base chain": "add chain inet nfagent mine { type filter hook input priority 0; policy drop; }",
    "a foreign counter": "add counter inet nfagent mine",
    "a foreign quota": "add quota inet nfagent mine { over 5 bytes; }",
    "a foreign quota that a rule in our chain asks": "add quota inet nfagent mine { over 5 bytes; }\n"
    f"insert rule inet nfagent {CHAIN} quota name mine drop",
    "a foreign quota that a foreign chain asks by a map": "add quota inet nfagent mine { over 5 bytes; }\n"
    "add map inet nfagent whose { type ipv4_addr : quota; elements = { 10.0.0.1 : mine }; }\n"
    "add chain inet nfagent guard { type filter hook forward priority 5; policy drop; }\n"
    "add rule inet nfagent guard quota name ip saddr map @whose drop\n"
    f"{MINE}add rule inet nfagent mine quota name mine drop\nadd rule inet nfagent guard jump mine",
    "a foreign limit": "add limit inet nfagent mine { rate 5/second; }\n"
    f"insert rule inet nfagent {CHAIN} limit name mine drop",
    "a foreign ct helper": 'add ct helper inet nfagent mine { type "ftp" protocol tcp; }\n'
    f'insert rule inet nfagent {CHAIN} ct helper set "mine"',
    "a foreign ct timeout": "add ct timeout inet nfagent mine { protocol tcp; policy = { established : 100 }; }",
    "a foreign ct expectation": "add ct expectation inet nfagent mine "
    "{ protocol tcp; dport 5432; timeout 1h; size 12; l3proto ip; }",
    "a foreign synproxy": "add synproxy inet nfagent mine { mss 1460; wscale 7; timestamp sack-perm }",
    "two foreign chains, a map between them, and a set": f"{MINE}add chain inet nfagent yours\n"
    "add map inet nfagent m { type ipv4_addr : verdict; flags interval; elements = { 10.0.0.0/8 : jump yours }; }\n"
    "add set inet nfagent s { type ipv4_addr; flags timeout; }\n"
    "add rule inet nfagent mine ip saddr vmap @m\nadd rule inet nfagent yours ip saddr @s drop\n"
    f"insert rule inet nfagent {CHAIN} jump mine",
    "a set of ours with a timeout": f"{UNUSED_PEERS}delete set inet nfagent {PEERS}\n"
    f"add set inet nfagent {PEERS} {{ type ipv4_addr; flags timeout; }}\n"
    f"add rule inet nfagent {CHAIN} ct original ip saddr @{PEERS} accept",
    "a set of ours of the other family": f"{UNUSED_PEERS}delete set inet nfagent {PEERS}\n"
    f"add set inet nfagent {PEERS} {{ type ipv6_addr; }}\n"
    f"add rule inet nfagent {CHAIN} ct original ip6 saddr @{PEERS} accept",
    **{
        f"a set of ours {words}": with_option("set", PEERS, option)
        for words, option in {
            "that is full": "size 1",
            "that is kept in another structure": "policy memory",
            "that lets one packet a day match": "limit rate 1/day",
            "that counts": "counter",
            "that is constant": "flags constant",
        }.items()
    },
    "an element of ours with a comment": f"delete element inet nfagent {PEERS} {{ 10.64.0.11 }}\n"
    f'add element inet nfagent {PEERS} {{ 10.64.0.11 comment "mine" }}',
    "an element that means every address": f"add element inet nfagent {PEERS} {{ * }}",
    "a map of ours that lets pass": "flush map inet nfagent ingress4\n"
    "add element inet nfagent ingress4 { 10.64.0.10 : accept }",
    "a map of ours that lets every other address pass": "add element inet nfagent ingress4 { * : accept }",
    **{
        f"a map of ours {words}": with_option("map", "egress4", option)
        for words, option in {
            "that is full": "size 2",
            "that is kept in another structure": "policy memory",
            "whose elements end": "flags timeout; timeout 1d",
            "with a comment": 'comment "mine"',
        }.items()
    },
    "a set of reply tuples of size 2": with_option("set", "revoked6", "size 2"),
    "a set of ours in a map's place": f"{UNUSED_PEERS}delete set inet nfagent {PEERS}\n"
    f"add map inet nfagent {PEERS} {{ type ipv4_addr : verdict; }}",
    "a map of ours that jumps": "flush map inet nfagent ingress4\n"
    f"add element inet nfagent ingress4 {{ 10.64.0.10 : jump {CHAIN} }}",
    "a base chain of ours at another hook": "flush chain inet nfagent output-revoked\n"
    "delete chain inet nfagent output-revoked\n"
    "add chain inet nfagent output-revoked { type filter hook input priority 7; policy accept; }",
    "a base chain of ours that is none any more": "flush chain inet nfagent output-revoked\n"
    "delete chain inet nfagent output-revoked\nadd chain inet nfagent output-revoked\n"
    "insert rule inet nfagent stray-egress jump output-revoked",
    "a rule that leaves a connection untracked": "insert rule inet nfagent forward-egress notrack",
    "a rule that returns before ours": "insert rule inet nfagent forward-egress return",
    "a rule with a chain of its own": "insert rule inet nfagent forward-egress jump { accept; }",
    "a rule that adds to a set of ours": f"insert rule inet nfagent forward-egress add @{PEERS} {{ ip saddr }}",
    "a rule that gives a ct timeout": "add ct timeout inet nfagent mine "
    "{ protocol tcp; policy = { established : 100 }; }\n"
    'insert rule inet nfagent forward-egress ct timeout set "mine"',
    "our rules in another order": "flush chain inet nfagent forward-egress\n"
    + "".join(AddRule("forward-egress", rule).text() + "\n" for rule in reversed(SCENE.chains["forward-egress"].rules)),
    "a foreign base chain of an interface": "add chain inet nfagent mine "
    "{ type filter hook ingress device lo priority 0; policy drop; }",
    "a base chain of ours with another name": "rename chain inet nfagent forward-egress mine",
    "a base chain of ours at another priority": "flush chain inet nfagent output-revoked\n"
    "delete chain inet nfagent output-revoked\n"
    "add chain inet nfagent output-revoked { type filter hook output priority 5; policy accept; }",
    "our table put to sleep": "add table inet nfagent { flags dormant; }",
    "an altered rule": f"flush chain inet nfagent {CHAIN}\n"
    f"add rule inet nfagent {CHAIN} ct original ip saddr @{PEERS} accept",
    "a section that is left at once": f"insert rule inet nfagent {SECTION} return",
    "a section that is flushed": f"flush chain inet nfagent {SECTION}",
    "a policy set without tiers any more": f"flush chain inet nfagent {CHAIN}\n"
    f"add rule inet nfagent {CHAIN} goto deny/ingress/shop/p",
    "an outcome that lets pass": "insert rule inet nfagent deny/ingress/anp.guard accept",
    "[32] an address under re-check taken out": "delete element inet nfagent recheck4 { 10.64.0.10 }",
    "[32] an address put under re-check": "add element inet nfagent recheck6 { 2001:db8::1 }",
    "[32] a family that is judged again no longer": "delete element inet nfagent rechecking { ipv6 }",
    "some rules of several": "flush chain inet nfagent stray-egress\n"
    "add rule inet nfagent stray-egress ip saddr vmap @egress4",
    "[44] base chains flushed": "flush chain inet nfagent forward-egress\nflush chain inet nfagent forward-ingress",
    "[44] our table deleted": "delete table inet nfagent",
    "[44] the whole ruleset flushed": "flush ruleset",
    "our table emptied": "delete table inet nfagent\nadd table inet nfagent",
    "our table flushed": "flush table inet nfagent",
    "[27] an element deleted": f"delete element inet nfagent {PEERS} {{ 10.64.0.11 }}",
    "an element added": f"add element inet nfagent {PEERS} {{ 10.64.0.12 }}",
    "a range cut": f"delete element inet nfagent {BLOCKS} {{ 203.0.113.0/24 }}\n"
    f"add element inet nfagent {BLOCKS} {{ 203.0.113.0/25, 203.0.113.200 }}",
    "a Pod taken out of its map": f"delete element inet nfagent ingress4 {{ 10.64.0.10 : goto {CHAIN} }}",
    "a Pod sent elsewhere": f"delete element inet nfagent ingress4 {{ 10.64.0.10 : goto {CHAIN} }}\n"
    "add chain inet nfagent mine\nadd element inet nfagent ingress4 { 10.64.0.10 : goto mine }",
    "a base chain that drops": "add chain inet nfagent forward-ingress "
    "{ type filter hook forward priority -1; policy drop; }",
    "masquerade taken away": "flush chain inet nfagent masquerade-pods\ndelete chain inet nfagent masquerade-pods",
}


COUNTED = "deny/ingress/shop/p"
REVOKED = "10.64.0.10 . tcp . 80 . 10.64.0.11 . 4711"


@pytest.mark.parametrize("commands", DAMAGE.values(), ids=DAMAGE)
def test_44_changes_by_other_programs_are_repaired_and_own_objects_stay(kernel: NftNamespace, commands: str) -> None:
    kernel.start_with(SCENE)
    # Nothing but packets counts: what was counted is put there, as a packet would have put it.
    kernel.nft(
        "-f",
        "-",
        text=f"delete table inet nfagent\nadd table inet nfagent\n"
        f"add counter inet nfagent {COUNTED} {{ packets 7 bytes 420; }}\n"
        f"{transaction_text(diff(Ruleset(), SCENE))}"
        f"add element inet nfagent revoked4 {{ {REVOKED} }}\n",
    )
    kernel.nft("-f", "-", text=f"{commands}\n")
    found = kernel.ruleset()
    repair = diff(found, SCENE)
    assert repair != ()
    kernel.apply(repair)
    assert kernel.ruleset() == SCENE
    if not commands.startswith(("delete table", "flush ruleset")):
        assert "packets 7 bytes 420" in kernel.nft("list", "counter", "inet", "nfagent", COUNTED)
        assert REVOKED in kernel.nft("list", "set", "inet", "nfagent", "revoked4")
    assert "dormant" not in kernel.nft("list", "table", "inet", "nfagent")


def loads(kernel: NftNamespace, *documents: Document) -> Ruleset:
    ruleset = TwoNodeCluster(WEB, DB, *documents).views["a"].ruleset()
    kernel.start_with(ruleset)
    assert kernel.ruleset() == ruleset
    return ruleset


def test_32_addresses_to_check_again_are_added_with_the_change_and_removed_by_a_later_transaction(
    kernel: NftNamespace,
) -> None:
    scene = TwoNodeCluster(WEB, DB, policy("shop/p", labelled(app="web"), **RULES))
    view = scene.views["a"]
    kernel.start_with(view.ruleset())
    view.mark_synced()
    for document in (GUARD, FLOOR, policy("shop/p", labelled(app="db"))):
        scene.put(document)
        kernel.apply(view.drain_changes())
        assert view.recheck_addresses
        assert kernel.ruleset() == view.ruleset()
        view.clear_recheck(view.recheck_addresses)
        kernel.apply(view.drain_changes())
        assert kernel.ruleset() == view.ruleset()


def blocks(*items: Document) -> Document:
    return policy("shop/p", types=["Ingress"], ingress=[{"from": [{"ipBlock": item} for item in items]}])


@pytest.mark.parametrize(
    "items",
    [
        pytest.param([{"cidr": "0.0.0.0/0"}, {"cidr": "::/0"}], id="everything"),
        pytest.param(
            [{"cidr": "0.0.0.0/1"}, {"cidr": "128.0.0.0/1"}, {"cidr": "::/1"}, {"cidr": "8000::/1"}], id="halves"
        ),
        pytest.param([{"cidr": "10.0.0.0/8", "except": ["10.0.0.0/8"]}], id="except equal to the whole"),
        pytest.param([{"cidr": "0.0.0.0/0", "except": ["0.0.0.0/1"]}, {"cidr": "::/0", "except": ["::/1"]}], id="half"),
        pytest.param([{"cidr": "0.0.0.0/0", "except": ["0.0.0.0/32", "255.255.255.255/32"]}], id="all but both ends"),
        pytest.param([{"cidr": "::/0", "except": ["::/128", "ffff::/16"]}], id="all but both ends of IPv6"),
        pytest.param([{"cidr": "10.0.0.0/8"}, {"cidr": "10.1.0.0/16"}, {"cidr": "10.2.3.4/9"}], id="[22] overlaps"),
        pytest.param([{"cidr": "10.0.0.1/32"}, {"cidr": "10.0.0.3/32"}], id="single addresses"),
    ],
)
def test_4_ranges_of_every_form_are_read_back(kernel: NftNamespace, items: list[Document]) -> None:
    loads(kernel, blocks(*items))


def test_21_the_longest_names_and_comments_fit(kernel: NftNamespace) -> None:
    space = "n" * 63
    # Every byte that a label can have, in selectors and names as long as the API server lets them be.
    values = [f"{number}{'v' * 60}" for number in range(9)]
    selector = {"matchExpressions": [{"key": f"{'p' * 60}.example/{'k' * 63}", "operator": "In", "values": values}]}
    rules = [{"from": [{"podSelector": selector, "namespaceSelector": selector}], "ports": [{"port": 80}]}]
    documents = [policy(f"{space}/{letter * 253}", types=["Ingress", "Egress"], ingress=rules) for letter in "xyz"]
    logging = {
        "kind": "NetworkLogging",
        "metadata": {"name": "default"},
        "spec": {"cluster": {"allow": {"log": True}, "deny": {"log": True}}},
    }
    ruleset = loads(kernel, pod(f"{space}/web", "a", 12, app="web"), *documents, logging)
    comments = [item.comment for item in ruleset.sets.values()]
    assert max(len(comment.encode()) for comment in comments) == 127


KEYWORDS = ["fwd", "drop", "chain", "table", "0", "1.2.3.4", "accept.drop"]


@pytest.mark.parametrize("name", KEYWORDS)
def test_21_names_of_tiers_that_are_keywords_load(kernel: NftNamespace, name: str) -> None:
    rules = [{"action": "Accept", "from": [ALL_NAMESPACES]}, {"action": "Deny", "from": [ALL_NAMESPACES]}]
    both = [
        tier_policy(
            "ClusterNetworkPolicy", f"{name}.{tier.lower()}", ALL_NAMESPACES, tier=tier, priority=1, ingress=rules
        )
        for tier in ("Admin", "Baseline")
    ]
    loads(kernel, *both)


@pytest.mark.parametrize(
    "name",
    [
        pytest.param('say "no"', id="quotes"),
        pytest.param("two\nlines\r\n\tand a tab", id="lines and tabs"),
        pytest.param("\0\x1b[31mred\x7f", id="characters that steer terminals"),
        pytest.param("back\\slash $dollar *star* #hash ;semicolon {brace} @at '", id="what nft reads elsewhere"),
        pytest.param("🚫 не пускать 進入禁止", id="letters of the world"),
        pytest.param("𐍈" * 100, id="a hundred characters of four bytes"),
        pytest.param("a" * 100, id="a hundred characters"),
        pytest.param("end*", id="a star at the end"),
        pytest.param("end\\", id="a backslash at the end"),
        pytest.param("\u202eright to left\u200b\ufeff\u00a0", id="what no one sees"),
    ],
)
@pytest.mark.parametrize("policy_name", ["a", f"{'p' * 125}.{'q' * 127}"], ids=["short", "long"])
def test_21_any_name_of_a_rule_loads(kernel: NftNamespace, name: str, policy_name: str) -> None:
    rules = [{"name": name, "action": action, "from": [ALL_NAMESPACES]} for action in ("Pass", "Allow", "Deny")]
    loads(kernel, tier_policy("AdminNetworkPolicy", policy_name, ALL_NAMESPACES, priority=1, ingress=rules))


def test_21_the_longest_names_of_tiers_fit_where_many_meet(kernel: NftNamespace) -> None:
    def longest(letter: str, tier: str) -> Document:
        rules = [{"action": "Accept", "from": [ALL_NAMESPACES]}, {"action": "Deny", "from": [ALL_NAMESPACES]}]
        spec = {"tier": tier, "priority": 1, "ingress": rules}
        return tier_policy("ClusterNetworkPolicy", f"{letter * 63}.{letter * 63}.{letter * 63}", ALL_NAMESPACES, **spec)

    tiers = [longest(letter, tier) for tier in ("Admin", "Baseline") for letter in ("ab" if tier == "Admin" else "yz")]
    logging = {
        "kind": "NetworkLogging",
        "metadata": {"name": "default"},
        "spec": {"cluster": {"allow": {"log": True}, "deny": {"log": True}}},
    }
    space = "n" * 63
    ruleset = loads(kernel, *tiers, pod(f"{space}/web", "a", 12), policy(f"{space}/{'x' * 253}"), logging)
    assert len({chain for item in ruleset.maps.values() for chain in item.elements.values()}) == 2


@pytest.mark.parametrize("name", KEYWORDS)
def test_21_names_that_are_keywords_load(kernel: NftNamespace, name: str) -> None:
    space = name.replace(".", "-")
    loads(kernel, pod(f"{space}/web", "a", 12), policy(f"{space}/{name}", types=["Ingress", "Egress"], ingress=[{}]))


@pytest.mark.parametrize(
    ("first", "second"),
    [
        ({"cidr": "10.0.0.0/8"}, {"cidr": "10.0.0.0/9"}),
        ({"cidr": "10.0.0.0/9"}, {"cidr": "10.0.0.0/8"}),
        ({"cidr": "10.0.0.0/8"}, {"cidr": "10.0.0.0/8", "except": ["10.1.0.0/16"]}),
        ({"cidr": "10.0.0.0/8", "except": ["10.1.0.0/16"]}, {"cidr": "10.0.0.0/8", "except": ["10.2.0.0/16"]}),
        ({"cidr": "0.0.0.0/0"}, {"cidr": "0.0.0.0/0", "except": ["10.0.0.0/8"]}),
        ({"cidr": "::/0"}, {"cidr": "::/0", "except": ["fc00::/7"]}),
    ],
    ids=str,
)
def test_22_a_range_changes_into_one_that_overlaps_it(kernel: NftNamespace, first: Document, second: Document) -> None:
    # The same set by name: what a masquerade list or a tier's CIDR group does when it is edited.
    before, after = (TwoNodeCluster(WEB, blocks(item)).views["a"].ruleset() for item in (first, second))
    word = "blocks6/" if ":" in first["cidr"] else "blocks4/"
    name = peers(before, word)
    edited = Ruleset({**before.sets, name: after.sets[peers(after, word)]}, before.maps, before.chains, before.counters)
    kernel.start_with(before)
    kernel.apply(diff(before, edited))
    assert kernel.ruleset() == edited


def test_22_ranges_of_a_set_that_keeps_its_shape_change_in_place(kernel: NftNamespace) -> None:
    def config(cidrs: str) -> Document:
        return {
            "kind": "ConfigMap",
            "metadata": {"namespace": "kube-system", "name": "ip-masq-agent"},
            "data": {"config": f"nonMasqueradeCIDRs: [{cidrs}]"},
        }

    scene = TwoNodeCluster(WEB, config("10.0.0.0/8, 172.16.0.0/12"))
    held = scene.views["a"].ruleset()
    kernel.start_with(held)
    for cidrs in ("10.0.0.0/9, 172.16.0.0/12", "0.0.0.0/0", "10.0.0.0/8", "'::/0', 10.0.0.0/7", ""):
        scene.put(config(cidrs))
        wanted = scene.views["a"].ruleset()
        commands = transaction_text(diff(held, wanted)).splitlines()
        assert all(line.split()[1] == "element" for line in commands)
        kernel.apply(diff(held, wanted))
        assert kernel.ruleset() == wanted
        held = wanted


def test_counters_are_kept_by_a_change_of_rules(kernel: NftNamespace) -> None:
    kernel.start_with(SCENE)
    kernel.nft("-f", "-", text=f"flush chain inet nfagent {CHAIN}\n")
    repair = transaction_text(diff(kernel.ruleset(), SCENE))
    assert "counter inet nfagent" not in repair
    assert "delete table" not in repair


def test_many_peers_and_ports_are_read_back_as_they_were_loaded(kernel: NftNamespace) -> None:
    peers: list[Document] = [{"podSelector": labelled(app=f"a{number}")} for number in range(400)]
    ports: list[Document] = [{"protocol": "TCP", "port": 2 * number + 1} for number in range(400)]
    ports += [{"protocol": "UDP", "port": first, "endPort": first + 9} for first in (1, 100, 200, 65_526)]
    rule: Document = {"from": peers, "ports": ports}
    ruleset = TwoNodeCluster(WEB, DB, policy("shop/large", types=["Ingress"], ingress=[rule])).views["a"].ruleset()
    matches = {type(match) for chain in ruleset.chains.values() for rule in chain.rules for match in rule.matches}
    assert {ServerPortIn, PacketPortIn} <= matches
    kernel.start_with(ruleset)
    assert kernel.ruleset() == ruleset
    kernel.nft("flush", "ruleset")
    kernel.nft("-f", "-", text=table_text(ruleset))
    assert kernel.ruleset() == ruleset
