"""Item 2: cyclonus' cases by real packets: every tag at least once, both families, TCP, UDP and SCTP.

Set NFAGENT_CYCLONUS=all to send the packets of all 230 cases.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from typing import Any

import pytest

from nfagent.lab import netns
from nfagent.lab.plan import NodePlan, PodPlan
from nfagent.lab.probe import Probe
from nfagent.lab.servers import Protocol, pod_endpoints
from tests.conformance import load_conformance
from tests.labs import Lab, as_text, namespace_document, pod_document, running_lab

pytestmark = pytest.mark.kernel

PORTS: list[tuple[Protocol, int]] = [(p, n) for p in ("tcp", "udp", "sctp") for n in (80, 81)]
CYCLONUS = load_conformance("cyclonus.json")
# Many thousand probes use a source port twice: what an earlier one left in conntrack must be gone by then.
FORGETFUL = {
    "netfilter/nf_conntrack_udp_timeout": "1",
    "netfilter/nf_conntrack_udp_timeout_stream": "1",
    "netfilter/nf_conntrack_tcp_timeout_close": "1",
}
ADDRESSES = {"a": ("192.0.2.1", "2001:db8:ffff::1"), "b": ("192.0.2.2", "2001:db8:ffff::2")}


def cover(cases: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Choose few cases that bear every tag between them: always the one with most tags that are still missing."""
    if os.environ.get("NFAGENT_CYCLONUS") == "all":
        return cases
    missing = {tag for case in cases for tag in case["tags"]}
    chosen = []
    while missing:
        best = max(cases, key=lambda case: len(missing & set(case["tags"])))
        missing -= set(best["tags"])
        chosen.append(best)
    return sorted(chosen, key=lambda case: str(case["id"]))


@pytest.fixture(scope="module", params=["routed", "bridge"])
def lab(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Lab]:
    nodes = [
        NodePlan(name, ADDRESSES[name], tuple(node["cidrs"]), request.param) for name, node in CYCLONUS["nodes"].items()
    ]
    pods = [PodPlan(pod["namespace"], pod["name"], pod["node"], tuple(pod["ips"])) for pod in CYCLONUS["pods"]]
    with running_lab(tmp_path_factory.mktemp("lab"), nodes, pods) as running:
        running.servers.listen(pod_endpoints(running.fabric, PORTS))
        for node in nodes:
            netns.write_sysctls(running.fabric.node_namespace(node.name), FORGETFUL)
        yield running


class World:
    """The case's objects, a file each in the manifests folder."""

    def __init__(self, lab: Lab) -> None:
        self._lab = lab
        self._files: set[str] = set()
        documents = [namespace_document(name, labels) for name, labels in CYCLONUS["namespaces"].items()]
        for pod in CYCLONUS["pods"]:
            plan = PodPlan(pod["namespace"], pod["name"], pod["node"], tuple(pod["ips"]))
            documents.append(pod_document(plan, pod["labels"], pod["ports"]))
        for document in documents:
            self._place(document)
        for name in sorted(path.name for path in lab.cluster.manifests.iterdir()):
            if name != "cluster.yaml" and name not in self._files:
                (lab.cluster.manifests / name).unlink()
        for key in set(lab.fabric.pods) - {(pod["namespace"], pod["name"]) for pod in CYCLONUS["pods"]}:
            self._drop_pod(*key)
        for pod in CYCLONUS["pods"]:
            self._build_pod(PodPlan(pod["namespace"], pod["name"], pod["node"], tuple(pod["ips"])))

    def step(self, step: dict[str, Any]) -> None:
        for document in step["apply"]:
            self._place(document)
            if document["kind"] == "Pod":
                metadata, ips = document["metadata"], [ip["ip"] for ip in document["status"]["podIPs"]]
                node = document["spec"]["nodeName"]
                self._build_pod(PodPlan(metadata["namespace"], metadata["name"], node, tuple(ips)))
        for gone in step["delete"]:
            metadata = gone.get("metadata", gone)
            name = self._name(gone["kind"], metadata.get("namespace", ""), metadata["name"])
            (self._lab.cluster.manifests / name).unlink()
            self._files.discard(name)
            if gone["kind"] == "Pod":
                self._drop_pod(metadata["namespace"], metadata["name"])
        self._lab.cluster.settle()

    def _build_pod(self, plan: PodPlan) -> None:
        if plan.key not in self._lab.fabric.pods:
            self._lab.fabric.add_pod(plan)
            fresh = self._lab.fabric.pod_namespace(*plan.key)
            endpoints = pod_endpoints(self._lab.fabric, PORTS)
            self._lab.servers.listen(endpoint for endpoint in endpoints if endpoint.netns == fresh)

    def _drop_pod(self, namespace: str, name: str) -> None:
        self._lab.servers.stop(self._lab.fabric.pod_namespace(namespace, name))
        self._lab.fabric.remove_pod(namespace, name)

    def _place(self, document: dict[str, Any]) -> None:
        metadata = document["metadata"]
        name = self._name(document["kind"], metadata.get("namespace", ""), metadata["name"])
        self._lab.cluster.place(name, as_text([document]))
        self._files.add(name)

    @staticmethod
    def _name(kind: str, namespace: str, name: str) -> str:
        return f"{kind.lower()}-{namespace}-{name}.yaml"


def wanted(lab: Lab, case: dict[str, Any], step: dict[str, Any], pods: list[str]) -> dict[Probe, bool]:
    """Give what every probe of a step must find; a Pod's own address is never asked: no packet leaves the Pod."""
    found = {}
    for probe in step["probes"]:
        for source, row in zip(pods, probe["rows"], strict=True):
            for destination, cell in zip(pods, row, strict=True):
                if cell == "-" or source == destination:
                    continue
                port = probe.get("port_of", {}).get(destination, probe.get("port"))
                for family in (4,) if case.get("families") == ["IPv4"] else (4, 6):
                    address = lab.address(destination, family)
                    found[Probe(lab.pod(source), address, probe["protocol"].lower(), port)] = cell == "1"
    return found


@pytest.mark.parametrize(
    "case", [pytest.param(c, id=f"{c['id']} {', '.join(c['tags'])}") for c in cover(CYCLONUS["cases"])]
)
def test_packets_get_the_verdicts_that_cyclonus_expects(lab: Lab, case: dict[str, Any]) -> None:
    world = World(lab)
    pods = [f"{pod['namespace']}/{pod['name']}" for pod in CYCLONUS["pods"]]
    for number, step in enumerate(case["steps"]):
        world.step(step)
        pods = step.get("pods", pods)
        expected = wanted(lab, case, step, pods)
        outcomes = lab.ask(expected)
        late = [probe for probe, verdict in expected.items() if verdict and not outcomes[probe].reached]
        again = lab.ask(late, 3.0) if late else {}
        wrong = [
            f"{probe.source} -> {probe.destination}:{probe.port}/{probe.protocol} should be {verdict}"
            for probe, verdict in expected.items()
            if (again.get(probe) or outcomes[probe]).reached != verdict
        ]
        assert not wrong, f"step {number + 1}: {len(wrong)} of {len(expected)} wrong: {wrong[:5]}"
