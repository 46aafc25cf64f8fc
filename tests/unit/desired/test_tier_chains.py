"""Tier chains and verdict chains: shared by policy sets, written for their families, removed with the last user."""

from __future__ import annotations

from itertools import islice

import msgspec
import pytest

from nfagent.model.netaddr import FAMILIES
from nfagent.model.objects import ObjectRef
from nfagent.nftables.base_chains import BASE_COUNTERS
from nfagent.nftables.diff import diff
from nfagent.nftables.masquerade_chains import UNTRANSLATED_COUNTER
from nfagent.nftables.objects import Chain, Goto, Jump, Return, Ruleset
from nfagent.nftables.pod_counts import count_chains
from nfagent.nftables.render import rule_text
from nfagent.nftables.transaction import AddRule, RewriteChain
from nfagent.policy.compiler import INLINE_RULES
from tests.support.two_node_cluster import Document, TwoNodeCluster, labelled, pod, policy, tier_policy

WEB = pod("shop/web", "a", 10, app="web")
DB = pod("shop/db", "a", 11, app="db")
MON = pod("ops/mon", "a", 12, app="mon")
ONLY_IPV6 = MON | {"status": MON["status"] | {"podIPs": [{"ip": "2001:db8:0:a::12"}]}}
ALL_PODS: Document = {"namespaces": {}}
OTHERS: Document = {"namespaces": labelled(team="red")}
SECTION = "admin/ingress/anp.guard"
STANDING = {*BASE_COUNTERS, UNTRANSLATED_COUNTER}


def guard(*rules: Document, subject: Document = ALL_PODS, **more: object) -> Document:
    return tier_policy("AdminNetworkPolicy", "guard", subject, priority=1, ingress=list(rules), **more)


def floor(*rules: Document) -> Document:
    return tier_policy("BaselineAdminNetworkPolicy", "default", ALL_PODS, ingress=list(rules))


def rule(action: str, *peers: Document) -> Document:
    return {"action": action, "from": list(peers or (ALL_PODS,))}


def ruleset(scene: TwoNodeCluster) -> Ruleset:
    return scene.views["a"].ruleset()


def remove(scene: TwoNodeCluster, kind: str, namespace: str, name: str) -> None:
    for view in scene.views.values():
        view.remove(ObjectRef(kind, namespace, name))


def verdicts(chain: Chain) -> list[str]:
    """Return where a chain's rules lead, without their matches."""
    return [rule_text(found).partition(" comment")[0] for found in chain.rules if not found.matches]


@pytest.mark.parametrize(
    ("documents", "chain", "leads"),
    [
        pytest.param([guard(rule("Deny"))], "ingress/admin_anp.guard", [f"jump {SECTION}"], id="the admin tier alone"),
        pytest.param(
            [floor(rule("Deny"))],
            "ingress/baseline_banp.default",
            ["jump baseline/ingress/banp.default"],
            id="the baseline tier alone",
        ),
        pytest.param(
            [guard(rule("Deny")), floor(rule("Deny"))],
            "ingress/admin_anp.guard/baseline_banp.default",
            [f"jump {SECTION}", "jump baseline/ingress/banp.default"],
            id="both",
        ),
        pytest.param(
            [guard(rule("Deny")), policy("shop/p", ingress=[{}]), floor(rule("Deny"))],
            "ingress/admin_anp.guard/shop/p",
            [f"jump {SECTION}", "goto allow/ingress/shop/p", "goto deny/ingress/shop/p"],
            id="a NetworkPolicy between, whose verdict is final",
        ),
    ],
)
def test_a_policy_set_jumps_to_its_tiers_in_order(documents: list[Document], chain: str, leads: list[str]) -> None:
    made = ruleset(TwoNodeCluster(WEB, *documents))
    assert made.maps["ingress4"].elements == {"10.64.0.10": chain}
    assert verdicts(made.chains[chain]) == leads


def test_what_a_rule_of_a_tier_does_is_a_goto_or_a_return() -> None:
    made = ruleset(TwoNodeCluster(WEB, guard(rule("Allow"), rule("Deny"), rule("Pass"))))
    decided = [found.verdict for found in made.chains[SECTION].rules]
    assert decided == [
        verdict
        for verdict in (Goto("allow/ingress/anp.guard"), Goto("deny/ingress/anp.guard"), Return())
        for _family in (4, 6)
    ]


def test_policy_sets_of_several_namespaces_share_a_tier_chain() -> None:
    made = ruleset(TwoNodeCluster(WEB, MON, policy("shop/p"), guard(rule("Deny"))))
    jumping = [name for name, chain in made.chains.items() if any(r.verdict == Jump(SECTION) for r in chain.rules)]
    assert sorted(jumping) == ["ingress/admin_anp.guard", "ingress/admin_anp.guard/shop/p"]
    assert [name for name in made.chains if name.startswith("admin/")] == [SECTION]


def test_a_tier_chain_is_removed_with_its_last_policy_set() -> None:
    scene = TwoNodeCluster(WEB, MON, policy("shop/p"), guard(rule("Deny")))
    remove(scene, "Pod", "shop", "web")
    assert SECTION in ruleset(scene).chains
    remove(scene, "Pod", "ops", "mon")
    left = ruleset(scene)
    assert {name for name in left.chains if "/" in name} == {*dict(count_chains())}
    assert [name for name in left.sets if "/" in name] == []
    assert left.counters == STANDING


def test_a_tier_chain_returns_unchanged() -> None:
    scene = TwoNodeCluster(WEB, guard(rule("Deny"), rule("Allow", OTHERS)))
    before = ruleset(scene)
    remove(scene, "AdminNetworkPolicy", "", "guard")
    assert SECTION not in ruleset(scene).chains
    scene.put(guard(rule("Deny"), rule("Allow", OTHERS)))
    assert ruleset(scene) == before


def one_family(path: str, address: str) -> Document:
    found = pod(path, "a", 1)
    return found | {"status": {"phase": "Running", "podIPs": [{"ip": address}]}}


def families(made: Ruleset, chain: str) -> list[str]:
    return [rule_text(found).split()[2] for found in made.chains[chain].rules if found.matches]


def test_a_tier_chain_has_rules_for_the_families_of_all_its_policy_sets() -> None:
    scene = TwoNodeCluster(one_family("shop/old", "10.64.0.10"), guard(rule("Deny")), policy("shop/p"))
    assert families(ruleset(scene), SECTION) == ["ip"]
    scene.put(one_family("ops/new", "2001:db8:0:a::9"))
    assert families(ruleset(scene), SECTION) == ["ip", "ip6"]
    assert set(ruleset(scene).maps["ingress6"].elements.values()) == {"ingress/admin_anp.guard"}
    remove(scene, "Pod", "shop", "old")
    assert families(ruleset(scene), SECTION) == ["ip6"]


def test_a_changed_policy_of_a_tier_changes_its_tier_chain_and_no_policy_set() -> None:
    scene = TwoNodeCluster(WEB, MON, policy("shop/p", ingress=[{}]), guard(rule("Deny")))
    before = ruleset(scene)
    scene.put(guard(rule("Deny", OTHERS), rule("Deny")))
    touched = {
        getattr(command, "chain", getattr(command, "name", ""))
        for command in diff(before, ruleset(scene))
        if isinstance(command, AddRule | RewriteChain)
    }
    assert touched == {SECTION, f"stray/{SECTION}"}


def test_another_priority_is_another_tier_chain() -> None:
    def second(priority: int) -> Document:
        return tier_policy(
            "ClusterNetworkPolicy", "b", ALL_PODS, tier="Admin", priority=priority, ingress=[rule("Accept")]
        )

    scene = TwoNodeCluster(WEB, guard(rule("Deny")), second(2))
    assert "admin/ingress/anp.guard_cnp.b" in ruleset(scene).chains
    scene.put(second(0))
    sections = [name for name in ruleset(scene).chains if name.startswith("admin/")]
    assert sections == ["admin/ingress/cnp.b_anp.guard"]


def test_rules_that_can_not_be_read_are_written_as_what_they_became() -> None:
    unknown: Document = {"newer": {}}
    made = ruleset(TwoNodeCluster(WEB, guard(rule("Allow", unknown), rule("Pass", unknown))))
    assert [rule_text(found) for found in made.chains[SECTION].rules] == [
        'goto deny/ingress/anp.guard comment "anp.guard ingress[1]"'
    ]
    assert "allow/ingress/anp.guard" not in made.chains


def test_a_tier_chain_whose_rules_match_nothing_is_empty_and_decides_nothing() -> None:
    scene = TwoNodeCluster(WEB, guard(rule("Allow", {"newer": {}})))
    assert ruleset(scene).chains[SECTION] == Chain()
    assert scene.passes("outside", "shop/web", "80/tcp")


def test_a_verdict_chain_exists_while_a_rule_goes_to_it() -> None:
    scene = TwoNodeCluster(
        WEB, DB, MON, policy("shop/p", ingress=[{}]), policy("shop/q", labelled(app="db"), ingress=[{}])
    )
    chains = ruleset(scene).chains
    assert {name for name in chains if name.startswith(("allow/", "deny/"))} == {
        *("allow/ingress/shop/p", "allow/ingress/shop/q", "deny/ingress/shop/p", "deny/ingress/shop/p_q")
    }
    remove(scene, "Pod", "shop", "db")
    assert {name for name in ruleset(scene).chains if name.startswith(("allow/", "deny/"))} == {
        *("allow/ingress/shop/p", "deny/ingress/shop/p")
    }


def test_a_verdict_chain_is_replaced_with_the_rule_that_decides() -> None:
    scene = TwoNodeCluster(WEB, guard(rule("Allow")))
    assert ruleset(scene).counters == STANDING | {"allow/ingress/anp.guard"}
    scene.put(guard(rule("Deny")))
    assert ruleset(scene).counters == STANDING | {"deny/ingress/anp.guard"}
    scene.put(guard(rule("Pass")))
    assert ruleset(scene).counters == STANDING


@pytest.mark.parametrize(
    ("allow", "deny", "filled"),
    [
        (False, False, []),
        (True, False, ["logging-allows"]),
        (False, True, ["logging-denies"]),
        (True, True, ["logging-allows", "logging-denies"]),
    ],
    ids=["off", "allows", "denies", "both"],
)
def test_switching_the_log_fills_and_empties_two_sets_and_changes_no_rule(
    *, allow: bool, deny: bool, filled: list[str]
) -> None:
    scene = TwoNodeCluster(
        WEB, MON, policy("shop/p", ingress=[{}]), guard(rule("Deny", OTHERS), rule("Allow")), floor(rule("Deny"))
    )
    before = ruleset(scene)
    switched = {"cluster": {"allow": {"log": allow}, "deny": {"log": deny}}}
    scene.put({"kind": "NetworkLogging", "metadata": {"name": "default"}, "spec": switched})
    after = ruleset(scene)
    sets = {name: msgspec.structs.replace(before.sets[name], elements=frozenset(FAMILIES)) for name in filled}
    assert after == msgspec.structs.replace(before, sets={**before.sets, **sets})
    scene.views["a"].remove(ObjectRef("NetworkLogging", "", "default"))
    assert ruleset(scene) == before


@pytest.mark.parametrize("steps", range(5), ids=lambda steps: f"after {steps} steps")
def test_a_chain_of_its_own_goes_with_the_rules_of_a_policy_where_preparing_stops_and_begins_again(steps: int) -> None:
    large = policy("shop/p", ingress=[{"ports": [{"port": number}]} for number in range(1, 2 * INLINE_RULES)])
    scene = TwoNodeCluster(WEB, large)
    view = scene.views["a"]
    assert "policy/ingress/shop/p" in ruleset(scene).chains
    scene.put(policy("shop/p", ingress=[]))
    for _ in islice(view.prepare(), steps):
        pass
    assert ruleset(scene) == view.rebuilt().ruleset()


@pytest.mark.parametrize("steps", range(8), ids=lambda steps: f"after {steps} steps")
def test_a_policy_that_changes_after_its_last_pod_went_where_preparing_stopped_ends(steps: int) -> None:
    scene = TwoNodeCluster(WEB, policy("shop/p", ingress=[{"ports": [{"port": 80}]}]))
    assert "ingress/shop/p" in ruleset(scene).chains
    remove(scene, "Pod", "shop", "web")
    view = scene.views["a"]
    for _ in islice(view.prepare(), steps):
        pass
    scene.put(policy("shop/p", ingress=[{"ports": [{"port": 81}]}]))
    assert ruleset(scene) == view.rebuilt().ruleset()


@pytest.mark.parametrize("steps", range(12), ids=lambda steps: f"after {steps} steps")
def test_a_tier_chain_has_the_rules_of_a_family_that_left_and_came_back_where_preparing_stopped(steps: int) -> None:
    scene = TwoNodeCluster(ONLY_IPV6, WEB, guard(rule("Deny")))
    whole = ruleset(scene)
    remove(scene, "Pod", "shop", "web")
    for _ in islice(scene.views["a"].prepare(), steps):
        pass
    scene.put(WEB)
    assert ruleset(scene).chains == whole.chains
