"""Who decided, in a few words."""

from __future__ import annotations

import pytest

from nfagent.explain.short_phrasing import reason
from nfagent.policy.evaluator import evaluate_direction
from tests.support.two_node_cluster import Document, TwoNodeCluster, labelled, pod, policy, tier_policy

WEB = [{"podSelector": labelled(app="web")}]
ELSE = [{"podSelector": labelled(app="else")}]
ANY_NAMESPACE: list[Document] = [{"namespaces": {}}]
SUBJECT: Document = {"namespaces": {}}
CIDR = {"from": [{"ipBlock": {"cidr": "10.0.0.0/33"}}]}
NO_DOMAINS = tier_policy(
    "ClusterNetworkPolicy",
    "names",
    SUBJECT,
    tier="Admin",
    priority=1,
    ingress=[{"action": "Deny", "from": [{"domainNames": ["example.com"]}]}],
)


def audited(document: Document) -> Document:
    return document | {"metadata": document["metadata"] | {"annotations": {"nfagent.io/audit": "true"}}}


def guard(action: str, priority: int = 1) -> Document:
    rules = [{"action": action, "from": ANY_NAMESPACE}]
    return tier_policy("AdminNetworkPolicy", "guard", SUBJECT, priority=priority, ingress=rules)


CASES = [
    pytest.param((), "no policy applies to it", id="no policy"),
    pytest.param((guard("Pass"),), "no policy decides", id="a tier that passes"),
    pytest.param((guard("Deny"),), "rule 1 of 1 in AdminNetworkPolicy guard denies it", id="a tier that denies"),
    pytest.param((guard("Allow"),), "rule 1 of 1 in AdminNetworkPolicy guard allows it", id="a tier that allows"),
    pytest.param(
        (NO_DOMAINS,), "rule 1 of 1 in ClusterNetworkPolicy names can't be read: it fails closed", id="an unread rule"
    ),
    pytest.param(
        (guard("Deny", priority=5000),), "AdminNetworkPolicy guard can't be read: it fails closed", id="an unread tier"
    ),
    pytest.param((policy("shop/p"),), "NetworkPolicy shop/p isolates it; it has no rules", id="no rules"),
    pytest.param(
        (policy("shop/p", ingress=[{"from": ELSE}]),),
        "NetworkPolicy shop/p isolates it; its only rule doesn't match",
        id="one rule, of another peer",
    ),
    pytest.param(
        (policy("shop/p", ingress=[{"from": ELSE}, {"from": ELSE}]),),
        "NetworkPolicy shop/p isolates it; none of its 2 rules matches",
        id="rules of other peers",
    ),
    pytest.param(
        (policy("shop/p", ingress=[{"from": ELSE}, {"from": WEB, "ports": [{"port": 22}]}]),),
        "NetworkPolicy shop/p isolates it; rule 2 of 2 has other ports",
        id="a rule that comes near",
    ),
    pytest.param(
        (policy("shop/p"), policy("shop/q")),
        "2 NetworkPolicies isolate it (shop/p, shop/q); none of their rules matches",
        id="two that isolate",
    ),
    pytest.param(
        tuple(policy(f"shop/p{number}") for number in range(5)),
        "5 NetworkPolicies isolate it (shop/p0, shop/p1, shop/p2, 2 more); none of their rules matches",
        id="many that isolate",
    ),
    pytest.param(
        (policy("shop/p", ingress=[CIDR]),), "NetworkPolicy shop/p can't be read: it fails closed", id="unread"
    ),
    pytest.param(
        (policy("shop/p", ingress=[{"from": ELSE}, {"from": WEB}]),),
        "rule 2 of 2 in NetworkPolicy shop/p allows it",
        id="a rule that allows",
    ),
    pytest.param(
        (policy("shop/p", ingress=[{}]), policy("shop/q", ingress=[{"from": WEB}, {}])),
        "rule 1 of 1 in NetworkPolicy shop/p allows it (and 2 more)",
        id="several rules that allow",
    ),
    pytest.param(
        (audited(policy("shop/p")),), "only audited policies deny it: shop/p", id="an audited policy that isolates"
    ),
    pytest.param(
        (audited(policy("shop/p")), policy("shop/q")),
        "NetworkPolicy shop/q isolates it; it has no rules",
        id="an audited policy beside an enforced one",
    ),
]


@pytest.mark.parametrize(("documents", "expected"), CASES)
def test_the_reason_names_what_decided(documents: tuple[Document, ...], expected: str) -> None:
    scene = TwoNodeCluster(pod("shop/web", "a", 10, app="web"), pod("shop/db", "b", 20, app="db"), *documents)
    view = scene.views["b"]
    side = evaluate_direction(
        view.cluster,
        view.index.policies.values(),
        scene.flow("shop/web", "shop/db", "80/tcp"),
        view.cluster.pods["shop", "db"],
        "ingress",
    )
    assert reason(side, view.index.policies) == expected
