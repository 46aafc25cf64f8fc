"""Traffic of a node itself: policies apply from its Pods to it, not from it to its own Pods."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from nfagent.lab.probes.listeners import Endpoint, ProbeProtocol, pod_endpoints
from nfagent.lab.probes.probe import Probe
from nfagent.lab.topology.plan import NodePlan, grid
from tests.support.packet_labs import ManifestLab, namespace_document, pod_document, policy_document, running_lab

pytestmark = pytest.mark.kernel

PROTOCOLS: list[tuple[ProbeProtocol, int]] = [("tcp", 80), ("udp", 80), ("icmp", 0)]


@pytest.fixture(scope="module", params=["routed", "bridge"])
def lab(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[ManifestLab]:
    nodes, pods, _ = grid(request.param)
    documents = [*(namespace_document(name) for name in "xyz"), *map(pod_document, pods)]
    with running_lab(tmp_path_factory.mktemp("lab"), nodes, pods, documents=documents) as running:
        running.servers.listen(pod_endpoints(running.topology, PROTOCOLS))
        for node in nodes:
            name = running.topology.node_namespace(node.name)
            running.servers.listen(
                Endpoint(name, address, protocol, port) for address in node.addresses for protocol, port in PROTOCOLS
            )
        yield running


@pytest.fixture(autouse=True)
def _tidy(lab: ManifestLab) -> Iterator[None]:
    yield
    lab.delete("policy")


def reached(lab: ManifestLab, source: str, addresses: tuple[str, ...]) -> set[bool]:
    probes = [Probe(source, address, protocol, port) for address in addresses for protocol, port in PROTOCOLS]
    return {outcome.reached for outcome in lab.ask(probes, 0.4).values()}


def nodes_of(lab: ManifestLab) -> tuple[NodePlan, NodePlan]:
    """x/a's node, and the other one."""
    own = lab.topology.nodes[lab.topology.pods["x", "a"].node]
    [other] = [node for node in lab.topology.nodes.values() if node is not own]
    return own, other


def test_51_egress_policies_apply_to_the_nodes_own_addresses(lab: ManifestLab) -> None:
    own, other = nodes_of(lab)
    assert reached(lab, lab.pod("x/a"), own.addresses) == {True}
    lab.apply("policy", policy_document("x", "no-egress", podSelector={}, policyTypes=["Egress"]))
    assert reached(lab, lab.pod("x/a"), own.addresses) == {False}
    assert reached(lab, lab.pod("x/a"), other.addresses) == {False}
    blocks = [{"ipBlock": {"cidr": f"{address}/{128 if ':' in address else 32}"}} for address in own.addresses]
    egress = policy_document("x", "no-egress", podSelector={}, policyTypes=["Egress"], egress=[{"to": blocks}])
    lab.apply("policy", egress)
    assert reached(lab, lab.pod("x/a"), own.addresses) == {True}
    assert reached(lab, lab.pod("x/a"), other.addresses) == {False}


def test_39_a_node_always_reaches_its_own_pods_and_policies_apply_to_other_nodes(lab: ManifestLab) -> None:
    own, other = nodes_of(lab)
    addresses = lab.topology.pods["x", "a"].addresses
    lab.apply("policy", policy_document("x", "closed", podSelector={}, policyTypes=["Ingress", "Egress"]))
    assert reached(lab, lab.topology.node_namespace(own.name), addresses) == {True}
    assert reached(lab, lab.topology.node_namespace(other.name), addresses) == {False}


def test_31_replies_pass_although_egress_is_denied(lab: ManifestLab) -> None:
    lab.apply("policy", policy_document("x", "no-egress", podSelector={}, policyTypes=["Egress"]))
    assert reached(lab, lab.pod("y/b"), lab.topology.pods["x", "a"].addresses) == {True}
    assert reached(lab, lab.pod("x/a"), lab.topology.pods["y", "b"].addresses) == {False}


def test_1_ingress_of_one_policy_does_not_bleed_into_its_egress(lab: ManifestLab) -> None:
    pods = {"matchExpressions": [{"key": "pod", "operator": "In", "values": ["a", "c"]}]}
    both = policy_document("x", "both", podSelector=pods, policyTypes=["Ingress", "Egress"], ingress=[{}])
    lab.apply("policy", both)
    assert reached(lab, lab.pod("x/a"), lab.topology.pods["x", "c"].addresses) == {False}
    assert reached(lab, lab.pod("y/a"), lab.topology.pods["x", "c"].addresses) == {True}
