"""Two readings of the same policies: `evaluate` against what both nodes compile, interpreted."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st

from nfagent.policy.compile import class_rules
from nfagent.policy.evaluate import Flow, evaluate
from nfagent.ruleset.desired import Desired, Item
from tests.interpreter import later, opening, reply, run, stray
from tests.properties.strategies import PROTOCOLS, desired, flows, worlds
from tests.scene import NODES, hops


@settings(max_examples=4 * settings().max_examples)
@given(worlds(), st.lists(PROTOCOLS, min_size=1, max_size=2, unique=True))
def test_evaluate_says_what_the_rules_of_both_nodes_do(
    world: list[Item], protocols: list[tuple[str, int | None]]
) -> None:
    views = {node: desired(node, world) for node in NODES}
    view = views["a"]
    policies = list(view.index.policies.values())
    wrong = []
    for protocol, port in protocols:
        for flow in flows(view.cluster.by_address, protocol, port):
            packet = opening(flow)
            passes = all(run(views[node].ruleset(), hook, packet).accepted for node, hook in hops(flow, view.cluster))
            if evaluate(view.cluster, policies, flow).allowed != passes:
                wrong.append(f"{flow}: rules let it pass: {passes}")
    assert wrong == []


@given(worlds(), PROTOCOLS)
def test_whatever_was_allowed_goes_on_and_its_replies_pass(world: list[Item], protocol: tuple[str, int | None]) -> None:
    view = desired("a", world)
    ruleset = view.ruleset()
    for flow in flows(view.cluster.by_address, *protocol):
        for packet in (later(flow), reply(flow)):
            result = run(ruleset, "forward", packet)
            assert (result.accepted, result.logs, result.counters) == (True, (), ())


@given(worlds(), PROTOCOLS)
def test_a_packet_without_a_connection_passes_an_isolated_pod_only_by_rules_that_name_no_peer(
    world: list[Item], protocol: tuple[str, int | None]
) -> None:
    view = desired("a", world)
    ruleset = view.ruleset()
    for flow in flows(view.cluster.by_address, *protocol):
        egress = [key for key in view.classes_of(flow.source) if key.direction == "egress"]
        ingress = [key for key in view.classes_of(flow.destination) if key.direction == "ingress"]
        judging = [class_rules(key, view.index) for key in (*egress, *ingress)]
        open_to_all = [any(rule.peer is None for rule in rules) for rules in judging]
        for state in ("invalid", "untracked"):
            passes = run(ruleset, "forward", stray(flow, state)).accepted
            if passes != (judging == []):
                assert all(open_to_all)
                assert evaluate_here(view, flow)


def evaluate_here(view: Desired, flow: Flow) -> bool:
    """Judge a flow by the ends that are on this node."""
    judged = evaluate(view.cluster, view.index.policies.values(), flow)
    here = [
        side
        for side in (judged.egress, judged.ingress)
        if side and view.cluster.pods[side.pod.namespace, side.pod.name].node == "a"
    ]
    return all(side.allowed for side in here)


@given(worlds(), PROTOCOLS)
def test_every_log_and_counter_says_which_verdict_it_was(world: list[Item], protocol: tuple[str, int | None]) -> None:
    view = desired("a", world)
    ruleset = view.ruleset()
    for flow in flows(view.cluster.by_address, *protocol):
        result = run(ruleset, "forward", opening(flow))
        dispositions = [origin.disposition for log in result.logs if (origin := view.origin(log.prefix)) is not None]
        assert len(dispositions) == len(result.logs)
        denied = ["deny"] if result.verdict == "drop" else []
        assert [said for said in dispositions if said == "deny"] == (denied if view.logging.deny.log else [])
        assert len([name for name in result.counters if name.startswith("deny/")]) == len(denied)
        if not view.logging.allow.log:
            assert "allow" not in dispositions
