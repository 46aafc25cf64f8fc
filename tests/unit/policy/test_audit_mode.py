"""Audit mode: what audited policies alone would deny passes, counted and logged; what the others deny is denied."""

from __future__ import annotations

import pytest

from nfagent.model.objects import ObjectRef
from nfagent.nftables.verdict_keys import VerdictKey
from nfagent.policy.evaluator import DirectionVerdict, evaluate
from nfagent.verdicts.records import Disposition
from tests.support.nft_interpreter import run, seen_at, stray
from tests.support.two_node_cluster import (
    Document,
    TwoNodeCluster,
    hops,
    labelled,
    namespace,
    pod,
    policy,
    tier_policy,
)

PODS = (
    namespace("shop"),
    pod("shop/web", "b", 10, app="web"),
    pod("shop/db", "a", 11, app="db"),
)
DB = labelled(app="db")
ALL: Document = {"namespaces": {}}
WEB = {"from": [{"podSelector": labelled(app="web")}]}
ALLOW, DENY, PASS = ({"action": action, "from": [ALL]} for action in ("Allow", "Deny", "Pass"))


def audited(document: Document, value: object = "true") -> Document:
    return document | {"metadata": document["metadata"] | {"annotations": {"nfagent.io/audit": value}}}


def isolating(name: str, *rules: Document) -> Document:
    return policy(f"shop/{name}", DB, types=["Ingress"], ingress=list(rules))


def admin(name: str, priority: int, *rules: Document) -> Document:
    return tier_policy("AdminNetworkPolicy", name, ALL, priority=priority, ingress=list(rules))


def baseline(*rules: Document) -> Document:
    return tier_policy("BaselineAdminNetworkPolicy", "default", ALL, ingress=list(rules))


ENFORCED_NAMESPACE = namespace("shop")
AUDITED_NAMESPACE = audited(namespace("shop"))

CASES = {
    "an isolation by audited policies alone passes and is counted": ([audited(isolating("new"))], "audit-deny new"),
    "an isolation by an enforced policy beside it is enforced": (
        [isolating("old"), audited(isolating("new"))],
        "deny old",
    ),
    "what an audited policy allows passes although an enforced one isolates": (
        [isolating("old"), audited(isolating("new", WEB))],
        "allow new",
    ),
    "an audited policy that allows is an allow, no audit": ([audited(isolating("new", WEB))], "allow new"),
    "an audited deny of the admin tier passes": ([audited(admin("new", 1, DENY))], "audit-deny new"),
    "without it an enforced policy of the tier denies": (
        [audited(admin("new", 1, DENY)), admin("old", 2, DENY)],
        "deny old",
    ),
    "or a NetworkPolicy does": ([audited(admin("new", 1, DENY)), isolating("old")], "deny old"),
    "or the baseline tier does": ([audited(admin("new", 1, DENY)), baseline(DENY)], "deny default"),
    "or a later policy allows, and it is an audit": (
        [audited(admin("new", 1, DENY)), admin("old", 2, ALLOW), isolating("other")],
        "audit-deny new",
    ),
    "or the tier passes to a NetworkPolicy that allows": (
        [audited(admin("new", 1, DENY)), admin("old", 2, PASS), isolating("other", WEB)],
        "audit-deny new",
    ),
    "or it passes to a NetworkPolicy that denies": (
        [audited(admin("new", 1, DENY)), admin("old", 2, PASS), isolating("other")],
        "deny other",
    ),
    "an enforced deny before an audited one is enforced": (
        [admin("old", 1, DENY), audited(admin("new", 2, DENY))],
        "deny old",
    ),
    "an audited isolation lets the baseline tier deny as without it": (
        [audited(isolating("new")), baseline(DENY)],
        "deny default",
    ),
    "and lets it allow": ([audited(isolating("new")), baseline(ALLOW)], "audit-deny new"),
    "an audited deny of the baseline tier passes": ([audited(baseline(DENY))], "audit-deny default"),
    "an audited pass that leads past an enforced allow to an isolation is named": (
        [audited(admin("new", 1, PASS)), admin("old", 2, ALLOW), isolating("other")],
        "audit-deny new",
    ),
    "an audited pass that leads to an isolation which applies without it, too, is a deny": (
        [audited(admin("new", 1, PASS)), isolating("other")],
        "deny other",
    ),
    "an audited pass that leads past an enforced deny to an allow holds": (
        [audited(admin("new", 1, PASS)), admin("old", 2, DENY), isolating("other", WEB)],
        "allow other",
    ),
    "a Namespace audits its NetworkPolicies": ([AUDITED_NAMESPACE, isolating("new")], "audit-deny new"),
    "and no policy of the tiers": ([AUDITED_NAMESPACE, admin("old", 1, DENY)], "deny old"),
    "a policy that can't be read and is audited closes nothing": (
        [audited(policy("shop/new", DB, types=["Inwards"]))],
        "audit-deny new",
    ),
    **{
        f"the value {value!r} enforces": ([audited(isolating("new"), value)], "deny new")
        for value in ("false", "True", "yes", "", " true", True, 1, None, ["true"])
    },
    "the value True of a Namespace enforces": ([audited(namespace("shop"), "True"), isolating("new")], "deny new"),
}


def side_at_db(scene: TwoNodeCluster) -> DirectionVerdict:
    view = scene.views["a"]
    flow = scene.flow("shop/web", "shop/db", "80/tcp")
    side = evaluate(view.cluster, view.index.policies.values(), flow).ingress
    assert side is not None
    return side


@pytest.mark.parametrize(("documents", "expected"), CASES.values(), ids=CASES)
def test_the_verdict_and_its_policies(documents: list[Document], expected: str) -> None:
    scene = TwoNodeCluster(*PODS, *documents)
    side = side_at_db(scene)
    found: dict[Disposition, tuple[ObjectRef, ...]] = {
        "allow": side.allowing,
        "deny": side.denying,
        "audit-deny": side.audit_denying,
    }
    [(verdict, refs)] = [(verdict, refs) for verdict, refs in found.items() if refs]
    assert f"{verdict} {' '.join(ref.name for ref in refs)}" == expected
    assert scene.passes("shop/web", "shop/db", "80/tcp") == side.allowed == (verdict != "deny")
    flow = scene.flow("shop/web", "shop/db", "80/tcp")
    results = scene.results(flow)
    results += [
        run(scene.views[node].ruleset(), hook, seen_at(hook, stray(flow, "untracked")))
        for node, hook in hops(flow, scene.views["a"].cluster)
    ]
    counted = [result.counters for result in results if result.counters]
    assert counted == [(VerdictKey(verdict, "ingress", refs).name,)] * 2


ENDINGS: dict[str, tuple[list[Document], Document, Document]] = {
    "audit mode of a NetworkPolicy ends": ([], audited(isolating("new")), isolating("new")),
    "audit mode of a policy of the admin tier ends": ([], audited(admin("new", 1, DENY)), admin("new", 1, DENY)),
    "audit mode of a policy of the baseline tier ends": ([], audited(baseline(DENY)), baseline(DENY)),
    "audit mode of a Namespace ends": ([isolating("old")], AUDITED_NAMESPACE, ENFORCED_NAMESPACE),
    "an enforced policy allows no longer what an audited one of the admin tier denies": (
        [audited(admin("new", 1, DENY))],
        isolating("old", WEB),
        isolating("old"),
    ),
    "nor what an audited one passes": ([audited(admin("new", 1, PASS))], isolating("old", WEB), isolating("old")),
    "an enforced policy of the baseline tier denies what an audited isolation did": (
        [audited(isolating("new"))],
        baseline(ALLOW),
        baseline(DENY),
    ),
}


@pytest.mark.parametrize(("others", "before", "after"), ENDINGS.values(), ids=ENDINGS)
def test_a_change_that_denies_re_checks_connections_in_the_same_transaction(
    others: list[Document], before: Document, after: Document
) -> None:
    scene = TwoNodeCluster(*PODS, *others, before)
    view = scene.views["a"]
    view.drain_changes()
    view.clear_recheck(view.recheck_addresses)
    view.drain_changes()
    assert scene.passes("shop/web", "shop/db", "80/tcp")
    scene.put(after)
    assert view.drain_changes() != ()
    assert set(view.recheck_addresses) >= {scene.address("shop/db"), scene.address("shop/db", 6)}
    assert not scene.passes("shop/web", "shop/db", "80/tcp")
    view.clear_recheck(view.recheck_addresses)
    assert view.ruleset() == view.rebuilt().ruleset()


def test_audited_policies_alone_stop_no_broadcast() -> None:
    scene = TwoNodeCluster(*PODS, audited(isolating("new")))
    view = scene.views["a"]
    assert view.ruleset().sets["isolated"].elements == frozenset()
    scene.put(isolating("old"))
    assert view.ruleset().sets["isolated"].elements == {4, 6}
