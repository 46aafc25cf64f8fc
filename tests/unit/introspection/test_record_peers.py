"""What a command is told of Pods, Nodes and ranges decides as the agent's own state does."""

from __future__ import annotations

import msgspec
import pytest

from nfagent.introspection.chunks import whole
from nfagent.introspection.freshness import WHOLE
from nfagent.introspection.record_peers import KnownRanges, PeersView, SnapshotPeers, StatePeers, peers_parts
from nfagent.model.netaddr import parse_cidr
from tests.support.two_node_cluster import TwoNodeCluster, node, pod

CLUSTER = TwoNodeCluster(pod("shop/web", "a", 10, app="web"), pod("far/dog", "b", 60, app="dog"))


def peers() -> dict[str, StatePeers | SnapshotPeers]:
    desired = CLUSTER.views["a"]
    told = msgspec.json.decode(msgspec.json.encode(whole(peers_parts(desired, WHOLE))), type=PeersView)
    return {"state": StatePeers(desired), "snapshot": SnapshotPeers(told)}


@pytest.mark.parametrize("name", ["state", "snapshot"])
def test_pods_have_their_labels_and_others_none_that_are_known(name: str) -> None:
    found = peers()[name]
    assert found.labels("shop/web") == {"app": "web"}
    assert found.labels("far/dog") == {"app": "dog"}
    assert found.labels("shop/gone") is None


@pytest.mark.parametrize("name", ["state", "snapshot"])
@pytest.mark.parametrize("family", [4, 6])
def test_nodes_pods_and_what_is_outside_are_told_apart(name: str, family: int) -> None:
    found = peers()[name]
    here, there, web, outside = (CLUSTER.address(end, family) for end in ("a", "b", "shop/web", "outside"))
    assert [found.is_node(address) for address in (here, there, web, outside)] == [True, True, False, False]
    assert [found.is_inside(address) for address in (here, there, web, outside)] == [True, True, True, False]


def test_the_bridge_of_a_node_counts_as_the_node_until_a_pod_has_its_address() -> None:
    cluster = TwoNodeCluster()
    ranges = cluster.views["a"].cluster.nodes["a"].pod_cidrs
    bridge = str(ranges[0]).rpartition(".")[0] + ".1"
    assert StatePeers(cluster.views["a"]).is_node(bridge)
    cluster.put(pod("shop/first", "a", 1))
    assert cluster.address("shop/first") == bridge
    assert not StatePeers(cluster.views["a"]).is_node(bridge)


def test_a_node_that_is_added_is_known_at_once() -> None:
    cluster = TwoNodeCluster()
    found = StatePeers(cluster.views["a"])
    assert not found.is_node("192.0.2.77")
    document = node("a")
    document["metadata"]["name"] = "c"
    document["status"] = {"addresses": [{"type": "InternalIP", "address": "192.0.2.77"}]}
    cluster.put(document)
    assert found.is_node("192.0.2.77")


def test_ranges_are_found_at_their_ends_and_in_their_family_alone() -> None:
    known = KnownRanges(map(parse_cidr, ["10.0.0.0/24", "10.0.2.0/24", "2001:db8::/64"]))
    inside, outside = ["10.0.0.0", "10.0.0.255", "10.0.2.0", "2001:db8::1"], ["10.0.1.0", "9.255.255.255", "::a00:1"]
    assert [address in known for address in (*inside, *outside)] == [True] * 4 + [False] * 3
