"""A policy costs the sum of its peers and ports, not the product, and merging does not change its meaning."""

from __future__ import annotations

import pytest

from nfagent.decode.policy_limits import SINGLE_PORTS
from nfagent.model.objects import Direction, ObjectRef
from nfagent.nftables.objects import PortRange, Ruleset
from nfagent.nftables.transaction import AddRule
from nfagent.policy.compiler import INLINE_RULES
from tests.support.fake_nftables import FakeNftables
from tests.support.two_node_cluster import (
    Document,
    TwoNodeCluster,
    labelled,
    namespace,
    node,
    pod,
    policy,
    port,
    tier_policy,
)

WEB = pod("shop/web", "a", 10, (port(8080, "http"),), app="web")
FIRST = pod("shop/first", "a", 11, (port(8081, "http"),), app="a0")
LAST = pod("ops/last", "b", 20, (port(8082, "http"),), app="a399")
OTHER = pod("shop/other", "b", 21, app="other")
WAY: dict[Direction, str] = {"ingress": "from", "egress": "to"}


def pods(count: int) -> list[Document]:
    return [{"namespaceSelector": {}, "podSelector": labelled(app=f"a{number}")} for number in range(count)]


def ports(count: int, protocol: str = "TCP") -> list[Document]:
    """Return odd ports: no two of them touch."""
    return [{"protocol": protocol, "port": 2 * number + 1} for number in range(count)]


def web(direction: Direction, peers: list[Document], some: list[Document]) -> Document:
    rule = {WAY[direction]: peers, "ports": some}
    return policy("shop/p", labelled(app="web"), types=[direction.capitalize()], **{direction: [rule]})


def ruleset(*documents: Document) -> Ruleset:
    return TwoNodeCluster(WEB, FIRST, LAST, OTHER, *documents).views["a"].ruleset()


def cost(found: Ruleset) -> tuple[int, int]:
    """Count rules and sets."""
    return sum(len(chain.rules) for chain in found.chains.values()), len(found.sets)


@pytest.mark.parametrize("direction", ["ingress", "egress"])
def test_a_policy_of_400_peers_and_400_ports_has_as_many_rules_and_sets_as_one_of_five(direction: Direction) -> None:
    few, many = (ruleset(web(direction, pods(count), ports(count))) for count in (5, 400))
    assert cost(many) == cost(few)
    assert cost(many)[0] < cost(ruleset())[0] + 15


@pytest.mark.parametrize("action", ["Accept", "Deny", "Pass"])
def test_a_rule_of_a_tier_with_25_peers_and_ports_has_as_many_rules_as_one_of_five(action: str) -> None:
    def guard(count: int) -> Document:
        peers: list[Document] = [
            {"pods": {"namespaceSelector": {}, "podSelector": labelled(app=f"a{number}")}} for number in range(count)
        ]
        peers += [{"nodes": labelled(role=f"r{number}")} for number in range(25 - count)]
        some = [{"tcp": {"destinationPort": {"number": 2 * number + 1}}} for number in range(count)]
        rule = {"action": action, "to": peers, "protocols": some}
        return tier_policy("ClusterNetworkPolicy", "p", {"namespaces": {}}, priority=1, tier="Admin", egress=[rule])

    assert cost(ruleset(guard(25))) == cost(ruleset(guard(5)))


def test_a_hundred_peers_share_one_set_for_a_port_by_name() -> None:
    few, many = (ruleset(web("egress", pods(count), [{"port": "http"}])) for count in (2, 100))
    assert cost(many) == cost(few)


@pytest.mark.parametrize("family", [4, 6])
@pytest.mark.parametrize(
    ("source", "destination", "sent", "passes"),
    [
        pytest.param("shop/first", "shop/web", "1/tcp", True, id="the first peer to the first port"),
        pytest.param("ops/last", "shop/web", "799/tcp", True, id="the last peer to the last port"),
        pytest.param("ops/last", "shop/web", "2/tcp", False, id="not to a port between"),
        pytest.param("ops/last", "shop/web", "801/tcp", False, id="nor beyond the last"),
        pytest.param("ops/last", "shop/web", "799/udp", False, id="nor by another protocol"),
        pytest.param("shop/other", "shop/web", "1/tcp", False, id="nor from any other Pod"),
    ],
)
def test_each_of_many_peers_and_ports_matches_as_it_does_alone(
    source: str,
    destination: str,
    sent: str,
    passes: bool,  # noqa: FBT001 - a table's column
    family: int,
) -> None:
    scene = TwoNodeCluster(WEB, FIRST, LAST, OTHER, web("ingress", pods(400), ports(400)))
    assert scene.passes(source, destination, sent, family) == passes


@pytest.mark.parametrize(
    ("some", "meant"),
    [
        pytest.param(ports(SINGLE_PORTS), [], id="few ports are rules of their own"),
        pytest.param(ports(4), [{1, 3, 5, 7}], id="one more is a set"),
        pytest.param([{"port": 80 + number} for number in range(9)], [], id="ports side by side are one range"),
        pytest.param([*ports(9), {"port": 1, "endPort": 20}], [], id="ports inside a range are that range"),
        pytest.param([*ports(9), {}], [], id="a protocol alone is all its ports"),
        pytest.param([*ports(4), *ports(4, "UDP")], [{1, 3, 5, 7}], id="the same ports of two protocols are one set"),
    ],
)
def test_ports_are_joined(some: list[Document], meant: list[set[int]]) -> None:
    sets = [item for name, item in ruleset(web("ingress", [], some)).sets.items() if name.startswith("numbers/")]
    assert [{port.first for port in item.elements if isinstance(port, PortRange)} for item in sets] == meant


def listed(count: int) -> list[Document]:
    """Return rules of a peer each."""
    return [{"from": [peer], "ports": [{"port": 80}]} for peer in pods(count)]


def open_policy(count: int) -> Document:
    return policy("shop/large", types=["Ingress"], ingress=listed(count))


def own(name: str) -> Document:
    """Return a policy of one Pod alone, so that it is in a class of its own."""
    return policy(f"shop/{name}", labelled(app=name), types=["Ingress"])


def members(count: int) -> list[Document]:
    return [item for n in range(count) for item in (pod(f"shop/m{n}", "a", 100 + n, app=f"m{n}"), own(f"m{n}"))]


def test_a_large_policy_s_rules_are_in_one_chain_for_any_number_of_policy_sets() -> None:
    def growth(rules: int) -> int:
        one, many = (cost(ruleset(open_policy(rules), *members(count)))[0] for count in (1, 21))
        return many - one

    assert growth(500) == growth(INLINE_RULES + 1)


@pytest.mark.parametrize(
    ("count", "chains"),
    [
        pytest.param(INLINE_RULES, [], id="few rules stand in the class"),
        pytest.param(
            INLINE_RULES + 1,
            ["policy/ingress/shop/large", "stray/policy/ingress/shop/large"],
            id="more have a chain of their own",
        ),
    ],
)
def test_a_policy_has_a_chain_of_its_own_by_the_number_of_its_rules(count: int, chains: list[str]) -> None:
    found = ruleset(open_policy(count), own("web"))
    assert sorted(name for name in found.chains if "policy/" in name) == chains
    scene = TwoNodeCluster(WEB, FIRST, LAST, OTHER, open_policy(count), own("web"))
    assert scene.passes("shop/first", "shop/web", "80/tcp")
    assert not scene.passes("shop/other", "shop/web", "80/tcp")


def test_a_policy_that_grows_and_shrinks_leaves_nothing_behind() -> None:
    scene = TwoNodeCluster(WEB, FIRST, LAST, OTHER, open_policy(INLINE_RULES))
    view = scene.views["a"]
    kernel = FakeNftables(view.ruleset())
    view.mark_synced()
    few = view.ruleset()
    for count in (50, INLINE_RULES + 1, INLINE_RULES):
        scene.put(open_policy(count))
        kernel.apply(view.drain_changes())
        view.clear_recheck(view.recheck_addresses)
        kernel.apply(view.drain_changes())
        assert kernel.ruleset == view.ruleset() == view.rebuilt().ruleset()
    assert view.ruleset() == few


def test_a_change_of_a_large_policy_writes_its_own_chains_alone() -> None:
    scene = TwoNodeCluster(WEB, FIRST, LAST, OTHER, open_policy(50), *members(5))
    view = scene.views["a"]
    view.mark_synced()
    scene.put(open_policy(51))
    written = {command.chain for command in view.drain_changes() if isinstance(command, AddRule)}
    assert written == {"policy/ingress/shop/large", "stray/policy/ingress/shop/large"}
    assert not view.recheck_addresses


def test_a_large_policy_that_allows_less_puts_its_pods_under_re_check() -> None:
    scene = TwoNodeCluster(WEB, FIRST, LAST, OTHER, open_policy(50))
    view = scene.views["a"]
    view.mark_synced()
    scene.put(open_policy(49))
    view.drain_changes()
    assert {"10.64.0.10", "10.64.0.11"} <= view.recheck_addresses.keys()


@pytest.mark.parametrize("direction", ["ingress", "egress"])
@pytest.mark.parametrize("ports_listed", [[{"port": 80}], [{"port": "http"}]], ids=["a number", "a name"])
def test_pods_that_come_and_go_while_a_policy_is_away_leave_its_set_as_it_must_be(
    direction: Direction, ports_listed: list[Document]
) -> None:
    large = web(direction, pods(2), ports_listed)
    scene = TwoNodeCluster(WEB, FIRST, large)
    view = scene.views["a"]
    view.mark_synced()
    staying = pod("shop/stays", "b", 30, (port(80, "http"),), app="a0")
    for documents in ([pod("shop/comes", "b", 31, (port(80, "http"),), app="a1")], [staying]):
        view.remove(ObjectRef("NetworkPolicy", "shop", "p"))
        for document in documents:
            scene.put(document)
        scene.put(large)
        view.remove(ObjectRef("Pod", "shop", "comes"))
    assert view.ruleset() == view.rebuilt().ruleset()


def test_a_pod_that_two_peers_of_a_rule_select_stays_until_neither_does() -> None:
    both = [{"podSelector": labelled(app="x")}, {"podSelector": labelled(tier="y")}]
    scene = TwoNodeCluster(WEB, web("ingress", both, [{"port": 80}]))
    kernel = FakeNftables(scene.views["a"].ruleset())
    scene.views["a"].mark_synced()
    for labels, passes in (
        ({"app": "x", "tier": "y"}, True),
        ({"app": "x"}, True),
        ({"tier": "y"}, True),
        ({"app": "other"}, False),
    ):
        scene.put(pod("shop/peer", "b", 30, (), **labels))
        kernel.apply(scene.views["a"].drain_changes())
        assert kernel.ruleset == scene.views["a"].ruleset()
        assert scene.passes("shop/peer", "shop/web", "80/tcp") == passes


def test_pods_and_nodes_of_a_tier_s_rule_are_one_set() -> None:
    peers: list[Document] = [{"namespaces": labelled(team="red")}, {"nodes": {}}]
    rule = {"action": "Deny", "to": peers}
    guard = tier_policy("ClusterNetworkPolicy", "p", {"namespaces": {}}, priority=1, tier="Admin", egress=[rule])
    scene = TwoNodeCluster(namespace("ops", team="red"), node("b"), WEB, LAST, guard)
    [found] = [item for name, item in scene.views["a"].ruleset().sets.items() if name.startswith("peers4/")]
    assert found.elements == {"10.64.1.20", "192.168.0.1", "192.168.0.2"}
    assert not scene.passes("shop/web", "ops/last", "80/tcp")
