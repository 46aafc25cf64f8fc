"""The setting `own_node`: whether policies apply to a Pod's traffic to its own node; to other nodes they always do."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from nfagent.lab.cluster.agents import LabAgent
from nfagent.lab.probes.listeners import Endpoint, ProbeProtocol
from nfagent.lab.probes.probe import Probe
from nfagent.lab.topology.plan import NodePlan, grid
from tests.support.packet_labs import ManifestLab, namespace_document, pod_document, policy_document, running_lab

pytestmark = pytest.mark.kernel

NODES, PODS, _ = grid()
PROTOCOLS: list[tuple[ProbeProtocol, int]] = [("tcp", 80), ("udp", 80), ("icmp", 0)]
CLOSED = policy_document("x", "closed", podSelector={}, policyTypes=["Ingress", "Egress"])


@pytest.fixture(scope="module")
def lab(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ManifestLab]:
    documents = [*(namespace_document(name) for name in "xyz"), *map(pod_document, PODS), CLOSED]
    with running_lab(tmp_path_factory.mktemp("lab"), NODES, PODS, documents=documents) as running:
        for node in NODES:
            name = running.topology.node_namespace(node.name)
            running.servers.listen(
                Endpoint(name, address, protocol, port) for address in node.addresses for protocol, port in PROTOCOLS
            )
        yield running


def restarted(lab: ManifestLab, own_node: str) -> tuple[NodePlan, NodePlan]:
    """Start the agent of x/a's node anew with a setting; give that node, and the other one."""
    agent: LabAgent = lab.cluster.agent(lab.topology.pods["x", "a"].node)
    agent.stop()
    agent.start({"NFAGENT_POLICY_OWN_NODE": own_node})
    own = lab.topology.nodes[agent.node]
    [other] = [node for node in NODES if node is not own]
    return own, other


def reached(lab: ManifestLab, node: NodePlan) -> set[bool]:
    """Return the results of probes from x/a to a node's addresses, by every protocol and family."""
    probes = [
        Probe(lab.pod("x/a"), address, protocol, port) for address in node.addresses for protocol, port in PROTOCOLS
    ]
    return {outcome.reached for outcome in lab.ask(probes, 0.4).values()}


def test_51_the_setting_allows_and_denies_traffic_to_the_pods_own_node(lab: ManifestLab) -> None:
    own, other = restarted(lab, "allowed")
    assert (reached(lab, own), reached(lab, other)) == ({True}, {False})
    assert lab.cluster.agent(own.name).run("explain", "x/a", f"{own.addresses[0]}:80").returncode == 0
    own, other = restarted(lab, "judged")
    assert (reached(lab, own), reached(lab, other)) == ({False}, {False})
    assert lab.cluster.agent(own.name).run("explain", "x/a", f"{own.addresses[0]}:80").returncode == 1
