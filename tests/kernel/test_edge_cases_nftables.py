"""Edge cases of nftables itself: their rulesets are loaded, changed and unloaded in a real kernel.

As in the agent: each transaction is one batch, after which the table is read back and compared.
"""

from __future__ import annotations

import asyncio
import itertools
import subprocess
from collections.abc import Iterator
from uuid import uuid4

import pytest
from pyroute2 import netns

from nfagent.desired.state import DesiredState
from nfagent.kernel.nft_client import NftClient
from nfagent.nftables.diff import diff
from nfagent.nftables.matches import L4Proto
from nfagent.nftables.objects import ABSENT, Goto, Ruleset
from tests.support.edge_cases import BOTH, blocks, cidrs
from tests.support.two_node_cluster import DECODERS, Document, labelled, node, pod, policy, port

pytestmark = pytest.mark.kernel

WEB = pod("shop/web", "a", 10, (port(80, "http"), port(53, "http", "UDP")), app="web")
DB = pod("shop/db", "b", 10, app="db")
LOGGING = {
    "kind": "NetworkLogging",
    "metadata": {"name": "default"},
    "spec": {"cluster": {"allow": {"log": True}, "deny": {"log": True}}},
}


class Table:
    """What must be in the kernel, and the kernel."""

    def __init__(self, kernel: NftClient) -> None:
        self.desired = DesiredState("a")
        self.kernel = kernel
        asyncio.run(kernel.apply(diff(ABSENT, self.desired.ruleset())))
        self.desired.mark_synced()

    def happens(self, *documents: Document) -> Ruleset:
        """Apply documents, commit the changes, and compare the kernel's table."""
        for document in documents:
            item = DECODERS[document["kind"]](document)
            assert item is not None
            self.desired.put(item)
        return self._told()

    def goes(self, document: Document) -> Ruleset:
        """Delete a document."""
        item = DECODERS[document["kind"]](document)
        assert item is not None
        self.desired.remove(item.ref)
        return self._told()

    def _told(self) -> Ruleset:
        asyncio.run(self.kernel.apply(self.desired.drain_changes()))
        found, wanted = self.kernel.read_now(), self.desired.ruleset()
        assert found == wanted
        assert diff(found, wanted) == ()
        return found


@pytest.fixture
def table() -> Iterator[Table]:
    """Enter a new network namespace with this thread and its processes."""
    name = f"nfagent-edge-cases-{uuid4().hex[:8]}"
    subprocess.run(["ip", "netns", "add", name], check=True)
    try:
        netns.pushns(name)
        try:
            kernel = NftClient()
            try:
                made = Table(kernel)
                made.happens(node("a"), node("b"), WEB, DB)
                yield made
            finally:
                kernel.close()
        finally:
            netns.popns()
    finally:
        subprocess.run(["ip", "netns", "del", name], check=True)


def test_11_a_port_with_only_a_protocol_loads_in_every_kind_of_rule(table: Table) -> None:
    ports: list[Document] = [{}, {"protocol": "TCP"}, {"protocol": "UDP"}, {"protocol": "SCTP"}]
    peers: list[list[Document]] = [[], [{"podSelector": {}}], cidrs("10.0.0.0/8", "fd00::/8")]
    rules = [(who, some) for who in peers for some in (*([one] for one in ports), ports)]
    ingress, egress = ([{way: who, "ports": some} for who, some in rules] for way in ("from", "to"))
    found = table.happens(policy("shop/p", labelled(app="web"), types=BOTH, ingress=ingress, egress=egress))
    for way in ("ingress", "egress"):
        matches = [match for rule in found.chains[f"policy/{way}/shop/p"].rules for match in rule.matches]
        assert {match.names for match in matches if isinstance(match, L4Proto)} == {("tcp",), ("udp",), ("sctp",)}


@pytest.mark.parametrize(("space", "name"), [("fwd", "add"), ("delete", "fwd"), ("inet", "goto"), ("map", "counter")])
def test_21_names_that_are_nft_keywords_load_and_go(table: Table, space: str, name: str) -> None:
    rules = [{"from": [{"podSelector": labelled(drop="accept")}], "ports": [{"port": "log"}]}, {}]
    documents = [
        pod(f"{space}/{name}", "a", 12, (port(80, "log"),), drop="accept"),
        policy(f"{space}/{name}", types=BOTH, ingress=rules),
        LOGGING,
    ]
    assert f"ingress/{space}/{name}" in table.happens(*documents).chains
    for document in documents:
        table.goes(document)


def test_21_names_of_every_length_have_their_comments_and_prefixes_read_back_whole(table: Table) -> None:
    space = "n" * 63
    table.happens(pod(f"{space}/web", "a", 12), LOGGING)
    longest = 0
    # Names of more than 100 characters are cut: a class of two grows so long behind 29, a policy alone behind 36.
    for length in (1, 29, 30, 36, 37, 253):
        wanted = policy(f"{space}/{'p' * length}", types=BOTH, ingress=[{"from": cidrs("10.0.0.0/8")}])
        found = table.happens(wanted, policy(f"{space}/second", types=["Ingress"]))
        rules = [rule for chain in found.chains.values() for rule in chain.rules]
        prefixes = [rule.log.prefix for rule in rules if rule.log is not None]
        assert len(prefixes) >= 3
        longest = max(longest, *(len(prefix) for prefix in prefixes), *(len(rule.comment.encode()) for rule in rules))
        table.goes(wanted)
    assert longest == 127


def test_21_an_unreadable_policy_delays_no_other(table: Table) -> None:
    bad = policy("shop/bad", labelled(app="other"), types=BOTH, ingress=[{"from": cidrs("10.0.0.0/33")}])
    good = policy("shop/good", labelled(app="web"), types=BOTH, ingress=[{"from": cidrs("10.0.0.0/8")}])
    found = table.happens(bad, pod("shop/other", "a", 13, app="other"), good)
    assert {"ingress/shop/bad", "ingress/shop/good"} <= found.chains.keys()
    [deny] = found.chains["ingress/shop/bad"].rules
    assert deny.verdict == Goto("deny/ingress/shop/bad")


RULE_NAMES: dict[str, str] = {
    "[21] a hundred characters of four bytes": "\N{GRINNING FACE}" * 100,
    "[21] quotes, backslashes and what else has a meaning to nft": 'a "b" \'c\' \\d \\" $e @f { g; } # h /* i',
    "[21] line ends, tabs and characters that can't be seen": "a\nb\tc\x00d\u2028e\u200bf",
    "[21] a keyword": "drop",
    "[21] nothing but spaces": "   ",
}


@pytest.mark.parametrize("name", RULE_NAMES.values(), ids=RULE_NAMES)
def test_the_name_of_a_rule_is_read_back_unchanged(table: Table, name: str) -> None:
    all_pods: Document = {"namespaces": {}}
    rules = [{"name": name, "action": action, "from": [all_pods]} for action in ("Pass", "Deny", "Accept")]
    spec = {"tier": "Admin", "priority": 1, "subject": all_pods, "ingress": rules}
    named = {"kind": "ClusterNetworkPolicy", "metadata": {"name": "goto"}, "spec": spec}
    found = table.happens(named)
    comments = [rule.comment for rule in found.chains["admin/ingress/cnp.goto"].rules]
    assert {len(comment.encode()) <= 127 for comment in comments} == {True}
    table.goes(named)


OVERLAPS: dict[str, list[list[Document]]] = {
    "[22] CIDRs within each other": [cidrs("10.0.0.0/8"), cidrs("10.1.0.0/16"), cidrs("10.1.2.0/24"), cidrs("::/0")],
    "[22] CIDRs of one rule within each other": [
        cidrs("10.0.0.0/8", "10.1.0.0/16", "10.0.0.0/8", "fd00::/8", "fd00::/16")
    ],
    "[22] one CIDR whole and with holes": [
        cidrs("10.0.0.0/8"),
        blocks({"cidr": "10.0.0.0/8", "except": ["10.1.0.0/16"]}),
        blocks({"cidr": "10.0.0.0/8", "except": ["10.1.0.0/16"]}, {"cidr": "10.1.0.0/24"}),
    ],
    "[23] neighbours that make one": [cidrs("10.0.0.0/9", "10.128.0.0/9"), cidrs("10.0.0.0/9"), cidrs("10.128.0.0/9")],
    "[23] everything and its halves": [
        cidrs("0.0.0.0/0", "::/0"),
        cidrs("0.0.0.0/1", "128.0.0.0/1", "::/1", "8000::/1"),
        cidrs("128.0.0.0/1"),
    ],
}


@pytest.mark.parametrize("peers", OVERLAPS.values(), ids=OVERLAPS)
def test_rules_that_overlap_load_together_and_go_one_by_one(table: Table, peers: list[list[Document]]) -> None:
    policies = [policy(f"shop/p{number}", ingress=[{"from": some}]) for number, some in enumerate(peers)]
    before = table.happens(*policies)
    assert any(name.startswith("blocks4/") for name in before.sets)
    for document in policies:
        table.goes(document)
    for document in reversed(policies):
        table.happens(document)
    assert table.desired.ruleset() == before


def exempt(*ranges: str) -> Document:
    return {
        "kind": "ConfigMap",
        "metadata": {"namespace": "kube-system", "name": "ip-masq-agent"},
        "data": {"config": f"nonMasqueradeCIDRs: [{', '.join(ranges)}]"},
    }


@pytest.mark.parametrize(
    "ranges",
    [
        pytest.param(["10.0.0.0/8", "10.1.0.0/16", "10.1.2.0/24", "10.1.2.3/32"], id="[22] within each other"),
        pytest.param(["10.0.0.0/9", "10.128.0.0/9", "11.0.0.0/8", "12.0.0.0/6"], id="[23] neighbours"),
        pytest.param(["0.0.0.0/1", "10.0.0.0/8", "128.0.0.0/1", "0.0.0.0/0"], id="[23] halves"),
    ],
)
def test_ranges_of_one_set_come_and_go_in_any_order(table: Table, ranges: list[str]) -> None:
    # The one set of ours that is edited in place: a deleted CIDR may be a part of what others made one with it.
    for order in itertools.islice(itertools.permutations(ranges), 0, None, 5):
        for size in (*range(len(order) + 1), *range(len(order), -1, -1)):
            found = table.happens(exempt(*order[:size]))
            assert "nonmasq4" in found.sets


def test_24_overlapping_ranges_of_addresses_and_of_ports_are_loaded_and_unloaded(table: Table) -> None:
    spans: list[list[Document]] = [
        [{"port": 80, "endPort": 90}, {"port": 85, "endPort": 95}, {"port": 1, "endPort": 65535}],
        [{"port": 90, "endPort": 100}, {"port": "http"}, {"protocol": "UDP"}],
    ]
    peers = [cidrs("10.0.0.0/8", "10.1.0.0/16"), cidrs("10.1.0.0/24", "10.0.0.0/9")]
    policies = [
        policy(
            f"shop/p{number}", types=BOTH, ingress=[{"from": who, "ports": some}], egress=[{"to": who, "ports": some}]
        )
        for number, (who, some) in enumerate(itertools.product(peers, spans))
    ]
    table.happens(*policies)
    for document in policies:
        table.goes(document)


def test_25_host_bits_are_read_back_equal_and_compared_as_equal(table: Table) -> None:
    spelt = blocks(
        {"cidr": "10.1.2.3/8", "except": ["10.9.9.9/16"]},
        {"cidr": "192.0.2.255/25"},
        {"cidr": "2001:db8::5/32", "except": ["2001:db8:1::5/64"]},
    )
    plain = blocks(
        {"cidr": "10.0.0.0/8", "except": ["10.9.0.0/16"]},
        {"cidr": "192.0.2.128/25"},
        {"cidr": "2001:db8::/32", "except": ["2001:db8:1::/64"]},
    )
    found = table.happens(policy("shop/p", types=["Ingress"], ingress=[{"from": spelt}]))
    assert table.happens(policy("shop/p", types=["Ingress"], ingress=[{"from": plain}])) == found


def peers_with(address: str, ruleset: Ruleset) -> set[str]:
    """Return the kinds of peers' sets that have an address."""
    held = {name.partition("/") for name, item in ruleset.sets.items() if address in item.elements}
    return {word for word, slash, _ in held if slash}


def test_26_an_ipv4_mapped_address_is_in_the_ipv4_sets(table: Table) -> None:
    mapped = pod("shop/mapped", "a", 77, (port(80, "http"),), app="mapped")
    mapped["status"]["podIPs"] = [{"ip": "::ffff:10.64.0.77"}]
    rules = [{"from": [{"podSelector": {}}], "ports": [{"port": "http"}]}]
    found = table.happens(policy("shop/p", types=BOTH, ingress=rules, egress=[{"to": [{"podSelector": {}}]}]), mapped)
    assert found.maps["ingress4"].elements["10.64.0.77"] == "ingress/shop/p"
    assert peers_with("10.64.0.77", found) == {"peers4"}
    gone = table.goes(mapped)
    assert "10.64.0.77" not in gone.maps["ingress4"].elements
    assert peers_with("10.64.0.77", gone) == set()


def test_38_everything_that_is_denied_is_dropped_and_nothing_rejected(table: Table) -> None:
    table.happens(LOGGING, policy("shop/p", types=BOTH, ingress=[{"ports": [{"port": 80}]}], egress=[]))
    listed = subprocess.run(["nft", "list", "table", "inet", "nfagent"], capture_output=True, text=True, check=True)
    lines = [line.split() for line in listed.stdout.splitlines()]
    assert [words for words in lines if "reject" in words] == []
    assert [words for words in lines if "drop" in words] != []
