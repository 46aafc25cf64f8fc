"""The admin tiers in the evaluator: subjects, order of evaluation, decisive rule."""

from __future__ import annotations

import pytest

from nfagent.errors import ValidationIssue
from nfagent.model.admin_policy import Policy, TierRule
from nfagent.model.networkpolicy import NetworkPolicy, NetworkPolicyRule, PodPeer
from nfagent.model.objects import ObjectRef
from nfagent.policy.evaluator import RuleOutcome
from nfagent.policy.options import PolicyOptions
from tests.unit.policy.tier_cluster import (
    ALL,
    ALL_PODS,
    DB,
    WEB,
    admin,
    allow,
    baseline,
    cluster_wide,
    deny,
    judged,
    last,
    leave,
    network,
    nodes,
    numbered,
    outcome,
    pods,
    selecting,
)

UNKNOWN = ValidationIssue(reason="no field of the peer is known", field="spec.ingress[0].from[0]")
OPEN = NetworkPolicy(namespace="shop", name="open", pods=selecting(app="db"), ingress=(NetworkPolicyRule(),))
CLOSED = NetworkPolicy(namespace="shop", name="closed", pods=selecting(app="db"))
SEALED = NetworkPolicy(namespace="shop", name="sealed", isolates=("ingress", "egress"))


ORDER = [
    pytest.param((), "default", id="without policies everything is allowed"),
    pytest.param((admin("p", 5, allow()), CLOSED, last(deny())), "admin allow", id="an admin allow is final"),
    pytest.param((admin("p", 5, deny()), OPEN, last(allow())), "admin deny", id="an admin deny is final"),
    pytest.param((admin("p", 5, leave()), CLOSED), "network deny", id="pass goes on to NetworkPolicy"),
    pytest.param((admin("p", 5, deny(DB)), OPEN), "network allow", id="so does a tier without a rule that matches"),
    pytest.param((OPEN, last(deny())), "network allow", id="NetworkPolicy's allow is final: baseline isn't asked"),
    pytest.param((CLOSED, last(allow())), "network deny", id="NetworkPolicy's deny is final: baseline isn't asked"),
    pytest.param((OPEN, CLOSED, last(deny())), "network allow", id="NetworkPolicies add up between the tiers"),
    pytest.param((admin("p", 5, leave()), last(deny())), "baseline deny", id="pass of an unisolated Pod asks baseline"),
    pytest.param((last(deny()),), "baseline deny", id="baseline judges Pods that nothing isolates"),
    pytest.param(
        (NetworkPolicy(namespace="shop", name="out", pods=selecting(app="db"), isolates=("egress",)), last(deny())),
        "baseline deny",
        id="isolation of the other direction doesn't keep baseline away",
    ),
    pytest.param(
        (NetworkPolicy(namespace="shop", name="else", pods=selecting(app="web")), last(deny())),
        "baseline deny",
        id="nor does isolation of another Pod",
    ),
    pytest.param(
        (NetworkPolicy(namespace="ops", name="closed"), last(deny())),
        "baseline deny",
        id="nor that of another Namespace",
    ),
    pytest.param((last(allow(DB)),), "default", id="where no baseline rule matches, it is allowed"),
    pytest.param(
        (admin("p", 5, leave()), admin("q", 6, deny())), "default", id="pass skips the rest of the admin tier"
    ),
    pytest.param(
        (baseline("p", 5, leave()), last(deny())), "default", id="pass in baseline skips the rest of that tier"
    ),
    pytest.param((admin("p", 5, leave(), deny()),), "default", id="pass skips the rest of its own policy"),
    pytest.param((admin("p", 5, allow(WEB), deny()),), "admin allow", id="of a policy's rules the first decides"),
    pytest.param((admin("p", 5, allow(DB), deny()),), "admin deny", id="rules that don't match are passed over"),
    pytest.param((admin("p", 5, allow()), admin("q", 4, deny())), "admin deny", id="the lower priority goes first"),
    pytest.param((admin("p", 10, deny()), admin("q", 9, allow())), "admin allow", id="priorities are numbers"),
    pytest.param((admin("p", 0, deny()), admin("q", 1000, allow())), "admin deny", id="from 0 to 1000"),
    pytest.param((admin("p", 5, allow()), admin("q", 5, deny())), "admin allow", id="a tie goes by name"),
    pytest.param((admin("q", 5, allow()), admin("p", 5, deny())), "admin deny", id="for all actions"),
    pytest.param(
        (admin("p", 5, deny(DB)), admin("q", 5, deny(WEB))), "admin deny", id="both policies of a tie are asked"
    ),
    pytest.param(
        (cluster_wide("p", 5, allow()), admin("q", 5, deny())), "admin allow", id="the kinds of one priority go by name"
    ),
    pytest.param((admin("p", 5, allow()), cluster_wide("o", 5, deny())), "admin deny", id="either before the other"),
    pytest.param(
        (cluster_wide("p", 5, deny()), admin("p", 5, allow())),
        "admin allow",
        id="of one name AdminNetworkPolicy goes first",
    ),
    pytest.param(
        (cluster_wide("p", 4, deny()), admin("a", 5, allow())), "admin deny", id="priority goes before name and kind"
    ),
    pytest.param(
        (last(deny()), baseline("z", 1000, allow())),
        "baseline allow",
        id="BaselineAdminNetworkPolicy is behind every baseline ClusterNetworkPolicy",
    ),
    pytest.param(
        (baseline("p", 7, deny()), baseline("q", 3, allow())),
        "baseline allow",
        id="baseline ClusterNetworkPolicies go by priority",
    ),
    pytest.param(
        (baseline("p", 0, deny()), admin("q", 1000, allow())), "admin allow", id="the tier goes before the priority"
    ),
    pytest.param((admin("p", 5),), "default", id="being a subject denies nothing"),
    pytest.param((admin("p", 5, egress=(deny(),)),), "default", id="rules of the other direction don't matter"),
    pytest.param((admin("p", 5, deny(), subject=WEB),), "default", id="a policy judges its subject alone"),
    pytest.param((admin("p", 5, deny(), subject=None),), "default", id="without a subject it applies to no Pod"),
    pytest.param(
        (admin("p", 5, deny(), subject=pods(selecting(team="blue"))),), "admin deny", id="a subject by its Namespace"
    ),
    pytest.param(
        (admin("p", 5, deny(), subject=pods(selecting(team="red"), app="db")),),
        "default",
        id="a subject is taken by Namespace and Pod labels both",
    ),
    pytest.param(
        (admin("p", 5, deny(), subject=PodPeer(selecting(app="db"), namespace="ops")),),
        "default",
        id="a subject in a Namespace by name",
    ),
]


@pytest.mark.parametrize(("policies", "expected"), ORDER)
def test_what_decides(policies: tuple[Policy, ...], expected: str) -> None:
    found = judged(*policies)
    assert outcome(found.ingress) == expected
    assert outcome(found.egress) == "default"
    assert found.allowed == ("deny" not in expected)


@pytest.mark.parametrize(
    ("rules", "others", "expected"),
    [
        pytest.param(
            ((allow(),), (deny(),)), (), ("admin deny", "admin allow"), id="each direction has rules of its own"
        ),
        pytest.param(((), (allow(),)), (SEALED,), ("admin allow", "network deny"), id="allowed out isn't allowed in"),
        pytest.param(((allow(),), ()), (SEALED,), ("network deny", "admin allow"), id="allowed in isn't allowed out"),
        pytest.param(
            ((), (leave(),)),
            (last(deny(), egress=(allow(),), subject=ALL_PODS),),
            ("baseline allow", "baseline deny"),
            id="pass leaves the tier in its own direction",
        ),
        pytest.param(
            ((allow(),), (leave(),)),
            (last(deny(), egress=(deny(),), subject=ALL_PODS),),
            ("baseline deny", "admin allow"),
            id="and doesn't stop the other",
        ),
    ],
)
def test_egress_and_ingress_are_independent(
    rules: tuple[tuple[TierRule, ...], tuple[TierRule, ...]], others: tuple[Policy, ...], expected: tuple[str, str]
) -> None:
    ingress, egress = rules
    found = judged(admin("p", 1, *ingress, egress=egress, subject=ALL_PODS), *others)
    assert (outcome(found.egress), outcome(found.ingress)) == expected
    assert not found.allowed


def described(rule: RuleOutcome) -> tuple[object, ...]:
    return rule.policy, rule.index, rule.total, rule.words, rule.outcome, rule.action, rule.name


def test_the_stages_are_the_evaluated_tiers_up_to_the_decisive_one() -> None:
    first, second = admin("z", 1, deny(DB, name="stray"), allow(ports=(numbered(81),))), admin("a", 2, leave())
    unasked, closing = admin("b", 3, deny()), last(allow(DB), deny(WEB, name="to the rest"), allow())
    found = judged(closing, unasked, second, first).ingress
    assert found is not None
    upper, lower = found.stages
    assert (upper.tier, upper.policies, upper.verdict) == ("admin", (first.ref, second.ref, unasked.ref), "pass")
    assert [described(rule) for rule in upper.rules] == [
        (first.ref, 0, 2, "pods app=db in all namespaces", "peer", "deny", "stray"),
        (first.ref, 1, 2, "all pods in all namespaces on 81/tcp", "port", "allow", ""),
        (second.ref, 0, 1, "all pods in all namespaces", "matches", "pass", ""),
    ]
    assert (lower.tier, lower.policies, lower.verdict) == ("baseline", (closing.ref,), "deny")
    assert [(rule.index, rule.outcome, rule.action, rule.name) for rule in lower.rules] == [
        (0, "peer", "allow", ""),
        (1, "matches", "deny", "to the rest"),
    ]
    assert (found.decided, found.isolating, found.allowing, found.denying) == (lower, (), (), (closing.ref,))


def test_a_tier_without_a_match_is_a_stage_and_one_without_policies_is_none() -> None:
    strangers = (NetworkPolicyRule((PodPeer(selecting(app="x"), ALL),)),)
    closed = NetworkPolicy(namespace="shop", name="closed", ingress=strangers)
    about, silent = admin("p", 1, deny(DB)), admin("q", 1, egress=(deny(),))
    found = judged(about, silent, OPEN, closed, last(egress=(deny(DB),))).ingress
    assert found is not None
    assert [(stage.tier, stage.policies, stage.verdict, len(stage.rules)) for stage in found.stages] == [
        ("admin", (about.ref,), "", 1),
        ("network", (closed.ref, OPEN.ref), "allow", 2),
    ]
    assert found.isolating == (closed.ref, OPEN.ref)
    assert (found.allowing, found.denying) == ((OPEN.ref,), ())


def test_isolating_policies_deny_together_and_a_policy_of_a_tier_alone() -> None:
    other = NetworkPolicy(
        namespace="shop", name="other", ingress=(NetworkPolicyRule((PodPeer(selecting(app="x"), ALL),)),)
    )
    isolated = judged(admin("p", 1, leave()), CLOSED, other).ingress
    assert isolated is not None
    assert (isolated.denying, isolated.allowing) == ((CLOSED.ref, other.ref), ())
    refused = judged(admin("p", 1, deny(DB)), admin("q", 2, deny()), admin("r", 3, deny()), CLOSED).ingress
    assert refused is not None
    assert (refused.denying, refused.isolating) == ((ObjectRef("AdminNetworkPolicy", "", "q"),), ())
    granted = judged(cluster_wide("q", 2, allow(), allow()), CLOSED).ingress
    assert granted is not None
    assert granted.allowing == (ObjectRef("ClusterNetworkPolicy", "", "q"),)


def test_an_allow_rule_that_can_not_be_read_matches_nothing_and_gives_the_reason() -> None:
    void = TierRule("allow", name="new", problem=UNKNOWN)
    found = judged(admin("p", 1, void), CLOSED).ingress
    assert found is not None
    assert [described(rule) for rule in found.stages[0].rules] == [
        (
            ObjectRef("AdminNetworkPolicy", "", "p"),
            0,
            1,
            "no peer, as it can't be read: no field of the peer is known",
            "peer",
            "allow",
            "new",
        ),
    ]
    assert outcome(found) == "network deny"
    assert outcome(judged(admin("p", 1, void, deny())).ingress) == "admin deny"
    half = TierRule("allow", (WEB,), problem=UNKNOWN)
    assert outcome(judged(admin("p", 1, half, deny())).ingress) == "admin deny"


@pytest.mark.parametrize("source", ["shop/web", "outside", "a"])
@pytest.mark.parametrize("port", ["80/tcp", "icmp"])
def test_a_rule_that_fails_closed_denies_every_peer_and_gives_the_reason(source: str, port: str) -> None:
    found = judged(admin("p", 1, TierRule("deny", problem=UNKNOWN), allow()), OPEN, source=source, port=port).ingress
    assert outcome(found) == "admin deny"
    assert found is not None
    assert [rule.words for rule in found.stages[0].rules] == [
        "anywhere, as it can't be read: no field of the peer is known"
    ]


def test_rules_before_one_that_fails_closed_still_decide() -> None:
    policy = admin("p", 1, allow(WEB), TierRule("deny", problem=UNKNOWN))
    assert outcome(judged(policy).ingress) == "admin allow"
    assert outcome(judged(policy, source="ops/db").ingress) == "admin deny"


@pytest.mark.parametrize("family", [4, 6], ids=["IPv4", "IPv6"])
def test_policies_never_apply_to_host_network_pods(family: int) -> None:
    closed = admin("p", 1, TierRule("deny"), egress=(TierRule("deny"),), subject=WEB)
    found = judged(closed, source="a", destination="outside", family=family)
    assert (found.allowed, found.egress, found.ingress) == (True, None, None)
    found = judged(closed, source="outside", destination="a", family=family)
    assert (found.allowed, found.egress, found.ingress) == (True, None, None)


@pytest.mark.parametrize("family", [4, 6], ids=["IPv4", "IPv6"])
def test_a_node_reaches_its_own_pods_despite_tiers_and_other_sources_do_not(family: int) -> None:
    closed = admin("p", 1, TierRule("deny"))
    own = judged(closed, source="b", family=family)
    assert (own.allowed, own.exempt) == (True, "node b always reaches its own Pods")
    assert outcome(judged(closed, source="a", family=family).ingress) == "admin deny"


@pytest.mark.parametrize(
    ("policy", "expected"),
    [
        pytest.param(admin("p", 1, deny(), egress=(deny(),)), ("admin deny", "admin deny"), id="by the tiers"),
        pytest.param(admin("p", 1, allow(DB), egress=(deny(),)), ("admin deny", "admin allow"), id="at each end"),
        pytest.param(SEALED, ("network deny", "network deny"), id="by NetworkPolicy"),
    ],
)
def test_a_pod_reaches_itself_unless_through_a_service(policy: Policy, expected: tuple[str, str]) -> None:
    direct = judged(policy, source="shop/db")
    assert (direct.allowed, direct.egress, direct.ingress) == (True, None, None)
    assert direct.exempt == "a Pod always reaches itself by its own address"
    hairpin = judged(policy, source="shop/db", translated=True)
    assert (outcome(hairpin.egress), outcome(hairpin.ingress), hairpin.exempt) == (*expected, "")


def test_translation_alone_exempts_no_flow_and_allows_none() -> None:
    assert outcome(judged(admin("p", 1, deny()), translated=True).ingress) == "admin deny"
    assert judged(admin("p", 1, deny()), source="outside", destination="outside").exempt == ""


OWN_NODE = [
    pytest.param((SEALED,), "network deny", id="under egress isolation"),
    pytest.param((admin("p", 1, egress=(deny(nodes()),), subject=WEB),), "admin deny", id="under an admin policy"),
    pytest.param(
        (last(egress=(deny(network("0.0.0.0/0"), network("::/0")),), subject=WEB),), "baseline deny", id="last"
    ),
]


@pytest.mark.parametrize("family", [4, 6], ids=["IPv4", "IPv6"])
@pytest.mark.parametrize(("policies", "expected"), OWN_NODE)
def test_51_a_pod_that_calls_its_own_node_is_evaluated_or_allowed_by_setting(
    policies: tuple[Policy, ...], expected: str, family: int
) -> None:
    assert outcome(judged(*policies, destination="a", family=family).egress) == expected
    free = PolicyOptions(own_node="allowed")
    own = judged(*policies, destination="a", family=family, policy_options=free)
    assert (own.allowed, own.egress, own.exempt) == (
        True,
        None,
        "a Pod may always reach its own node, a: own_node = allowed",
    )
    for other in ("b", "outside", "shop/db"):
        found = judged(*policies, destination=other, family=family, policy_options=free)
        assert found.exempt == ""
        assert found == judged(*policies, destination=other, family=family)
