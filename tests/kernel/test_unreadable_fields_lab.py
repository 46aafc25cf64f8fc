"""One unreadable field doesn't drop the whole object, with packets.

The nodes and Pods are those of the inputs: Node n2, of role cp, has an ExternalIP that is empty.
"""

from __future__ import annotations

import copy
import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from nfagent.lab.cluster.agents import LabCluster
from nfagent.lab.probes.listeners import Endpoint, Listeners, pod_endpoints
from nfagent.lab.probes.probe import Probe
from nfagent.lab.topology.netns_topology import NetnsTopology
from nfagent.lab.topology.plan import NodePlan, OutsideHost, PodPlan
from tests.support.packet_labs import Document, ManifestLab, as_text

pytestmark = pytest.mark.kernel

INPUTS = Path(__file__).parents[1] / "faults"
CLUSTER_KINDS = {"Node", "Namespace", "Pod"}
OUTSIDE = OutsideHost("outside", ("192.168.7.7", "10.200.0.10", "198.51.100.10"))
KUBELET = 10250


def documents(name: str) -> list[Document]:
    found: list[Document] = json.loads((INPUTS / name / "objs.json").read_text(encoding="utf-8"))["items"]
    return found


def cluster_of(name: str) -> list[Document]:
    return [document for document in documents(name) if document["kind"] in CLUSTER_KINDS]


def policies_of(name: str) -> list[Document]:
    return [document for document in documents(name) if document["kind"] not in CLUSTER_KINDS]


def node_plan(document: Document) -> NodePlan:
    addresses = [entry["address"] for entry in document["status"]["addresses"] if entry["address"]]
    return NodePlan(document["metadata"]["name"], tuple(addresses), tuple(document["spec"]["podCIDRs"]))


def pod_plan(document: Document) -> PodPlan:
    metadata, addresses = document["metadata"], tuple(entry["ip"] for entry in document["status"]["podIPs"])
    return PodPlan(metadata["namespace"], metadata["name"], document["spec"]["nodeName"], addresses)


CLUSTER = cluster_of("node-with-an-empty-externalip")
NODES = [node_plan(document) for document in CLUSTER if document["kind"] == "Node"]
PODS = [pod_plan(document) for document in CLUSTER if document["kind"] == "Pod"]


@pytest.fixture(scope="module")
def lab(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ManifestLab]:
    folder = tmp_path_factory.mktemp("lab")
    manifests = folder / "manifests"
    manifests.mkdir()
    (manifests / "cluster.yaml").write_text(as_text(CLUSTER), encoding="utf-8")
    with (
        NetnsTopology(NODES, PODS, (OUTSIDE,), tag="t") as topology,
        Listeners() as servers,
        LabCluster(topology, manifests, folder / "agents") as cluster,
    ):
        servers.listen(pod_endpoints(topology, [("tcp", 80)]))
        outside = topology.outside_namespace("outside")
        servers.listen(Endpoint(outside, address, "tcp", 443) for address in OUTSIDE.addresses)
        for node in NODES:
            name = topology.node_namespace(node.name)
            servers.listen(Endpoint(name, address, "tcp", KUBELET) for address in node.addresses)
        yield ManifestLab(topology, servers, cluster)


@pytest.fixture(autouse=True)
def _tidy(lab: ManifestLab) -> Iterator[None]:
    yield
    lab.only_cluster()
    lab.apply("cluster", *CLUSTER)


def to_nodes(lab: ManifestLab) -> dict[str, list[Probe]]:
    """By node, the tries of bug-a/cli to reach its addresses."""
    return {
        node.name: [Probe(lab.pod("bug-a/cli"), address, "tcp", KUBELET) for address in node.addresses]
        for node in NODES
    }


def to_server(lab: ManifestLab, client: str) -> list[Probe]:
    return [Probe(lab.pod(client), lab.address("bug-b/srv", family), "tcp", 80) for family in (4, 6)]


def problems(lab: ManifestLab) -> list[tuple[str, str]]:
    found = lab.cluster.agent("n1").ask("/v1/dump/state")["problems"]
    return [(problem["object"], problem["field"]) for problem in found]


def test_a_deny_by_nodes_holds_for_a_node_whose_external_address_is_empty(lab: ManifestLab) -> None:
    lab.apply("policies", *policies_of("node-with-an-empty-externalip"))
    expected = {probe: node == "n1" for node, probes in to_nodes(lab).items() for probe in probes}
    assert lab.wrong(expected) == []
    assert problems(lab) == [("Node n2", "status.addresses[2].address")]


def test_pods_see_pod_addresses_on_a_node_whose_external_address_is_empty(lab: ManifestLab) -> None:
    probes = [*to_server(lab, "bug-a/cli"), *to_nodes(lab)["n2"]]
    seen = {outcome.seen_from for outcome in lab.ask(probes).values()}
    assert seen == {lab.address("bug-a/cli", 4), lab.address("bug-a/cli", 6)}


def test_an_ip_block_with_leading_zeros_means_the_decimal_address(lab: ManifestLab) -> None:
    lab.apply("policies", *policies_of("leading-zeros"))
    expected = {probe: False for client in ("bug-a/cli", "bug-a/oth") for probe in to_server(lab, client)}
    expected[to_server(lab, "bug-a/cli")[0]] = True
    assert lab.wrong(expected) == []
    assert problems(lab) == [("Node n2", "status.addresses[2].address")]


def test_addresses_with_leading_zeros_match_as_without(lab: ManifestLab) -> None:
    changed = copy.deepcopy(CLUSTER)
    for document in changed:
        for entry in document.get("status", {}).get("podIPs", ()):
            entry["ip"] = entry["ip"].replace("10.64.", "010.064.")
        for entry in document.get("status", {}).get("addresses", ()):
            entry["address"] = entry["address"].replace("192.0.2.", "192.000.002.0")
    lab.apply("cluster", *changed)
    lab.apply("policies", *policies_of("node-with-an-empty-externalip"), *policies_of("leading-zeros"))
    expected = {probe: node == "n1" for node, probes in to_nodes(lab).items() for probe in probes}
    expected |= {probe: probe.destination == lab.address("bug-b/srv", 4) for probe in to_server(lab, "bug-a/cli")}
    expected |= dict.fromkeys(to_server(lab, "bug-a/oth"), False)
    assert lab.wrong(expected) == []


def test_a_masquerade_list_is_read_with_keys_in_any_letter_case(lab: ManifestLab) -> None:
    lab.apply("masquerade", *policies_of("masq-key-case"))
    probes = [Probe(lab.pod("bug-a/cli"), address, "tcp", 443) for address in OUTSIDE.addresses]
    outcomes = lab.ask(probes)
    pod, node = lab.address("bug-a/cli", 4), NODES[0].addresses[0]
    assert [outcomes[probe].seen_from for probe in probes] == [pod, node, node]
    exempt = lab.cluster.agent("n1").ask("/v1/dump/state")["masquerade"]["exempt"]
    assert exempt == ["192.168.0.0/16", "fe80::/10"]
