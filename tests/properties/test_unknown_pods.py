"""Held packets of unknown Pods: any history, read twice."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from nfagent.desired.state import DesiredState
from nfagent.model.gvk import Item
from nfagent.model.netaddr import text
from nfagent.model.objects import Pod
from nfagent.nftables.unknown_pods import UNKNOWN_POD_COUNTER
from nfagent.policy.evaluator import evaluate
from nfagent.policy.held_addresses import held_reason
from nfagent.policy.options import PolicyOptions
from tests.properties.strategies import PROTOCOLS, flows, worlds
from tests.support.nft_interpreter import opening, run
from tests.support.two_node_cluster import hops

HELD = PolicyOptions(unknown_pods="held")


@given(worlds(), PROTOCOLS, st.data())
def test_the_rules_hold_what_the_evaluator_says_after_any_history(
    world: list[Item], protocol: tuple[str, int | None], data: st.DataObject
) -> None:
    desired = DesiredState("a", policy_options=HELD)
    for item in world:
        desired.put(item)
        if data.draw(st.booleans()):
            desired.drain_changes()
    pods = [item for item in world if isinstance(item, Pod)]
    gone = data.draw(st.lists(st.sampled_from(pods), unique=True)) if pods else []
    for pod in gone:
        desired.remove(pod.ref)
    desired.drain_changes()
    cluster, ruleset = desired.cluster, desired.ruleset()
    assert ruleset.sets.keys() >= {"knownpods4", "knownpods6"}
    for name in ("knownpods4", "knownpods6", "podpairs4"):
        assert ruleset.sets[name] == desired.rebuilt().ruleset().sets[name]
    own = cluster.nodes.get("a")
    unused = [text(item.family, item.last - 1) for item in own.pod_cidrs] if own is not None else []
    addresses = [*(address for item in pods for address in item.addresses), *unused]
    policies = list(desired.index.policies.values())
    for flow in flows(addresses, *protocol):
        held = held_reason(cluster, flow.source, flow.destination)
        if all(hook != "forward" for node, hook in hops(flow, cluster) if node == "a"):
            assert not held or own is not None
            continue
        result = run(ruleset, "forward", opening(flow))
        assert (UNKNOWN_POD_COUNTER in result.counters) == bool(held), flow
        assert evaluate(cluster, policies, flow, HELD).allowed or not result.accepted or not held
