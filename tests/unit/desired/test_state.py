"""Objects in, rulesets out: what changes, and how long an NFLOG prefix stays known."""

from __future__ import annotations

from time import process_time

import msgspec
import pytest

from nfagent.decode.registry import DECODERS
from nfagent.desired.state import DesiredState
from nfagent.errors import ValidationIssue
from nfagent.model.admin_policy import TierPolicy, TierRule
from nfagent.model.egress_nat import EgressNATPolicy, NetworkGatewayGroup
from nfagent.model.gvk import Item
from nfagent.model.ip_masq import IpMasqConfig
from nfagent.model.netaddr import parse_cidr
from nfagent.model.networkpolicy import NetworkPolicy
from nfagent.model.objects import LoggingSwitch, Namespace, NetworkLogging, Node, ObjectRef, Pod, ServiceCIDR
from nfagent.model.services import Service
from nfagent.nftables.base_chains import BASE_COUNTERS, recheck_sets
from nfagent.nftables.interface_chains import link_chains
from nfagent.nftables.interface_sets import link_sets
from nfagent.nftables.masquerade_chains import UNTRANSLATED_COUNTER
from nfagent.nftables.pod_counts import count_chains, count_shapes
from nfagent.nftables.policy_chains import logging_sets
from nfagent.nftables.verdict_keys import VerdictKey
from nfagent.policy.matching import EVERY_POD
from nfagent.policy.options import PolicyOptions

WEB = Pod("shop", "web", node="a", addresses=("10.64.0.1",))
POLICY = NetworkPolicy(namespace="shop", name="p")
DENIED = "deny ingress shop/p"
ADMIN = TierPolicy(
    kind="AdminNetworkPolicy", name="guard", tier="admin", priority=1, subject=EVERY_POD, ingress=(TierRule("deny"),)
)
BASELINE = TierPolicy(
    kind="BaselineAdminNetworkPolicy",
    name="default",
    tier="baseline",
    subject=EVERY_POD,
    ingress=(TierRule("allow"),),
    egress=(TierRule("allow"),),
)


def test_a_log_prefix_outlives_its_rule_until_another_rule_has_the_name() -> None:
    desired = DesiredState("a")
    assert desired.verdict_key(DENIED) is None
    desired.put(WEB)
    desired.put(POLICY)
    origin = VerdictKey("deny", "ingress", (POLICY.ref,))
    assert (origin.prefix, desired.verdict_key(DENIED)) == (DENIED, origin)
    desired.remove(POLICY.ref)
    desired.put(Node("b"))
    assert desired.verdict_key(DENIED) == origin
    desired.put(POLICY)
    assert desired.verdict_key(DENIED) == origin


def test_only_the_latest_thousand_rules_that_are_gone_are_remembered() -> None:
    desired = DesiredState("a")
    desired.put(WEB)
    policies = [NetworkPolicy(namespace="shop", name=f"p{number}") for number in range(1100)]
    for policy in policies:
        desired.put(policy)
        desired.drain_changes()
        desired.remove(policy.ref)
        desired.drain_changes()
    remembered = [policy for policy in policies if desired.verdict_key(f"deny ingress shop/{policy.name}") is not None]
    assert remembered == policies[-1024:]


def test_the_whole_ruleset_is_the_same_value_until_something_changes() -> None:
    desired = DesiredState("a")
    for item in (WEB, POLICY):
        desired.put(item)
    before = desired.ruleset()
    assert not desired.put(WEB)
    assert desired.ruleset() is before
    desired.remove(POLICY.ref)
    assert desired.ruleset() != before


def test_drained_changes_are_not_returned_again() -> None:
    desired = DesiredState("a")
    desired.mark_synced()
    desired.put(WEB)
    desired.put(POLICY)
    taken = [(desired.dirty, desired.drain_changes() != ()) for _ in range(2)]
    assert taken == [(True, True), (False, False)]


def test_what_is_added_and_removed_between_two_drains_is_no_change() -> None:
    desired = DesiredState("a")
    for item in (WEB, POLICY):
        desired.put(item)
    desired.mark_synced()
    desired.remove(POLICY.ref)
    desired.remove(WEB.ref)
    desired.put(WEB)
    desired.put(POLICY)
    assert desired.drain_changes() == ()


def test_put_and_remove_return_whether_anything_changed() -> None:
    desired = DesiredState("a")
    for item in (WEB, POLICY, Node("a", addresses=("192.168.0.1",)), IpMasqConfig(())):
        assert desired.put(item)
        assert not desired.put(item)
    assert not desired.put(Namespace("shop", (("kubernetes.io/metadata.name", "shop"),)))
    assert desired.remove(POLICY.ref)
    assert not desired.remove(POLICY.ref)
    assert desired.remove(IpMasqConfig().ref)
    assert not desired.remove(IpMasqConfig().ref)
    assert not desired.remove(ObjectRef("NetworkLogging", "", "default"))


def test_the_removal_of_a_network_logging_of_another_name_switches_nothing_off() -> None:
    desired = DesiredState("a")
    desired.put(NetworkLogging(deny=LoggingSwitch(log=True)))
    assert not desired.remove(ObjectRef("NetworkLogging", "", "other"))
    assert desired.logging.deny.log
    assert desired.remove(ObjectRef("NetworkLogging", "", "default"))
    assert not desired.logging.deny.log


EVERY_KIND: tuple[Item, ...] = (
    *(WEB, POLICY, ADMIN, BASELINE, Namespace("shop", ()), Node("a"), Service(namespace="shop", name="web")),
    TierPolicy(kind="ClusterNetworkPolicy", name="guard", tier="admin", priority=1, subject=EVERY_POD),
    ServiceCIDR("kubernetes", (parse_cidr("10.96.0.0/12"),)),
    IpMasqConfig(),
    EgressNATPolicy(name="default", action="NoSNAT"),
    NetworkGatewayGroup("kube-system", "gw", ("192.0.2.10",)),
    NetworkLogging(),
)


@pytest.mark.parametrize("item", EVERY_KIND, ids=lambda item: item.ref.kind)
def test_the_keys_of_a_kind_follow_its_objects(item: Item) -> None:
    desired = DesiredState("a")
    held = []
    for happens in (desired.put, lambda item: desired.remove(item.ref)):
        held.append(list(desired.keys(item.ref.kind)))
        happens(item)
    held.append(list(desired.keys(item.ref.kind)))
    assert held == [[], [(item.ref.namespace, item.ref.name)], []]


def test_every_kind_that_is_read_is_tested_above() -> None:
    assert {item.ref.kind for item in EVERY_KIND} == {kind for _, kind in DECODERS}


def test_counting_and_finding_keys_of_ten_thousand_policies_does_not_iterate_over_them() -> None:
    desired = DesiredState("a")
    for number in range(10_000):
        desired.put(NetworkPolicy(namespace="shop", name=f"p{number}"))
    desired.put(ADMIN)

    def seconds() -> float:
        began = process_time()
        for _ in range(1_000):
            held = desired.keys("NetworkPolicy")
            assert len(held) == 10_000
            assert ("shop", "p9999") in held
            assert ("shop", "q") not in held
            assert list(desired.keys("AdminNetworkPolicy")) == [("", "guard")]
        return process_time() - began

    # What a virtual machine's host takes away counts as CPU time: of one of several tries.
    assert min(seconds() for _ in range(3)) < 0.8, "a millisecond each"
    assert ("", "guard") not in set(desired.keys("NetworkPolicy"))


def test_a_kind_that_is_not_read_has_no_keys() -> None:
    assert list(DesiredState("a").keys("Secret")) == []


def test_removing_a_pod_that_is_not_there_changes_nothing() -> None:
    desired = DesiredState("a")
    assert not desired.remove(ObjectRef("Pod", "shop", "none"))


def test_a_policy_that_selects_no_local_pod_needs_no_chain() -> None:
    desired = DesiredState("a")
    desired.put(Node("b", pod_cidrs=(parse_cidr("10.64.1.0/24"),)))
    desired.put(Pod("shop", "far", node="b", addresses=("10.64.1.1",)))
    desired.put(POLICY)
    ruleset = desired.ruleset()
    assert ruleset.sets.keys() == {
        *("isolated", "podpairs4", "podpairs6"),
        *dict(recheck_sets()),
        *dict(link_sets()),
        *dict(logging_sets()),
        *dict(count_shapes()),
    }
    assert ruleset.counters == {*BASE_COUNTERS, UNTRANSLATED_COUNTER}
    assert {name for name, chain in ruleset.chains.items() if chain.hook is None} == {
        *("errors-egress", "errors-ingress", "forward-groups", "forward-link-local", "forward-multicast"),
        *("stray-egress", "stray-ingress"),
        *(name for name, chain in link_chains(PolicyOptions(), 0) if chain.hook is None),
        *dict(count_chains()),
    }


def test_a_policy_of_the_tiers_comes_and_goes_by_its_kind_like_any_object() -> None:
    desired = DesiredState("a")
    desired.put(WEB)
    before = desired.ruleset()
    origin = VerdictKey("deny", "ingress", (ADMIN.ref,))
    assert [desired.put(ADMIN), desired.put(ADMIN)] == [True, False]
    assert desired.verdict_key("deny ingress anp.guard") == origin
    assert desired.ruleset().counters - before.counters == {"deny/ingress/anp.guard"}
    assert [desired.remove(ADMIN.ref), desired.remove(ADMIN.ref)] == [True, False]
    assert (desired.verdict_key("deny ingress anp.guard"), desired.ruleset()) == (origin, before)


def test_a_policy_of_the_tiers_whose_subject_can_not_be_read_any_more_keeps_it() -> None:
    desired = DesiredState("a")
    for item in (WEB, ADMIN):
        desired.put(item)
    problem = ValidationIssue(field="spec.subject", reason="can't be read")
    closed = (TierRule("deny", problem=problem),)
    desired.put(msgspec.structs.replace(ADMIN, subject=None, ingress=closed, problem=problem))
    found = desired.find(ADMIN.ref)
    assert isinstance(found, TierPolicy)
    assert (found.subject, found.problem) == (EVERY_POD, problem)
    assert "deny/ingress/anp.guard" in desired.ruleset().counters
    desired.remove(ADMIN.ref)
    assert desired.find(ADMIN.ref) is None


@pytest.mark.parametrize(
    ("policies", "classes"),
    [
        pytest.param([POLICY], [("ingress", 1, 0, 0)], id="a NetworkPolicy alone"),
        pytest.param([ADMIN], [("ingress", 0, 1, 0)], id="the admin tier alone"),
        pytest.param(
            [BASELINE], [("egress", 0, 0, 1), ("ingress", 0, 0, 1)], id="the baseline tier, in both directions"
        ),
        pytest.param([ADMIN, POLICY], [("ingress", 1, 1, 0)], id="the admin tier before a NetworkPolicy"),
        pytest.param([ADMIN, BASELINE], [("egress", 0, 0, 1), ("ingress", 0, 1, 1)], id="both tiers"),
        pytest.param(
            [ADMIN, POLICY, BASELINE],
            [("egress", 0, 0, 1), ("ingress", 1, 1, 0)],
            id="no baseline where a NetworkPolicy isolates, and in that direction only",
        ),
    ],
)
def test_the_policy_sets_of_a_pod_are_by_direction_the_policies_that_apply(
    policies: list[Item], classes: list[tuple[str, int, int, int]]
) -> None:
    desired = DesiredState("a")
    for item in (*policies, WEB):
        desired.put(item)
    found = desired.policy_sets_of(WEB.addresses[0])
    assert [(key.direction, len(key.policies), len(key.admin), len(key.baseline)) for key in found] == classes
