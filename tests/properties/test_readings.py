"""Two readings of the same policies: `evaluate` against what both nodes compile, interpreted."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st

from nfagent.policy.compile import ClassKey, ClassRule, NamedPorts, compile_rules
from nfagent.policy.evaluate import evaluate
from nfagent.policy.tiers import Action, Tier
from nfagent.ruleset.desired import Desired, Item
from nfagent.ruleset.translation import UNTRANSLATED_COUNTER
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
def test_a_packet_without_a_connection_is_judged_by_rules_without_peer_and_port_and_passes_no_tier_that_denies(
    world: list[Item], protocol: tuple[str, int | None]
) -> None:
    view = desired("a", world)
    ruleset = view.ruleset()
    for flow in flows(view.cluster.by_address, *protocol):
        egress = [key for key in view.classes_of(flow.source) if key.direction == "egress"]
        ingress = [key for key in view.classes_of(flow.destination) if key.direction == "ingress"]
        passes = all(let_in(view, key, flow.protocol) for key in (*egress, *ingress))
        assert run(ruleset, "forward", stray(flow, "untracked")).accepted == passes
        # What conntrack calls invalid isn't translated: it may not leave with a Pod's address (corner-cases.md 33).
        translated = run(ruleset, "forward", opening(flow)).translated
        invalid = run(ruleset, "forward", stray(flow, "invalid"))
        assert invalid.accepted <= passes
        if UNTRANSLATED_COUNTER in invalid.counters:
            assert (invalid.accepted, passes) == (False, True)
        else:
            assert invalid.accepted == passes
            assert not (passes and translated)


def let_in(view: Desired, key: ClassKey, protocol: str) -> bool:
    """Judge a packet that no rule about a connection can match, by what is left of a class."""
    tiers: dict[Tier, list[Action]] = {"admin": [], "baseline": []}
    for section in key.sections:
        tiers[section.tier] = [rule.action for rule in compile_rules(section, view.index) if is_blind(rule, protocol)]
    network: list[Action] = [rule.action for rule in compile_rules(key, view.index) if is_blind(rule, protocol)]
    isolated: list[Action] = ["deny"] if key.policies else []
    stages = (tiers["admin"][:1], [*network, *isolated][:1], tiers["baseline"][:1])
    # A rule that denies can't tell whether such a packet is meant, so it passes only where no rule of a tier denies.
    denying = any(rule.action == "deny" for part in key.sections for rule in compile_rules(part, view.index))
    return next((action == "allow" for stage in stages for action in stage if action != "pass"), not denying)


def is_blind(rule: ClassRule, protocol: str) -> bool:
    """Tell whether a rule matches a protocol without looking at a connection's ends."""
    port = rule.port
    if rule.peer is not None or isinstance(port, NamedPorts):
        return False
    return port is None or (not port.first and port.protocol == protocol)


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
