"""Held packets of unknown Pods: any history, read twice."""

from __future__ import annotations

from hypothesis import event, given
from hypothesis import strategies as st

from nfagent.desired.state import DesiredState
from nfagent.model.gvk import Item
from nfagent.model.objects import Node, Pod
from nfagent.nftables.unknown_pods import UNKNOWN_POD_COUNTER, UNKNOWN_PODS_CHAIN, known_pods_set
from nfagent.policy.evaluator import evaluate
from nfagent.policy.options import PolicyOptions
from tests.properties.strategies import PROTOCOLS, flows, worlds
from tests.support.nft_interpreter import opening, run
from tests.support.two_node_cluster import NODE_ADDRESSES, decoded, node

OF_NODE = {*NODE_ADDRESSES["a"], "10.64.0.0", "10.64.0.1", "2001:db8:0:a::", "2001:db8:0:a::1"}
"""Node a's own addresses: those of its bridge and its tunnel too, unless Pods have them."""
HELD = PolicyOptions(unknown_pods="held")
UNUSED = ("10.64.0.99", "10.64.1.99", "2001:db8:0:a::99", "2001:db8:0:b::99")
"""Addresses of the nodes' Pod ranges that no Pod has."""


@given(worlds(), PROTOCOLS, st.data())
def test_the_rules_hold_what_the_evaluator_says_after_any_history(
    world: list[Item], protocol: tuple[str, int | None], data: st.DataObject
) -> None:
    desired = DesiredState("a", policy_options=HELD)
    history = data.draw(st.permutations([decoded(node("a")), *(item for item in world if not isinstance(item, Node))]))
    for item in history:
        desired.put(item)
        if data.draw(st.booleans()):
            desired.drain_changes()
    pods = [item for item in world if isinstance(item, Pod)]
    for pod in data.draw(st.lists(st.sampled_from(pods), unique=True)) if pods else ():
        desired.remove(pod.ref)
    desired.drain_changes()
    cluster, ruleset, whole = desired.cluster, desired.ruleset(), desired.rebuilt().ruleset()
    for name in (known_pods_set(4), known_pods_set(6)):
        assert ruleset.sets[name] == whole.sets[name]
    assert ruleset.chains[UNKNOWN_PODS_CHAIN] == whole.chains[UNKNOWN_PODS_CHAIN]
    policies = list(desired.index.policies.values())
    for flow in flows((*(address for pod in pods for address in pod.addresses), *UNUSED), *protocol):
        verdict = evaluate(cluster, policies, flow, HELD)
        ends = {flow.source, flow.destination}
        if not any(address not in cluster.by_address for address in ends & OF_NODE):
            result = run(ruleset, "forward", opening(flow))
            event("held" if verdict.barred else "not held")
            assert (UNKNOWN_POD_COUNTER in result.counters) == bool(verdict.barred), flow
        else:
            assert not verdict.barred, flow
