"""Peers and ports of the admin tiers in the evaluator."""

from __future__ import annotations

import pytest

from nfagent.model.admin_policy import TierPeer, TierPolicy, TierRule
from nfagent.model.networkpolicy import PodPeer, PolicyPort
from nfagent.model.objects import ContainerPort
from tests.unit.policy.tier_cluster import (
    ALL_PODS,
    DB,
    WEB,
    admin,
    deny,
    judged,
    named,
    network,
    nodes,
    numbered,
    pod,
    pods,
    selecting,
)

PEERS = [
    pytest.param((pods(selecting(team="blue")),), "shop/db", True, id="all Pods of a Namespace"),
    pytest.param((pods(selecting(team="red")),), "shop/db", False, id="but not of another"),
    pytest.param((pods(selecting(team="blue"), app="db"),), "shop/db", True, id="Pods by both selectors"),
    pytest.param((pods(selecting(team="blue"), app="db"),), "ops/db", False, id="which both must match"),
    pytest.param((pods(selecting(team="blue"), app="web"),), "shop/db", False, id="whichever fails"),
    pytest.param((WEB, DB), "shop/db", True, id="peers are alternatives"),
    pytest.param((ALL_PODS,), "outside", False, id="all Pods are no outside address"),
    pytest.param((ALL_PODS,), "a", False, id="nor a host-network Pod"),
    pytest.param((WEB,), "a", False, id="not even by its labels"),
    pytest.param((nodes(role="edge"),), "a", True, id="a Node by its labels"),
    pytest.param((nodes(role="edge"),), "b", False, id="but not another"),
    pytest.param((nodes(),), "b", True, id="every Node"),
    pytest.param((nodes(),), "shop/db", False, id="a Node's Pods have addresses of their own"),
    pytest.param((nodes(),), "outside", False, id="an outside address is no Node's"),
    pytest.param((nodes(role="edge"), DB), "shop/db", True, id="Pods beside Nodes"),
]
NETWORKS = [
    pytest.param((network("203.0.113.0/24"),), "outside", 4, True, id="an outside address in the network"),
    pytest.param((network("198.51.100.0/24"),), "outside", 4, False, id="and out of it"),
    pytest.param((network("10.64.0.20/32"),), "shop/db", 4, True, id="a Pod in the network"),
    pytest.param((network("10.64.0.21/32"),), "shop/db", 4, False, id="a Pod beside it"),
    pytest.param((network("192.168.0.0/30"),), "a", 4, True, id="a node in the network"),
    pytest.param((network("0.0.0.0/0"),), "shop/db", 4, True, id="the whole of IPv4 has the Pods in it"),
    pytest.param((network("0.0.0.0/0"),), "b", 4, True, id="and the nodes"),
    pytest.param((network("0.0.0.0/0"),), "shop/db", 6, False, id="but nothing of IPv6"),
    pytest.param((network("::/0"),), "shop/db", 6, True, id="the whole of IPv6"),
    pytest.param((network("::/0"),), "outside", 4, False, id="which has nothing of IPv4"),
    pytest.param((network("10.0.0.0/8"), network("2000::/3")), "outside", 6, True, id="networks are alternatives"),
]


@pytest.mark.parametrize("family", [4, 6], ids=["IPv4", "IPv6"])
@pytest.mark.parametrize(("peers", "destination", "matches"), PEERS)
def test_what_a_peer_selects(peers: tuple[TierPeer, ...], destination: str, matches: bool, family: int) -> None:  # noqa: FBT001 - a column
    policy = admin("p", 1, egress=(deny(*peers),), subject=WEB)
    assert judged(policy, destination=destination, family=family).allowed == (not matches)


@pytest.mark.parametrize(("peers", "destination", "family", "matches"), NETWORKS)
def test_what_a_network_contains(peers: tuple[TierPeer, ...], destination: str, family: int, matches: bool) -> None:  # noqa: FBT001 - a column
    policy = admin("p", 1, egress=(deny(*peers),), subject=WEB)
    assert judged(policy, destination=destination, family=family).allowed == (not matches)


@pytest.mark.parametrize("destination", ["shop/db", "outside", "a", "b"])
def test_a_rule_without_peers_matches_every_destination(destination: str) -> None:
    policy = admin("p", 1, egress=(TierRule("deny"),), subject=WEB)
    assert not judged(policy, destination=destination).allowed


@pytest.mark.parametrize(
    ("peer", "source", "matches"),
    [
        pytest.param(WEB, "shop/web", True, id="a Pod by its labels"),
        pytest.param(pods(selecting(team="red")), "ops/db", True, id="a Pod by its Namespace's"),
        pytest.param(ALL_PODS, "outside", False, id="no rule can name an outside source"),
        pytest.param(ALL_PODS, "a", False, id="nor a node, nor a host-network Pod on it"),
    ],
)
def test_what_an_ingress_peer_selects(peer: PodPeer, source: str, matches: bool) -> None:  # noqa: FBT001 - a column
    assert judged(admin("p", 1, deny(peer)), source=source).allowed == (not matches)


@pytest.mark.parametrize(
    ("ports", "flow", "matches"),
    [
        pytest.param((numbered(80),), "80/tcp", True, id="a number"),
        pytest.param((numbered(81),), "80/tcp", False, id="another number"),
        pytest.param((numbered(80, "udp"),), "80/tcp", False, id="the same number under another protocol"),
        pytest.param((numbered(80), numbered(80, "udp")), "80/udp", True, id="the same number under two protocols"),
        pytest.param((numbered(80), numbered(80, "udp")), "80/sctp", False, id="and not under the third"),
        pytest.param((numbered(80, "tcp", 90),), "90/tcp", True, id="the end of a range"),
        pytest.param((numbered(80, "tcp", 90),), "91/tcp", False, id="behind a range"),
        pytest.param((numbered(81, "tcp", 90),), "80/tcp", False, id="before a range"),
        pytest.param((numbered(90, "tcp", 80),), "85/tcp", False, id="a backward range holds nothing"),
        pytest.param((PolicyPort("sctp"),), "9/sctp", True, id="every port of a protocol"),
        pytest.param((PolicyPort("sctp"),), "9/tcp", False, id="and of no other"),
        pytest.param((numbered(1), numbered(80)), "80/tcp", True, id="ports are alternatives"),
        pytest.param((), "icmp", True, id="without ports ICMP matches"),
        pytest.param((), "47", True, id="and every other protocol"),
        pytest.param((numbered(1, "tcp", 65535),), "icmp", False, id="with ports ICMP doesn't match"),
        pytest.param((PolicyPort("tcp"), PolicyPort("udp")), "47", False, id="nor any other protocol"),
        pytest.param((named("sql"),), "icmp", False, id="nor under a named port"),
        pytest.param((named("sql"),), "5432/tcp", True, id="a named port has its own protocol"),
        pytest.param((named("dns"),), "53/udp", True, id="whichever it is"),
        pytest.param((named("dns"),), "53/tcp", False, id="and no other"),
        pytest.param((named("sql"),), "53/udp", False, id="another port's name"),
        pytest.param((named("dns", "udp"),), "53/udp", True, id="a name with its protocol"),
        pytest.param((named("dns", "tcp"),), "53/udp", False, id="a name with another"),
        pytest.param((named("http"),), "8080/tcp", False, id="a name that only the client has matches nothing"),
        pytest.param((named("http"),), "80/tcp", False, id="nor does it mean every port"),
        pytest.param((named("http"), numbered(80)), "80/tcp", True, id="a number beside a name"),
        pytest.param((numbered(80), named("sql")), "5432/tcp", True, id="a name beside a number"),
    ],
)
def test_which_ports_match(ports: tuple[PolicyPort, ...], flow: str, matches: bool) -> None:  # noqa: FBT001 - a column
    into = admin("p", 1, deny(ports=ports))
    out = admin("p", 1, egress=(deny(ports=ports),), subject=WEB)
    for policy in (into, out):
        assert judged(policy, port=flow).allowed == (not matches)


def test_icmp_of_ipv6_matches_as_that_of_ipv4() -> None:
    free, bound = admin("p", 1, deny()), admin("p", 1, deny(ports=(PolicyPort("tcp"), PolicyPort("udp"))))
    assert not judged(free, port="icmpv6", family=6).allowed
    assert judged(bound, port="icmpv6", family=6).allowed


@pytest.mark.parametrize(
    ("destination", "port", "matches"),
    [
        pytest.param("shop/db", "5432/tcp", True, id="one Pod's number"),
        pytest.param("ops/db", "3306/tcp", True, id="another Pod's number"),
        pytest.param("shop/db", "3306/tcp", False, id="which isn't the first one's"),
        pytest.param("ops/db", "5432/tcp", False, id="nor the other way round"),
    ],
)
def test_a_named_port_is_resolved_for_each_pod(destination: str, port: str, matches: bool) -> None:  # noqa: FBT001 - a column
    for policy in (
        admin("in", 1, deny(ports=(named("sql"),))),
        admin("out", 1, egress=(deny(ports=(named("sql"),)),), subject=WEB),
        admin("out", 1, egress=(deny(pods(app="none"), DB, ports=(named("sql"),)),), subject=WEB),
        admin("out", 1, egress=(TierRule("deny", ports=(named("sql"),)),), subject=WEB),
    ):
        assert judged(policy, destination=destination, port=port).allowed == (not matches)


def test_of_two_pods_that_hold_an_address_those_that_the_rule_selects_resolve_its_ports() -> None:
    newcomer = pod("shop/db-new", "b", 20, ContainerPort("sql", 6543, "tcp"), app="other")

    def refuses(policy: TierPolicy) -> bool:
        return not judged(policy, port="6543/tcp", more=(newcomer,)).allowed

    for app, refused in (("db", False), ("other", True)):
        out = admin("p", 1, egress=(deny(pods(app=app), ports=(named("sql"),)),), subject=WEB)
        assert refuses(out) == refused
    assert not refuses(admin("p", 1, deny(ports=(named("sql"),))))
    assert refuses(admin("p", 1, deny(ports=(named("sql"),)), subject=ALL_PODS))
