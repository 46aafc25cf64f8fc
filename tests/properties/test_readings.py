"""Two implementations of policies: the evaluator compared with the interpreted rulesets of both nodes."""

from __future__ import annotations

import msgspec
from hypothesis import event, given, settings
from hypothesis import strategies as st

from nfagent.desired.state import DesiredState
from nfagent.model.admin_policy import TierPolicy
from nfagent.model.gvk import Item
from nfagent.model.networkpolicy import NetworkPolicy
from nfagent.model.objects import DIRECTIONS, Namespace
from nfagent.nftables.gateway_chains import NOT_HOLDER_COUNTER
from nfagent.nftables.masquerade_chains import UNTRANSLATED_COUNTER
from nfagent.nftables.verdict_keys import audit_denied_by
from nfagent.policy.evaluator import evaluate
from tests.properties import verdict_flips
from tests.properties.strategies import PROTOCOLS, desired, flows, worlds
from tests.support.nft_interpreter import later, opening, reply, run, seen_at, stray
from tests.support.two_node_cluster import NODES, hops


@settings(max_examples=4 * settings().max_examples)
@given(
    worlds() | verdict_flips.crowded_clusters() | verdict_flips.audited_clusters(),
    st.lists(PROTOCOLS, min_size=1, max_size=2, unique=True),
)
def test_the_evaluator_agrees_with_the_rules_of_both_nodes(
    world: list[Item], protocols: list[tuple[str, int | None]]
) -> None:
    views = {node: desired(node, world) for node in NODES}
    view = views["a"]
    policies = list(view.index.policies.values())
    wrong = []
    for protocol, port in protocols:
        for flow in flows(view.cluster.by_address, protocol, port):
            allowed = evaluate(view.cluster, policies, flow).allowed
            for packet in (opening(flow), stray(flow, "untracked")):
                passes = all(
                    run(views[node].ruleset(), hook, seen_at(hook, packet)).accepted
                    for node, hook in hops(flow, view.cluster)
                )
                if allowed != passes:
                    wrong.append(f"{flow}, {packet.conntrack.state}: rules let it pass: {passes}")
    assert wrong == []


@given(worlds(), PROTOCOLS)
def test_an_allowed_connection_and_its_replies_pass(world: list[Item], protocol: tuple[str, int | None]) -> None:
    view = desired("a", world)
    ruleset = view.ruleset()
    for flow in flows(view.cluster.by_address, *protocol):
        for packet in (later(flow), reply(flow)):
            result = run(ruleset, "forward", packet)
            assert (result.accepted, result.logs, result.counters) == (True, (), ())


@given(worlds(), PROTOCOLS)
def test_an_invalid_packet_is_judged_as_an_untracked_one_and_leaves_only_where_nothing_would_be_translated(
    world: list[Item], protocol: tuple[str, int | None]
) -> None:
    view = desired("a", world)
    ruleset = view.ruleset()
    for flow in flows(view.cluster.by_address, *protocol):
        passes = run(ruleset, "forward", stray(flow, "untracked")).accepted
        # Conntrack doesn't translate invalid packets: they may not leave with a Pod's address (edge case 33).
        translated = run(ruleset, "forward", opening(flow)).translated
        invalid = run(ruleset, "forward", stray(flow, "invalid"))
        assert invalid.accepted <= passes
        if UNTRANSLATED_COUNTER in invalid.counters:
            assert (invalid.accepted, passes) == (False, True)
        else:
            assert invalid.accepted == passes
            assert not (passes and translated)


@given(worlds(), PROTOCOLS)
def test_every_log_and_counter_says_which_verdict_it_was(world: list[Item], protocol: tuple[str, int | None]) -> None:
    view = desired("a", world)
    ruleset = view.ruleset()
    for flow in flows(view.cluster.by_address, *protocol):
        result = run(ruleset, "forward", opening(flow))
        dispositions = [
            origin.disposition for log in result.logs if (origin := view.verdict_key(log.prefix)) is not None
        ]
        assert len(dispositions) == len(result.logs)
        # No verdict of a policy: a holder of floating addresses lets no Pod of another node out without one.
        by_holder = NOT_HOLDER_COUNTER in result.counters
        assert not by_holder or (result.verdict == "drop" and not _is_of_node(view, flow.source, "a"))
        denied = ["deny"] if result.verdict == "drop" and not by_holder else []
        assert [said for said in dispositions if said == "deny"] == (denied if view.logging.deny.log else [])
        assert len([name for name in result.counters if name.startswith("deny/")]) == len(denied)
        if not view.logging.allow.log:
            assert "allow" not in dispositions


@settings(max_examples=8 * settings().max_examples)
@given(worlds() | verdict_flips.crowded_clusters() | verdict_flips.audited_clusters(), PROTOCOLS)
def test_an_audit_deny_names_the_audited_policies_that_deny_what_the_others_allow(
    world: list[Item], protocol: tuple[str, int | None]
) -> None:
    view = desired("a", world)
    cluster, policies = view.cluster, list(view.index.policies.values())
    for flow in flows(cluster.by_address, *protocol):
        if any(len(cluster.holders(address)) > 1 for address in (flow.source, flow.destination)):
            continue  # each Pod has a verdict of its own, and the evaluator's is one of them
        verdict = evaluate(cluster, policies, flow)
        expected = set()
        for side in (verdict.egress, verdict.ingress):
            if side is not None and cluster.pods[side.pod.namespace, side.pod.name].node == "a":
                if side.audit_denying:
                    event("audit-deny")
                    expected.add(audit_denied_by(side.direction, side.audit_denying).name)
                if not side.allowed:
                    break
        for packet in (opening(flow), stray(flow, "untracked")):
            passed = [
                run(view.ruleset(), hook, seen_at(hook, packet)) for node, hook in hops(flow, cluster) if node == "a"
            ]
            found = {name for result in passed for name in result.counters if name.startswith("audit-deny/")}
            assert found == expected, f"{flow}, {packet.conntrack.state}"


@settings(max_examples=4 * settings().max_examples)
@given(worlds() | verdict_flips.crowded_clusters() | verdict_flips.audited_clusters(), PROTOCOLS)
def test_a_connection_passes_where_all_policies_allow_it_or_those_that_are_not_audited(
    world: list[Item], protocol: tuple[str, int | None]
) -> None:
    view = desired("a", world)
    index = view.index
    enforcing = [_replaced(item, audit=False) for item in world]
    without = [policy for policy in index.policies.values() if not index.is_audited(policy)]
    plain = desired("a", enforcing)
    every = list(plain.index.policies.values())
    for flow in flows(view.cluster.by_address, *protocol):
        found = evaluate(view.cluster, index.policies.values(), flow)
        both = (evaluate(plain.cluster, every, flow), evaluate(plain.cluster, without, flow))
        for direction in DIRECTIONS:
            allowed = [getattr(side, direction) is None or getattr(side, direction).allowed for side in both]
            end = flow.source if direction == "egress" else flow.destination
            if len(view.cluster.holders(end)) < 2:
                side = getattr(found, direction)
                assert (side is None or side.allowed) == any(allowed), flow


def _replaced(item: Item, *, audit: bool) -> Item:
    if isinstance(item, Namespace):
        return msgspec.structs.replace(item, audits_policies=audit)
    return msgspec.structs.replace(item, audit=audit) if isinstance(item, NetworkPolicy | TierPolicy) else item


def _is_of_node(view: DesiredState, address: str, node: str) -> bool:
    """Return whether an address is a Node's, or that of a Pod of this node."""
    pod = view.cluster.holder(address)
    return any(address in item.addresses for item in view.cluster.nodes.values()) or (
        pod is not None and pod.node == node
    )
