"""Labs for tests with real packets: a topology, the manifests that describe it, agents on its nodes."""

from __future__ import annotations

import contextlib
import inspect
import signal
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Generic, TypeVar

import yaml

from nfagent.cli.yaml_writer import KubectlDumper
from nfagent.lab.cluster.agents import AgentKind, LabAgent, LabAgents, LabCluster
from nfagent.lab.probes.listeners import Listeners
from nfagent.lab.probes.probe import Probe, ProbeResult, run_probes
from nfagent.lab.topology.netns_topology import NetnsTopology
from nfagent.lab.topology.plan import NodePlan, OutsideHost, PodPlan

Document = dict[str, Any]
Agents = TypeVar("Agents", bound=LabAgents)


def node_document(node: NodePlan) -> Document:
    return {
        "apiVersion": "v1",
        "kind": "Node",
        "metadata": {"name": node.name},
        "spec": {"podCIDRs": list(node.pod_cidrs)},
        "status": {"addresses": [{"type": "InternalIP", "address": address} for address in node.addresses]},
    }


def namespace_document(name: str, labels: dict[str, str] | None = None) -> Document:
    return {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name, "labels": labels or {"ns": name}}}


def pod_document(pod: PodPlan, labels: dict[str, str] | None = None, ports: Sequence[Document] = ()) -> Document:
    return {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"namespace": pod.namespace, "name": pod.name, "labels": labels or {"pod": pod.name}},
        "spec": {"nodeName": pod.node, "containers": [{"name": "c", "ports": list(ports)}]},
        "status": {"phase": "Running", "podIPs": [{"ip": address} for address in pod.addresses]},
    }


def policy_document(namespace: str, name: str, **spec: object) -> Document:
    return {
        "apiVersion": "networking.k8s.io/v1",
        "kind": "NetworkPolicy",
        "metadata": {"namespace": namespace, "name": name},
        "spec": spec,
    }


def pod_plans(documents: Iterable[Document]) -> list[PodPlan]:
    """Return the plans of the Pods among documents."""
    return [
        PodPlan(
            item["metadata"]["namespace"],
            item["metadata"]["name"],
            item["spec"]["nodeName"],
            tuple(entry["ip"] for entry in item["status"]["podIPs"]),
        )
        for item in documents
        if item["kind"] == "Pod"
    ]


def logging_document(*, allow: bool, deny: bool) -> Document:
    return {
        "apiVersion": "networking.gke.io/v1alpha1",
        "kind": "NetworkLogging",
        "metadata": {"name": "default"},
        "spec": {"cluster": {"allow": {"log": allow}, "deny": {"log": deny}}},
    }


def as_text(documents: Iterable[Document]) -> str:
    return yaml.dump_all(documents, Dumper=KubectlDumper, sort_keys=False)


def wait_until(condition: Callable[[], bool], seconds: float = 30.0) -> None:
    """Wait until a condition holds. Raises AssertionError with its source where it doesn't within `seconds`."""
    assert holds_within(condition, seconds), f"not within {seconds:g} s: {_source(condition)}"


def holds_within(condition: Callable[[], bool], seconds: float = 30.0) -> bool:
    """Wait until a condition holds, or `seconds` have passed; return whether it held. It is checked every 20 ms."""
    end, pause = time.monotonic() + seconds, threading.Event()
    while not condition():
        if time.monotonic() >= end:
            return False
        pause.wait(0.02)
    return True


def _source(condition: Callable[[], bool]) -> str:
    """Return the source of a condition; of a call that isn't written in Python, or a partial one, its repr."""
    try:
        return " ".join(inspect.getsource(condition).split())
    except (OSError, TypeError):
        return repr(condition)


@contextlib.contextmanager
def held(agent: LabAgent) -> Iterator[None]:
    """Stop an agent by SIGSTOP, and resume it at the end: it reads all changes at once."""
    process = agent.process
    process.send_signal(signal.SIGSTOP)
    try:
        yield
    finally:
        process.send_signal(signal.SIGCONT)


class ProbedLab(Generic[Agents]):
    """A running lab with agents of any object source, and the probes of tests."""

    def __init__(self, topology: NetnsTopology, servers: Listeners, cluster: Agents) -> None:
        self.topology = topology
        self.servers = servers
        self.cluster = cluster

    def pod(self, path: str) -> str:
        namespace, name = path.split("/")
        return self.topology.pod_namespace(namespace, name)

    def address(self, path: str, family: int) -> str:
        namespace, name = path.split("/")
        addresses = self.topology.pods[namespace, name].addresses
        return next(address for address in addresses if (":" in address) == (family == 6))

    def ask(self, probes: Iterable[Probe], deadline: float = 0.6) -> dict[Probe, ProbeResult]:
        return run_probes(self.servers, probes, deadline)

    def reaches(self, probe: Probe, deadline: float = 0.6) -> bool:
        return self.ask([probe], deadline)[probe].reached

    def wrong(self, expected: Mapping[Probe, bool], deadline: float = 0.3) -> list[str]:
        """Return the probes with another result than expected; an unanswered one is repeated with a longer deadline."""
        outcomes = self.ask(expected, deadline)
        late = [probe for probe, verdict in expected.items() if verdict and not outcomes[probe].reached]
        outcomes |= self.ask(late, 3.0) if late else {}
        return [
            f"{probe.source} -> {probe.destination} {probe.port}/{probe.protocol}: "
            f"{'reached' if outcomes[probe].reached else 'not reached'}"
            for probe, verdict in expected.items()
            if outcomes[probe].reached != verdict
        ]


class ManifestLab(ProbedLab[LabCluster]):
    """A lab whose agents follow a folder of manifests."""

    def apply(self, name: str, *documents: Document) -> None:
        self.cluster.write(f"{name}.yaml", as_text(documents))

    def delete(self, *names: str) -> None:
        self.cluster.delete(*(f"{name}.yaml" for name in names))

    def only_cluster(self) -> None:
        """Delete every manifest but `cluster.yaml`."""
        self.cluster.delete(*(path.name for path in self.cluster.manifests.iterdir() if path.name != "cluster.yaml"))

    def start_stopped(self) -> None:
        """Start the agents that a test has stopped."""
        for agent in self.cluster.agents.values():
            if not agent.is_running:
                agent.start()


@contextlib.contextmanager
def running_lab(
    folder: Path,
    nodes: Sequence[NodePlan],
    pods: Sequence[PodPlan],
    outside: Sequence[OutsideHost] = (),
    documents: Iterable[Document] = (),
    *,
    kind: AgentKind = "nfagent",
    backend: str | None = None,
) -> Iterator[ManifestLab]:
    """Build a lab whose manifests folder holds `documents`, and the nodes, in a file `cluster.yaml`.

    kind:    which program enforces on the nodes
    backend: where agents write rules; None: where the environment says
    """
    manifests = folder / "manifests"
    manifests.mkdir()
    (manifests / "cluster.yaml").write_text(as_text([*map(node_document, nodes), *documents]), encoding="utf-8")
    with (
        NetnsTopology(nodes, pods, outside, tag="t") as topology,
        Listeners() as servers,
        LabCluster(topology, manifests, folder / "agents", kind=kind, backend=backend) as cluster,
    ):
        yield ManifestLab(topology, servers, cluster)
