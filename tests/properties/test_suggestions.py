"""Each suggestion of `explain`, applied and evaluated again, reverses the verdict."""

from __future__ import annotations

from collections.abc import Iterator

import msgspec
from hypothesis import event, given, settings
from hypothesis import strategies as st

from nfagent.explain.explanation import explain_flow
from nfagent.explain.policy_edits import (
    AddPolicyRule,
    AddPort,
    AddTierRule,
    EndAudit,
    FixField,
    NewPolicy,
    RemoveRules,
    Suggestion,
)
from nfagent.model.admin_policy import Policy, TierPolicy, TierRule
from nfagent.model.gvk import Item
from nfagent.model.networkpolicy import NetworkPolicy, NetworkPolicyRule, PolicyPort
from nfagent.model.objects import Direction, ObjectRef
from nfagent.policy.evaluator import DirectionVerdict, Flow, evaluate
from nfagent.state.cluster import ClusterState
from nfagent.state.policy_index import PolicyIndex
from tests.properties.strategies import PROTOCOLS, desired, flows, worlds
from tests.properties.tier_strategies import tier_policies

Policies = dict[ObjectRef, Policy]


def with_rules(
    policy: Policy, direction: Direction, rules: tuple[NetworkPolicyRule, ...] | tuple[TierRule, ...]
) -> Policy:
    return msgspec.structs.replace(policy, **{direction: rules})


def listed(port: PolicyPort | None) -> tuple[PolicyPort, ...]:
    return () if port is None else (port,)


def network(policies: Policies, ref: ObjectRef) -> NetworkPolicy:
    policy = policies[ref]
    assert isinstance(policy, NetworkPolicy)
    return policy


def changed(policies: Policies, suggestion: Suggestion) -> Iterator[Policies]:
    """Make a change, in every way that it names."""
    way = suggestion.direction
    match suggestion:
        case EndAudit(objects=refs):
            if policies.keys() >= set(refs):  # none of them is a Namespace
                yield policies | {ref: msgspec.structs.replace(policies[ref], audit=False) for ref in refs}
        case AddPort(policy=ref, rule=index, port=port):
            rules = list(network(policies, ref).rules(way))
            rules[index] = NetworkPolicyRule(rules[index].peers, (*rules[index].ports, port))
            yield policies | {ref: with_rules(policies[ref], way, tuple(rules))}
        case AddPolicyRule(policy=ref, peer=peer, port=port):
            rule = NetworkPolicyRule((peer,), listed(port))
            yield policies | {ref: with_rules(policies[ref], way, (*network(policies, ref).rules(way), rule))}
        case NewPolicy(pods=pods, peer=peer, port=port):
            allowed = () if peer is None else (NetworkPolicyRule((peer,), listed(port)),)
            new = NetworkPolicy(namespace=pods.namespace, name=f"new-{way}", pods=pods.pods, isolates=(way,))
            yield policies | {new.ref: with_rules(new, way, allowed)}
        case RemoveRules(rules=taken):
            left = dict(policies)
            for ref in {ref for ref, _ in taken}:
                kept = [
                    rule for index, rule in enumerate(network(policies, ref).rules(way)) if (ref, index) not in taken
                ]
                left[ref] = with_rules(policies[ref], way, tuple(kept))
            yield left
        case FixField(policy=ref, peer=peer, port=port) if peer is not None:
            fixed = msgspec.structs.replace(network(policies, ref), problem=None)
            yield policies | {ref: with_rules(fixed, way, (NetworkPolicyRule((peer,), listed(port)),))}
        case AddTierRule():
            yield from with_tier_rule(policies, suggestion)


def with_tier_rule(policies: Policies, suggestion: AddTierRule) -> Iterator[Policies]:
    rule = TierRule(suggestion.action, (suggestion.peer,), listed(suggestion.port))
    policy = policies[suggestion.policy]
    assert isinstance(policy, TierPolicy)
    if not suggestion.closed:
        rules = list(policy.rules(suggestion.direction))
        rules.insert(suggestion.rule, rule)
        yield policies | {policy.ref: with_rules(policy, suggestion.direction, tuple(rules))}
    if suggestion.priority:
        new = TierPolicy(
            kind="ClusterNetworkPolicy",
            name="zzz",
            tier=suggestion.tier,
            priority=suggestion.priority - 1,
            subject=policy.subject,
        )
        yield policies | {new.ref: with_rules(new, suggestion.direction, (rule,))}


def side_of(cluster: ClusterState, policies: Policies, flow: Flow, direction: Direction) -> DirectionVerdict:
    verdict = evaluate(cluster, policies.values(), flow)
    side = verdict.egress if direction == "egress" else verdict.ingress
    assert side is not None
    return side


def _fixes_tier(suggestion: Suggestion) -> bool:
    return isinstance(suggestion, FixField) and suggestion.peer is None


def changes_of(end: Direction, policies: Policies, suggestions: tuple[Suggestion, ...]) -> Iterator[Policies]:
    for suggestion in suggestions:
        if suggestion.direction == end:
            event(type(suggestion).__name__)
            yield from changed(policies, suggestion)


@settings(max_examples=2 * settings().max_examples)
@given(worlds(), st.lists(tier_policies(), max_size=3), PROTOCOLS, st.data())
def test_each_change_reverses_the_verdict_of_its_end_and_one_at_every_end_that_denies_allows_it(
    world: list[Item], tiers: list[TierPolicy], protocol: tuple[str, int | None], data: st.DataObject
) -> None:
    cluster, index, policies = taken_in(world, tiers)
    for flow in data.draw(st.permutations(list(flows(cluster.by_address, *protocol))))[:40]:
        found = explain_flow(cluster, index, flow)
        (judged,) = found.judged
        assert found.allowed == evaluate(cluster, policies.values(), flow).allowed
        after, shared = policies, False
        for side, seen in judged.sides:
            for turned in changes_of(side.direction, policies, judged.suggestions):
                assert side_of(cluster, turned, flow, side.direction).allowed != side.allowed, f"{flow}: {found.lines}"
            address = seen.source if side.direction == "egress" else seen.destination
            if not side.allowed and len(cluster.holders(address)) > 1:
                shared = True  # no change to one Pod's policies is sure to open an address that several hold
                assert not any(suggestion.direction == side.direction for suggestion in judged.suggestions)
            elif not side.allowed and not (side.audited and cluster.audits_policies(side.pod.namespace)):
                assert any(suggestion.direction == side.direction for suggestion in judged.suggestions), (
                    f"{flow}: {found.lines}"
                )
            if not side.allowed:
                # In an audited Namespace there may be none: a new NetworkPolicy would be audited.
                shared = shared or all(edit.direction != side.direction for edit in judged.suggestions)
                after = next(changes_of(side.direction, after, judged.suggestions), after)
        fixed = [suggestion for suggestion in judged.suggestions if _fixes_tier(suggestion)]
        if not (found.allowed or fixed or shared):
            assert evaluate(cluster, after.values(), flow).allowed, f"{flow}: {found.lines}"


def taken_in(world: list[Item], tiers: list[TierPolicy]) -> tuple[ClusterState, PolicyIndex, Policies]:
    view = desired("a", world)
    index = PolicyIndex(view.cluster)
    policies: Policies = {**view.index.policies, **{policy.ref: policy for policy in tiers}}
    for policy in policies.values():
        index.put(policy)
    return view.cluster, index, policies
