"""The source address that a destination sees: its explanation, and the ruleset's translation of the same packet."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest

from nfagent.egress.masquerade import MasqueradeSettings
from nfagent.explain.explanation import Explanation, explain, explanation_view
from tests.support.two_node_cluster import NODES, Document, TwoNodeCluster, namespace, pod, policy

WEB, API = pod("shop/web", "a", 10, app="web"), pod("shop/api", "a", 11, app="api")
PODS = (namespace("shop", team="shop"), WEB, API, pod("guest/far", "b", 20))
FAR, FAR_V6 = "203.0.113.7", "2606:4700::1"
ONLY_WEB = {"podSelector": {"matchLabels": {"app": "web"}}, "namespaceSelector": {"matchLabels": {"team": "shop"}}}


def nat_policy(name: str, action: str, *cidrs: str, sources: Document | None = None) -> Document:
    spec: dict[str, Any] = {"action": action, "destinations": [{"cidr": cidr} for cidr in cidrs]}
    if sources is not None:
        spec["sources"] = [sources]
    return {"kind": "EgressNATPolicy", "metadata": {"name": name}, "spec": spec}


def ip_masq(text: str) -> Document:
    return {
        "kind": "ConfigMap",
        "metadata": {"namespace": "kube-system", "name": "ip-masq-agent"},
        "data": {"config": text},
    }


def asked(clusters: TwoNodeCluster, source: str, destination: str) -> Explanation:
    view = clusters.views["a"]
    view.drain_changes()
    return explain(view.cluster, view.index, source, destination, translate=view.translation)


NODE_A, NODE_A_V6 = "192.168.0.1 (node a)", "fd00::1 (node a)"
OWN, OWN_V6 = "10.64.0.10, its own address", "2001:db8:0:a::10, its own address"
ROWS = [
    pytest.param((), FAR, "node", f"{NODE_A}: no policy and no list has it", id="masquerade"),
    pytest.param((), FAR_V6, "node", f"{NODE_A_V6}: no policy and no list has it", id="masquerade, IPv6"),
    pytest.param((), "10.1.2.3", "kept", f"{OWN}: the built-in list has 10.0.0.0/8", id="the built-in list"),
    pytest.param(
        (ip_masq('nonMasqueradeCIDRs: ["203.0.113.0/24", "2606:4700::/32"]'),),
        FAR_V6,
        "kept",
        f"{OWN_V6}: ConfigMap kube-system/ip-masq-agent has 2606:4700::/32",
        id="the ip-masq-agent list",
    ),
    pytest.param(
        (nat_policy("default", "NoSNAT", "203.0.113.0/24"), ip_masq("nonMasqueradeCIDRs: []")),
        FAR,
        "kept",
        f"{OWN}: EgressNATPolicy default has NoSNAT for 203.0.113.0/24",
        id="the policy default",
    ),
    pytest.param(
        (nat_policy("default", "NoSNAT"),),
        "169.254.169.254",
        "kept",
        f"{OWN}: 169.254.0.0/16 is link-local",
        id="a link-local destination",
    ),
    pytest.param(
        (nat_policy("all", "NoSNAT", "0.0.0.0/0"), nat_policy("some", "SNAT", "203.0.113.0/24", sources=ONLY_WEB)),
        FAR,
        "node",
        f"{NODE_A}: EgressNATPolicy some has SNAT for 203.0.113.0/24",
        id="the longer prefix",
    ),
    pytest.param(
        (nat_policy("one", "SNAT", "203.0.113.0/24"), nat_policy("two", "NoSNAT", "203.0.113.0/24")),
        FAR,
        "node",
        f"{NODE_A}: EgressNATPolicy one and EgressNATPolicy two disagree about 203.0.113.0/24, "
        "so neither applies to it",
        id="a tie",
    ),
]


@pytest.mark.parametrize(("documents", "destination", "kind", "words"), ROWS)
def test_the_last_line_says_as_whom_a_pod_is_seen_and_why(
    documents: tuple[Document, ...], destination: str, kind: str, words: str
) -> None:
    clusters = TwoNodeCluster(*PODS, *documents)
    found = asked(clusters, "shop/web", destination)
    assert found.translation is not None
    assert (found.translation.kind, found.lines[-1]) == (kind, f"{destination} sees {words}")
    family = 6 if ":" in destination else 4
    assert clusters.translates("shop/web", destination, family=family) == (kind == "node")


def test_a_policy_with_sources_is_named_for_the_pods_that_it_selects_alone() -> None:
    clusters = TwoNodeCluster(*PODS, nat_policy("some", "NoSNAT", "203.0.113.0/24", sources=ONLY_WEB))
    views = {name: asked(clusters, name, FAR).translation for name in ("shop/web", "shop/api")}
    assert {name: found.by for name, found in views.items() if found is not None} == {
        "shop/web": "EgressNATPolicy some",
        "shop/api": None,
    }
    assert [clusters.translates(name, FAR) for name in views] == [False, True]


GATEWAY: Document = {
    "kind": "NetworkGatewayGroup",
    "metadata": {"namespace": "ops", "name": "gw"},
    "spec": {"floatingIPs": ["192.0.2.10"]},
}


@pytest.mark.parametrize(
    ("documents", "seen_as", "words"),
    [
        pytest.param((GATEWAY,), ("192.0.2.10",), "192.0.2.10 (node {holder} holds it)", id="a floating address"),
        pytest.param(
            (), (), "nothing (dropped: NetworkGatewayGroup ops/gw doesn't exist)", id="nothing, where it is dropped"
        ),
    ],
)
def test_by_a_gateway_the_destination_sees(
    documents: tuple[Document, ...], seen_as: tuple[str, ...], words: str
) -> None:
    bank = nat_policy("bank", "SNAT", "203.0.113.0/24")
    bank["spec"]["gatewayRef"] = {"name": "gw", "namespace": "ops"}
    clusters = TwoNodeCluster(*PODS, bank, *documents)
    found = asked(clusters, "shop/web", FAR).translation
    assert found is not None
    decided = "EgressNATPolicy bank has SNAT by NetworkGatewayGroup ops/gw for 203.0.113.0/24"
    assert (found.kind, found.seen_as, found.gateway) == ("gateway", seen_as, "NetworkGatewayGroup ops/gw")
    assert found.words == f"{FAR} sees {words.format(holder=found.holder)}: {decided}"
    assert (found.holder in NODES) == (found.dropped is None)


def test_a_pod_of_another_node_is_seen_as_that_node() -> None:
    found = asked(TwoNodeCluster(*PODS), "guest/far", FAR)
    assert found.lines[-1] == f"{FAR} sees 192.168.0.2 (node b): no policy and no list has it"


def test_an_unknown_pod_of_a_node_s_range_is_named_as_any_other() -> None:
    limited = nat_policy("some", "NoSNAT", "203.0.113.0/24", sources={"podSelector": {}})
    found = asked(TwoNodeCluster(*PODS, limited), "10.64.0.99", FAR)
    assert found.lines[-1] == f"{FAR} sees {NODE_A}: no policy and no list has it"


@pytest.mark.parametrize("destination", ["guest/far:80", "192.168.0.2:80"], ids=["a Pod", "a node"])
def test_the_cluster_s_own_ends_need_no_line(destination: str) -> None:
    found = asked(TwoNodeCluster(*PODS), "shop/web", destination)
    assert found.translation is not None
    assert found.translation.kind == "cluster"
    assert not any(" sees " in line for line in found.lines)


def test_an_unknown_address_of_a_cluster_range_has_one() -> None:
    found = asked(TwoNodeCluster(*PODS, nat_policy("all", "SNAT", "0.0.0.0/0")), "shop/web", "10.64.1.99:80")
    assert found.lines[-1] == f"10.64.1.99 sees {OWN}: 10.64.1.0/24 is in the cluster, where nothing is translated"


@pytest.mark.parametrize("source", [*NODES, FAR], ids=["node a", "node b", "outside"])
def test_neither_a_node_s_traffic_nor_an_outside_host_s_is_a_pod_s(source: str) -> None:
    clusters = TwoNodeCluster(*PODS)
    found = asked(clusters, clusters.address(source), "198.51.100.9")
    assert found.translation is None


def test_a_family_that_is_off_is_named() -> None:
    found = asked(TwoNodeCluster(*PODS, masquerade=MasqueradeSettings(ipv6=False)), "shop/web", FAR_V6)
    assert found.lines[-1] == f"{FAR_V6} sees {OWN_V6}: masquerade is off for this family"


def test_what_is_never_forwarded_has_no_translation() -> None:
    assert asked(TwoNodeCluster(*PODS), "shop/web", "fe80::1").translation is None


def test_a_denied_connection_has_its_translation_too() -> None:
    found = asked(TwoNodeCluster(*PODS, policy("shop/closed", types=["Egress"])), "shop/web", FAR)
    assert not found.allowed
    assert found.translation is not None
    assert found.translation.kind == "node"


def test_programs_get_it_in_fields() -> None:
    found = asked(TwoNodeCluster(*PODS), "shop/web", "10.1.2.3")
    view = msgspec.json.decode(msgspec.json.encode(explanation_view(found)))
    assert view["translation"] == {
        "kind": "kept",
        "seen_as": ["10.64.0.10"],
        "by": None,
        "prefix": "10.0.0.0/8",
        "words": found.lines[-1],
        "is_shown": True,
        "gateway": None,
        "holder": None,
        "dropped": None,
    }
