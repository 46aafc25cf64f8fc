"""Pods of other nodes outside all podCIDRs belong to the cluster: not masqueraded, and selected by policies."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from nfagent.lab.cluster.agents import LabCluster
from nfagent.lab.probes.listeners import Endpoint, Listeners, ProbeProtocol, pod_endpoints
from nfagent.lab.probes.probe import Probe, ProbeResult
from nfagent.lab.topology.netns_topology import NetnsTopology
from nfagent.lab.topology.plan import NodePlan, OutsideHost, PodPlan
from tests.support.packet_labs import ManifestLab, as_text, pod_plans

pytestmark = pytest.mark.kernel

FAULTS = Path(__file__).parent.parent / "faults"
PROTOCOLS: list[tuple[ProbeProtocol, int]] = [("tcp", 80), ("udp", 80), ("icmp", 0)]
OUTSIDE = OutsideHost("outside", ("198.51.100.10", "2001:db8:99::10"))
EVERYTHING = {
    "apiVersion": "v1",
    "kind": "ConfigMap",
    "metadata": {"namespace": "kube-system", "name": "ip-masq-agent"},
    "data": {"config": "nonMasqueradeCIDRs: []"},
}
"""Masquerade of all that leaves the cluster, so that no default exempts a Pod's address."""


def plans(objects: dict[str, Any]) -> tuple[list[NodePlan], list[PodPlan]]:
    """Return a topology for the objects, with routes to Pods outside all podCIDRs."""
    items = objects["items"]
    pods = pod_plans(items)
    nodes = [
        NodePlan(
            item["metadata"]["name"],
            tuple(entry["address"] for entry in item["status"]["addresses"] if entry["type"] == "InternalIP"),
            tuple(
                address.rsplit(":", 1)[0] + ":/64" if ":" in address else address.rsplit(".", 1)[0] + ".0/24"
                for pod in pods
                if pod.node == item["metadata"]["name"]
                for address in pod.addresses
            ),
        )
        for item in items
        if item["kind"] == "Node"
    ]
    return nodes, pods


@pytest.fixture(scope="module", params=["remote-pods-no-podcidr", "remote-pods-podcidr-v4-only"])
def lab(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[ManifestLab]:
    folder = tmp_path_factory.mktemp("lab")
    objects = json.loads((FAULTS / request.param / "objs.json").read_text(encoding="utf-8"))
    nodes, pods = plans(objects)
    manifests = folder / "manifests"
    manifests.mkdir()
    (manifests / "objs.json").write_text(json.dumps(objects), encoding="utf-8")
    (manifests / "masquerade.yaml").write_text(as_text([EVERYTHING]), encoding="utf-8")
    with (
        NetnsTopology(nodes, pods, (OUTSIDE,), tag="t") as topology,
        Listeners() as servers,
        LabCluster(topology, manifests, folder / "agents") as cluster,
    ):
        servers.listen(pod_endpoints(topology, PROTOCOLS))
        namespace = topology.outside_namespace("outside")
        servers.listen(Endpoint(namespace, address, "tcp", 80) for address in OUTSIDE.addresses)
        yield ManifestLab(topology, servers, cluster)


def asked(lab: ManifestLab, family: int) -> list[ProbeResult]:
    """Probe b, whose policy allows a only, from a, by every protocol."""
    probes = [Probe(lab.pod("bug-m/a"), lab.address("bug-m/b", family), protocol, port) for protocol, port in PROTOCOLS]
    return list(lab.ask(probes).values())


@pytest.mark.parametrize("family", [4, 6])
def test_a_policy_allows_a_remote_pod_with_its_own_source_address(lab: ManifestLab, family: int) -> None:
    outcomes = asked(lab, family)
    own = lab.address("bug-m/a", family)
    assert [(outcome.reached, outcome.seen_from) for outcome in outcomes] == [(True, own)] * len(PROTOCOLS)


@pytest.mark.parametrize("family", [4, 6])
def test_what_leaves_the_cluster_is_translated_all_the_same(lab: ManifestLab, family: int) -> None:
    [target] = [address for address in OUTSIDE.addresses if (":" in address) == (family == 6)]
    probe = Probe(lab.pod("bug-m/a"), target, "tcp", 80)
    assert lab.ask([probe])[probe].seen_from in lab.topology.nodes["n1"].addresses
