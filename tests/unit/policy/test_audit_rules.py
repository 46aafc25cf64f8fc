"""Audit mode beside large tiers: its rules don't grow with the policy sets, and to switch it is a small change."""

from __future__ import annotations

import msgspec
import pytest

from nfagent.desired.state import DesiredState
from nfagent.model.admin_policy import Tier, TierAction, TierKind, TierPolicy, TierRule
from nfagent.model.networkpolicy import NetworkPolicy, NetworkPolicyRule, PodPeer
from nfagent.model.objects import Pod
from nfagent.model.selectors import Requirement, Selector
from nfagent.nftables.transaction import ChangeElements

EVERY = Selector()
EVERY_POD = PodPeer(EVERY, namespaces=EVERY)
RULES = 30
"""Rules of each policy of a tier."""


def labelled(value: str) -> Selector:
    return Selector((Requirement("app", "In", (value,)),))


def tier_policy(name: str, priority: int, *actions: TierAction, kind: TierKind = "AdminNetworkPolicy") -> TierPolicy:
    rules = tuple(
        TierRule(actions[number % len(actions)], (PodPeer(labelled(f"{name}-{number}"), namespaces=EVERY),))
        for number in range(RULES)
    )
    tier: Tier = "admin" if kind == "AdminNetworkPolicy" else "baseline"
    return TierPolicy(kind=kind, name=name, tier=tier, priority=priority, subject=EVERY_POD, ingress=rules)


BASELINE = tier_policy("default", 0, "deny", "allow", kind="BaselineAdminNetworkPolicy")
OTHERS = [tier_policy(f"t{number}", number + 1, "allow", "deny", "pass") for number in range(5)]
FIRST: dict[str, TierPolicy] = {
    "a deny of the admin tier": tier_policy("tried", 0, "deny"),
    "a pass of the admin tier": tier_policy("tried", 0, "pass"),
    "every action": tier_policy("tried", 0, "deny", "pass", "allow"),
    "the baseline tier": BASELINE,
}


def cluster(pods: int, *, own_policies: bool, tried: TierPolicy, audit: bool = True) -> DesiredState:
    """Return a node whose Pods are a policy set each; without own_policies they are all one."""
    state = DesiredState("a")
    for number in range(pods):
        name = f"p{number}"
        state.put(Pod("shop", name, (("app", name),), "a", (f"10.64.0.{number + 1}",)))
        if own_policies:
            rules = (NetworkPolicyRule((PodPeer(EVERY, namespace="shop"),)),)
            state.put(NetworkPolicy(namespace="shop", name=name, pods=labelled(name), ingress=rules))
    for policy in (*OTHERS, BASELINE, msgspec.structs.replace(tried, audit=audit)):
        state.put(policy)
    return state


def rules(state: DesiredState) -> int:
    return sum(len(chain.rules) for chain in state.ruleset().chains.values())


@pytest.mark.parametrize("tried", FIRST.values(), ids=FIRST)
def test_another_policy_set_adds_rules_of_its_own_and_none_of_the_tiers(tried: TierPolicy) -> None:
    few, more = (rules(cluster(pods, own_policies=True, tried=tried)) for pods in (4, 5))
    assert more - few < RULES


@pytest.mark.parametrize("own_policies", [True, False], ids=["Pods with NetworkPolicies", "Pods without"])
@pytest.mark.parametrize("tried", FIRST.values(), ids=FIRST)
def test_the_rules_of_the_tiers_are_there_three_more_times_at_most(tried: TierPolicy, *, own_policies: bool) -> None:
    found = rules(cluster(5, own_policies=own_policies, tried=tried))
    plain = rules(cluster(5, own_policies=own_policies, tried=tried, audit=False))
    assert found < 4 * plain


def test_one_audited_deny_at_most_doubles_the_rules() -> None:
    tried = FIRST["a deny of the admin tier"]
    assert rules(cluster(20, own_policies=True, tried=tried)) <= 2 * rules(
        cluster(20, own_policies=True, tried=tried, audit=False)
    )


@pytest.mark.parametrize("audit", [True, False], ids=["audit mode begins", "audit mode ends"])
@pytest.mark.parametrize("tried", FIRST.values(), ids=FIRST)
def test_a_switch_moves_no_pod_and_leaves_the_rules_of_other_policies(tried: TierPolicy, *, audit: bool) -> None:
    state = cluster(5, own_policies=True, tried=tried, audit=not audit)
    before = state.ruleset()
    state.drain_changes()
    state.put(msgspec.structs.replace(tried, audit=audit))
    transaction = state.drain_changes()
    after = state.ruleset()
    assert {name: item.elements for name, item in after.maps.items()} == {
        name: item.elements for name, item in before.maps.items()
    }
    assert {command.set for command in transaction if isinstance(command, ChangeElements)} <= {
        "recheck4",
        "recheck6",
        "rechecking",
    }
    tier = next(name for name in after.chains if name.startswith("admin/ingress/"))
    kept = [rule for rule in after.chains[tier].rules if rule in before.chains[tier].rules]
    assert len(kept) >= len(OTHERS) * RULES
    assert state.rebuilt().ruleset().chains == after.chains
