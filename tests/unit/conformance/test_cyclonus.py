"""The 230 cases of cyclonus: what two nodes compile, interpreted, and what `evaluate` says, against its verdicts."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import pytest

from nfagent.cluster.address import Family, family_of
from nfagent.cluster.decode import decode_namespace, decode_node, decode_pod
from nfagent.cluster.model import Namespace, Node, Pod, Ref
from nfagent.policy.decode import decode_network_policy
from nfagent.policy.evaluate import Flow, evaluate
from nfagent.policy.model import NetworkPolicy
from nfagent.ruleset.desired import Desired
from tests.conformance import load_conformance
from tests.interpreter import opening, run

NODES = ("a", "b")
_DECODERS: dict[str, Callable[[dict[str, Any]], Namespace | Node | Pod | NetworkPolicy]] = {
    "Namespace": decode_namespace,
    "Node": decode_node,
    "Pod": decode_pod,
    "NetworkPolicy": decode_network_policy,
}

Document = dict[str, Any]


suite = load_conformance("cyclonus.json")


def decode(document: Document) -> Namespace | Node | Pod | NetworkPolicy:
    return _DECODERS[document["kind"]](document)


def base_documents() -> Iterator[Document]:
    for name, labels in suite["namespaces"].items():
        yield {"kind": "Namespace", "metadata": {"name": name, "labels": labels}}
    for name, node in suite["nodes"].items():
        yield {"kind": "Node", "metadata": {"name": name}, "spec": {"podCIDRs": node["cidrs"]}}
    for pod in suite["pods"]:
        yield {
            "kind": "Pod",
            "metadata": {key: pod[key] for key in ("namespace", "name", "labels")},
            "spec": {"nodeName": pod["node"], "containers": [{"name": "c", "ports": pod["ports"]}]},
            "status": {"phase": "Running", "podIPs": [{"ip": address} for address in pod["ips"]]},
        }


class Cell(NamedTuple):
    """One connection that a probe tries, and what is expected of it."""

    source: Pod
    flow: Flow
    destination: Pod
    allowed: bool

    def __str__(self) -> str:
        return f"{self.source.ref.path} -> {self.destination.ref.path} ({self.flow}): expected {self.allowed}"


class Cluster:
    """Both nodes' view of the same objects."""

    def __init__(self) -> None:
        self.views = {node: Desired(node) for node in NODES}
        for document in base_documents():
            self.apply(document)

    def apply(self, document: Document) -> None:
        item = decode(document)
        for desired in self.views.values():
            desired.put(item)

    def delete(self, entry: Document) -> None:
        for desired in self.views.values():
            assert desired.remove(Ref(entry["kind"], entry.get("namespace", ""), entry["name"]))

    def pods(self, names: list[str]) -> list[Pod]:
        held = self.views["a"].cluster.pods
        return [held[namespace, name] for namespace, _, name in (path.partition("/") for path in names)]

    def passes(self, cell: Cell) -> bool:
        """Tell whether every node on the way accepts."""
        packet = opening(cell.flow)
        nodes = {cell.source.node, cell.destination.node}
        return all(run(self.views[node].ruleset(), "forward", packet).accepted for node in nodes)

    def evaluated(self, cell: Cell) -> bool:
        desired = self.views["a"]
        return evaluate(desired.cluster, desired.index.policies.values(), cell.flow).allowed


def cells(probe: Document, pods: list[Pod], family: Family) -> Iterator[Cell]:
    assert {cell for row in probe["rows"] for cell in row} <= {"0", "1"}
    protocol, port = probe["protocol"].lower(), probe["port"]
    held = [(pod, next(address for address in pod.addresses if family_of(address) == family)) for pod in pods]
    for (source, client), row in zip(held, probe["rows"], strict=True):
        for (destination, server), expected in zip(held, row, strict=True):
            flow = Flow(client, server, protocol, port)
            yield Cell(source, flow, destination, expected == "1" or source is destination)


def identify(case: Document) -> str:
    return f"{case['id']} {', '.join(case['tags'])}"


@pytest.mark.parametrize("case", suite["cases"], ids=identify)
def test_case(case: Document) -> None:
    cluster = Cluster()
    families: tuple[Family, ...] = (4,) if case.get("families") == ["IPv4"] else (4, 6)
    names = [f"{pod['namespace']}/{pod['name']}" for pod in suite["pods"]]
    wrong = []
    for number, step in enumerate(case["steps"]):
        for document in step["apply"]:
            cluster.apply(document)
        for entry in step["delete"]:
            cluster.delete(entry)
        names = step.get("pods", names)
        pods = cluster.pods(names)
        for probe in step["probes"]:
            for cell in (cell for family in families for cell in cells(probe, pods, family)):
                if cluster.evaluated(cell) != cell.allowed:
                    wrong.append(f"step {number}: evaluate: {cell}")
                if cell.source is not cell.destination and cluster.passes(cell) != cell.allowed:
                    wrong.append(f"step {number}: rules: {cell}")
    assert wrong == []


def test_all_230_cases_are_here_and_their_policies_are_read_without_fault() -> None:
    assert len(suite["cases"]) == 230
    documents = [document for case in suite["cases"] for step in case["steps"] for document in step["apply"]]
    policies = [item for item in map(decode, documents) if isinstance(item, NetworkPolicy)]
    assert len(policies) == 247
    assert [policy.problem for policy in policies if policy.problem] == []
