"""Two equal labs: in one the agent follows a real API server, in the other a folder of manifests.

Or both follow an API server of their own, and one of the agents is of an earlier version. Each lab has two nodes: one
with the agent and a server Pod, one without an agent and with the client Pod. Both clusters have the same objects. A
policy lets only Pods with a label reach the server; each lab has its own change writer.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator, Mapping
from contextlib import ExitStack
from pathlib import Path
from types import MappingProxyType
from typing import Literal, Protocol, TypeAlias

import msgspec

from benchmarks.harness.earlier_checkout import agent_environment
from nfagent.decode.core import named_labels
from nfagent.lab.apiserver.control_plane import ControlPlane
from nfagent.lab.apiserver.kube_client import LabApiClient
from nfagent.lab.apiserver.resources import MERGE
from nfagent.lab.apiserver.source import fill
from nfagent.lab.cluster.agents import LabAgent
from nfagent.lab.latency.prober import Prober
from nfagent.lab.objects.documents import Document, document
from nfagent.lab.objects.synthetic import Size, synthetic
from nfagent.lab.topology.netns_topology import NetnsTopology
from nfagent.lab.topology.plan import NodePlan, OutsideHost, PodPlan, grid
from nfagent.model.gvk import Item
from nfagent.model.netaddr import parse_cidr
from nfagent.model.objects import Namespace, Node, Pod

ChangeKind: TypeAlias = Literal["policy created", "Pod relabelled: passes", "Pod relabelled: blocked", "policy deleted"]
CYCLE: tuple[tuple[ChangeKind, bool], ...] = (
    ("policy created", True),
    ("Pod relabelled: passes", False),
    ("Pod relabelled: blocked", True),
    ("policy deleted", False),
)
"""Each change, and whether it blocks; after the last one the state is as before the first."""

NOW, BEFORE = "now", "before"
"""Names of the labs of two versions."""

_API_HOST = OutsideHost("api", ("192.0.2.250", "2001:db8:ffff::250"))
_NAMESPACE, _FRIEND = "probed", "friend"
_A_FILE = 50
_START_SECONDS = 120.0


class Scenario(msgspec.Struct, frozen=True):
    """A cluster, and the parts of it that are built: two nodes and some Pods; the first is probed by the second."""

    name: str
    nodes: tuple[NodePlan, NodePlan]
    pods: tuple[PodPlan, ...]
    items: tuple[Item, ...]

    @property
    def server(self) -> PodPlan:
        """The probed Pod, on the first node."""
        return self.pods[0]

    @property
    def client(self) -> PodPlan:
        """The Pod whose packets are blocked or pass, on the second node."""
        return self.pods[1]

    @property
    def policy(self) -> Document:
        """The policy that is created and deleted."""
        return {
            "apiVersion": "networking.k8s.io/v1",
            "kind": "NetworkPolicy",
            "metadata": {"namespace": self.server.namespace, "name": "only-friends"},
            "spec": {
                "podSelector": {},
                "policyTypes": ["Ingress"],
                "ingress": [{"from": [{"podSelector": {"matchLabels": {_FRIEND: "yes"}}}]}],
            },
        }

    def client_document(self, *, friend: bool) -> Document:
        """Return the client Pod as a document."""
        labels = (("app", "client"), (_FRIEND, "yes" if friend else "no"))
        return document(_pod(self.client, labels))


class ChangeTimes(msgspec.Struct, frozen=True):
    """When a change was sent, or renamed into place, and when the API server responded; by time.monotonic()."""

    at: float
    answered: float | None = None


class ChangeWriter(Protocol):
    """Writes changes to an agent's source."""

    def make(self, change: ChangeKind) -> ChangeTimes:
        """Write a change."""
        ...


class PairedLab:
    """One of the two labs: its agent, prober and change writer."""

    def __init__(self, name: str, agent: LabAgent, prober: Prober, writer: ChangeWriter) -> None:
        """Keep the parts of the lab."""
        self.name = name
        self.agent = agent
        self.prober = prober
        self.writer = writer

    @property
    def pid(self) -> int:
        """Process id of the agent."""
        return self.agent.process.pid


class _ApiChangeWriter:
    """Writes changes over one TLS connection that is kept."""

    def __init__(self, client: LabApiClient, scenario: Scenario) -> None:
        path = client.path(scenario.policy)
        pod = client.path(scenario.client_document(friend=False))
        self._client = client
        self._requests: dict[ChangeKind, tuple[str, str, Document | None, str]] = {
            "policy created": ("POST", path.rpartition("/")[0], scenario.policy, "application/json"),
            "policy deleted": ("DELETE", path, None, "application/json"),
            "Pod relabelled: passes": ("PATCH", pod, {"metadata": {"labels": {_FRIEND: "yes"}}}, MERGE),
            "Pod relabelled: blocked": ("PATCH", pod, {"metadata": {"labels": {_FRIEND: "no"}}}, MERGE),
        }

    def make(self, change: ChangeKind) -> ChangeTimes:
        method, path, body, content_type = self._requests[change]
        at = time.monotonic()
        reply = self._client.ask(method, path, body, content_type=content_type)
        answered = time.monotonic()
        reply.document(change)
        return ChangeTimes(at, answered)


class _FolderChangeWriter:
    """Writes changes by renaming a file into the folder, or by unlink; the file is written outside it before."""

    def __init__(self, folder: Path, scenario: Scenario) -> None:
        self._folder = folder
        self._beside = folder.with_name("next.json")
        self._policy, self._pod = folder / "policy.json", folder / "client.json"
        self._files: dict[ChangeKind, tuple[Path, bytes]] = {
            "policy created": (self._policy, msgspec.json.encode(scenario.policy)),
            "Pod relabelled: passes": (self._pod, msgspec.json.encode(scenario.client_document(friend=True))),
            "Pod relabelled: blocked": (self._pod, msgspec.json.encode(scenario.client_document(friend=False))),
        }

    def make(self, change: ChangeKind) -> ChangeTimes:
        if change == "policy deleted":
            at = time.monotonic()
            self._policy.unlink()
            return ChangeTimes(at)
        path, content = self._files[change]
        self._beside.write_bytes(content)
        at = time.monotonic()
        self._beside.rename(path)
        return ChangeTimes(at)


def small() -> Scenario:
    """Return the nine Pods of Kubernetes' own policy tests on two nodes."""
    nodes, pods, _ = grid()
    first, second = nodes
    server = next(pod for pod in pods if pod.node == first.name)
    client = next(pod for pod in pods if (pod.node, pod.namespace) == (second.name, server.namespace))
    plans = (server, client, *(pod for pod in pods if pod not in {server, client}))
    items: list[Item] = [Namespace(name, named_labels(name, ())) for name in sorted({pod.namespace for pod in pods})]
    items += [_node(node) for node in nodes]
    items += [_pod(pod, (("app", pod.name),)) for pod in plans if pod != client]
    return Scenario(f"{len(pods)} Pods", (first, second), plans, tuple(items))


def large(size: Size, seed: int) -> Scenario:
    """Return a synthetic cluster; of its Pods only two are built, in a Namespace of their own."""
    cluster = synthetic(size, seed)
    first, second = (
        NodePlan(
            node.name,
            (f"192.0.2.{number}", f"2001:db8:ffff::{number:x}"),
            tuple(str(cidr) for cidr in node.pod_cidrs),
        )
        for number, node in enumerate(cluster.nodes[:2], start=1)
    )
    server, client = (
        PodPlan(_NAMESPACE, name, node.name, (f"10.0.{number}.250", f"fd00:10:{number:x}::fa"))
        for number, (name, node) in enumerate((("server", first), ("client", second)), start=1)
    )
    items = [*cluster.namespaces, Namespace(_NAMESPACE, named_labels(_NAMESPACE, ()))]
    found: list[Item] = [*items, _node(first), _node(second), *cluster.nodes[2:], *cluster.pods, *cluster.policies]
    found.append(_pod(server, (("app", "server"),)))
    name = f"{size.pods:,} Pods, {size.policies:,} policies"
    return Scenario(name, (first, second), (server, client), tuple(found))


@contextlib.contextmanager
def paired_labs(scenario: Scenario, folder: Path) -> Iterator[tuple[PairedLab, PairedLab]]:
    """Build both, that of the API server first. Raises HostError where programs are missing, KernelError."""
    with ExitStack() as stack:
        yield _by_api(stack, scenario, folder / "api"), _by_folder(stack, scenario, folder / "folder")


@contextlib.contextmanager
def version_labs(scenario: Scenario, folder: Path, earlier: Path) -> Iterator[tuple[PairedLab, PairedLab]]:
    """Build two labs with API servers: with this version's agent, and with that of an earlier checkout.

    Raises HostError where programs are missing, KernelError.
    """
    with ExitStack() as stack:
        yield (
            _by_api(stack, scenario, folder / NOW, NOW),
            _by_api(stack, scenario, folder / BEFORE, BEFORE, agent_environment(earlier)),
        )


def _by_api(
    stack: ExitStack,
    scenario: Scenario,
    folder: Path,
    name: str = "API server",
    environment: Mapping[str, str] | None = None,
) -> PairedLab:
    topology = stack.enter_context(NetnsTopology(scenario.nodes, scenario.pods, [_API_HOST], tag="latency"))
    plane = stack.enter_context(
        ControlPlane(folder / "plane", address=_API_HOST.addresses[0], netns=topology.outside_namespace(_API_HOST.name))
    )
    client = stack.enter_context(plane.client())
    source = ("--kubeconfig", str(fill(plane, client, _documents(scenario))))
    return _paired_lab(
        stack,
        scenario,
        topology,
        name,
        source,
        folder=folder,
        writer=_ApiChangeWriter(client, scenario),
        environment=environment or {},
    )


def _by_folder(stack: ExitStack, scenario: Scenario, folder: Path) -> PairedLab:
    topology = stack.enter_context(NetnsTopology(scenario.nodes, scenario.pods, tag="latency"))
    manifests = folder / "manifests"
    manifests.mkdir(parents=True)
    documents = _documents(scenario)
    for number, start in enumerate(range(0, len(documents) - 1, _A_FILE)):
        listed = {"apiVersion": "v1", "kind": "List", "items": documents[:-1][start : start + _A_FILE]}
        (manifests / f"{number:04d}.json").write_bytes(msgspec.json.encode(listed))
    (manifests / "client.json").write_bytes(msgspec.json.encode(documents[-1]))
    source = ("--manifests", str(manifests))
    return _paired_lab(
        stack, scenario, topology, "folder", source, folder=folder, writer=_FolderChangeWriter(manifests, scenario)
    )


def _paired_lab(
    stack: ExitStack,
    scenario: Scenario,
    topology: NetnsTopology,
    name: str,
    source: tuple[str, str],
    *,
    folder: Path,
    writer: ChangeWriter,
    environment: Mapping[str, str] = MappingProxyType({}),
) -> PairedLab:
    agent = LabAgent(topology, scenario.server.node, source, folder / "agents")
    agent.environment |= environment
    stack.callback(agent.stop)
    agent.start(seconds=_START_SECONDS)
    ends = topology.pod_namespace(*scenario.client.key), topology.pod_namespace(*scenario.server.key)
    prober = stack.enter_context(Prober(*ends, scenario.server.addresses[0]))
    return PairedLab(name, agent, prober, writer)


def _documents(scenario: Scenario) -> list[Document]:
    """Return every object, the client Pod last."""
    return [*map(document, scenario.items), scenario.client_document(friend=False)]


def _node(plan: NodePlan) -> Node:
    return Node(plan.name, (), tuple(map(parse_cidr, plan.pod_cidrs)), plan.addresses)


def _pod(plan: PodPlan, labels: tuple[tuple[str, str], ...]) -> Pod:
    return Pod(plan.namespace, plan.name, labels, plan.node, plan.addresses)
