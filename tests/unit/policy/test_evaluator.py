"""A verdict by NetworkPolicies names the isolating and the allowing policies, and the result of each rule."""

from __future__ import annotations

from nfagent.model.objects import ObjectRef
from nfagent.policy.evaluator import FlowVerdict, evaluate
from tests.support.two_node_cluster import Document, TwoNodeCluster, labelled, pod, policy


def judged(source: str, destination: str, port: str, *policies: Document) -> FlowVerdict:
    scene = TwoNodeCluster(pod("shop/web", "a", 10, app="web"), pod("shop/db", "b", 10, app="db"), *policies)
    view = scene.views["a"]
    return evaluate(view.cluster, view.index.policies.values(), scene.flow(source, destination, port))


def test_every_policy_that_allows_is_named_in_order_and_every_rule_has_its_outcome() -> None:
    found = judged(
        "shop/web",
        "shop/db",
        "80/tcp",
        policy("shop/z", ingress=[{"ports": [{"port": 80}]}]),
        policy("shop/a", ingress=[{"from": [{"podSelector": labelled(app="none")}]}, {"ports": [{"port": 81}]}, {}]),
    )
    assert found.egress is not None
    assert (found.egress.isolating, found.egress.allowed) == ((), True)
    assert found.ingress is not None
    a, z = ObjectRef("NetworkPolicy", "shop", "a"), ObjectRef("NetworkPolicy", "shop", "z")
    assert (found.ingress.isolating, found.ingress.allowing) == ((a, z), (a, z))
    (stage,) = found.ingress.stages
    assert (stage.tier, stage.policies, stage.verdict) == ("network", (a, z), "allow")
    assert found.ingress.decided == stage
    assert [(rule.policy, rule.index, rule.total, rule.words, rule.outcome, rule.action) for rule in stage.rules] == [
        (a, 0, 3, "pods app=none in namespace shop", "peer", "allow"),
        (a, 1, 3, "anywhere on 81/tcp", "port", "allow"),
        (a, 2, 3, "anywhere", "matches", "allow"),
        (z, 0, 1, "anywhere on 80/tcp", "matches", "allow"),
    ]


def test_a_denied_flow_names_the_isolating_policies_and_no_allowing_one() -> None:
    found = judged("shop/web", "shop/db", "80/tcp", policy("shop/p", labelled(app="web"), types=["Egress"]))
    assert found.egress is not None
    refs = (ObjectRef("NetworkPolicy", "shop", "p"),)
    assert (found.egress.isolating, found.egress.allowing, found.egress.denying) == (refs, (), refs)
    assert not found.allowed


def test_an_end_that_nothing_isolates_has_no_stage_and_names_no_policy() -> None:
    found = judged("shop/web", "shop/db", "80/tcp", policy("shop/p", labelled(app="web"), types=["Ingress"]))
    for side in (found.egress, found.ingress):
        assert side is not None
        assert (side.stages, side.decided, side.allowed) == ((), None, True)
        assert (side.isolating, side.allowing, side.denying) == ((), (), ())


def test_a_pod_reaches_itself_and_a_node_its_own_pods() -> None:
    closed = policy("shop/p", types=["Ingress", "Egress"])
    own = judged("shop/web", "shop/web", "80/tcp", closed)
    assert (own.allowed, own.egress, own.ingress) == (True, None, None)
    assert "itself" in own.exempt
    probe = judged("a", "shop/web", "80/tcp", closed)
    assert (probe.allowed, probe.ingress) == (True, None)
    assert "node a" in probe.exempt


def test_ends_that_are_no_pods_have_no_verdict() -> None:
    found = judged("outside", "203.0.113.9", "80/tcp")
    assert (found.allowed, found.egress, found.ingress) == (True, None, None)
