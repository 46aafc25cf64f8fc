"""docs/semantics.md, edge cases 28 to 32: connections with NAT, and established connections when policies change."""

from __future__ import annotations

import msgspec
import pytest

from nfagent.explain.explanation import explain_flow
from nfagent.policy.evaluator import Flow, evaluate
from tests.support.edge_cases import BOTH, CLUSTER, blocks, cidrs
from tests.support.nft_interpreter import later, opening, reply, run
from tests.support.two_node_cluster import Document, TwoNodeCluster, labelled, pod, policy

WEB, CACHE, DB = "10.64.0.10", "10.64.0.11", "10.64.1.10"


def verdict(scene: TwoNodeCluster, flow: Flow) -> bool:
    """Ask `evaluate`, `explain`, and the rules of node a, where all policies have their Pods; they have to agree."""
    view = scene.views["a"]
    said = {
        evaluate(view.cluster, view.index.policies.values(), flow, view.policy_options).allowed,
        explain_flow(view.cluster, view.index, flow, view.policy_options).allowed,
        run(view.ruleset(), "forward", opening(flow)).accepted,
    }
    assert len(said) == 1, f"the readings differ on {flow}"
    return said.pop()


def test_28_a_service_is_subject_to_the_policies_of_the_pod_and_port_behind_it() -> None:
    # The client calls 198.18.0.1:80; what is judged is where the connection goes after DNAT, with the Pod's own port.
    behind = {"to": [{"podSelector": labelled(app="cache")}], "ports": [{"port": 6379}]}
    called = {"to": cidrs("198.18.0.0/16"), "ports": [{"port": 80}]}
    flow = Flow(WEB, CACHE, "tcp", 6379, translated=True)
    for rule, passes in ((behind, True), (called, False)):
        scene = TwoNodeCluster(*CLUSTER, policy("shop/p", labelled(app="web"), types=["Egress"], egress=[rule]))
        assert verdict(scene, flow) == passes
        answer = run(scene.views["a"].ruleset(), "forward", reply(flow))
        assert answer.accepted, "replies of what is established pass"


TO_ITSELF = [{"podSelector": labelled(app="web")}]


@pytest.mark.parametrize(
    ("spec", "passes"),
    [
        pytest.param(
            {"types": ["Egress"]}, False, id="[29] isolated on egress, a Pod doesn't reach itself by a Service"
        ),
        pytest.param({"types": ["Ingress"]}, False, id="[29] nor isolated on ingress"),
        pytest.param(
            {"types": BOTH, "egress": [{"to": TO_ITSELF}], "ingress": [{"from": TO_ITSELF}]},
            True,
            id="[29] unless rules for both directions allow it",
        ),
        pytest.param(
            {"types": BOTH, "egress": [{"to": TO_ITSELF}], "ingress": []}, False, id="[29] a rule for one is not enough"
        ),
    ],
)
def test_policies_apply_to_a_hairpin_through_a_service_only(spec: Document, passes: bool) -> None:  # noqa: FBT001 - a column
    scene = TwoNodeCluster(*CLUSTER, policy("shop/p", labelled(app="web"), **spec))
    through = Flow(WEB, WEB, "tcp", 80, translated=True)
    assert verdict(scene, through) == passes
    # Its own address, directly: such packets never leave the Pod, so there are no rules to ask.
    view, direct = scene.views["a"], msgspec.structs.replace(through, translated=False)
    assert evaluate(view.cluster, view.index.policies.values(), direct).allowed
    assert explain_flow(view.cluster, view.index, direct).allowed


def test_30_behind_a_node_port_policies_see_the_address_that_arrives() -> None:
    # Node b took the connection in. By externalTrafficPolicy Cluster it puts its own address into the client's place.
    client = policy("shop/p", labelled(app="web"), ingress=[{"from": cidrs("203.0.113.0/24")}])
    scene = TwoNodeCluster(*CLUSTER, client)
    assert scene.passes("outside", "shop/web", "80/tcp")
    assert not scene.passes("b", "shop/web", "80/tcp")
    scene.put(policy("shop/p", labelled(app="web"), ingress=[{"from": blocks({"cidr": "192.168.0.2/32"})}]))
    assert scene.passes("b", "shop/web", "80/tcp")
    assert not scene.passes("outside", "shop/web", "80/tcp")


FROM_BOTH = policy("shop/p", labelled(app="web"), ingress=[{"from": [{"podSelector": {}}]}])
FROM_CACHE = policy("shop/p", labelled(app="web"), ingress=[{"from": [{"podSelector": labelled(app="cache")}]}])
FROM_FRIENDS = policy("shop/p", labelled(app="web"), ingress=[{"from": [{"podSelector": labelled(friend="yes")}]}])


def friendly(path: str, node: str, number: int) -> Document:
    return pod(path, node, number, app=path.partition("/")[2], friend="yes")


REVOCATIONS: dict[str, tuple[tuple[Document, ...], Document]] = {
    "[32] a policy comes": ((), FROM_CACHE),
    "[32] a policy changes": ((FROM_BOTH,), FROM_CACHE),
    "[32] a Pod is relabelled": (
        (FROM_FRIENDS, friendly("shop/db", "b", 10), friendly("shop/cache", "a", 11)),
        pod("shop/db", "b", 10, app="db"),
    ),
}


@pytest.mark.parametrize("protocol", ["tcp", "udp", "sctp"])
@pytest.mark.parametrize(("before", "change"), REVOCATIONS.values(), ids=REVOCATIONS)
def test_what_a_change_revokes_ends_in_both_directions_and_nothing_else_does(
    before: tuple[Document, ...], change: Document, protocol: str
) -> None:
    scene = TwoNodeCluster(*CLUSTER, *before)
    view = scene.views["a"]
    view.drain_changes()
    view.clear_recheck(view.recheck_addresses)
    revoked, kept = Flow(DB, WEB, protocol, 80), Flow(CACHE, WEB, protocol, 80)
    for flow in (revoked, kept):
        assert verdict(scene, flow)
    scene.put(change)
    view.drain_changes()
    for flow, passes in ((revoked, False), (kept, True)):
        assert verdict(scene, flow) == passes
        for packet in (opening(flow), later(flow), reply(flow)):
            assert run(view.ruleset(), "forward", packet).accepted == passes


def test_32_a_loosened_policy_lets_the_next_packet_of_what_was_dropped_pass() -> None:
    scene = TwoNodeCluster(*CLUSTER, policy("shop/p", types=["Ingress"]))
    # Dropped before it was confirmed: conntrack has no entry of it, so each retry of a SYN is a first packet.
    assert not scene.passes("shop/db", "shop/web", "80/tcp")
    scene.put(policy("shop/p", types=["Ingress"], ingress=[{"from": [{"podSelector": {}}]}]))
    assert scene.passes("shop/db", "shop/web", "80/tcp")
