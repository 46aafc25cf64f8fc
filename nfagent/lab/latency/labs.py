"""Builds the labs of a latency run: equal topologies, one for each path, each with its own agent and source."""

from __future__ import annotations

from contextlib import ExitStack
from pathlib import Path

import msgspec

from nfagent.lab.apiserver.control_plane import ControlPlane
from nfagent.lab.apiserver.source import fill
from nfagent.lab.cluster.agents import AgentKind, LabAgent
from nfagent.lab.cluster.plan import API_HOST, LabSource
from nfagent.lab.latency.change_writers import ApiWriter, ChangeWriter, FolderWriter
from nfagent.lab.latency.cluster import OUTSIDE, LatencyCluster
from nfagent.lab.latency.prober import Prober
from nfagent.lab.latency.samples import DataPath
from nfagent.lab.latency.try_ import MeasuredLab
from nfagent.lab.objects.documents import Document
from nfagent.lab.topology.netns_topology import NetnsTopology

TAG = "latency"
SILENT = 50
"""Packets in a row that don't arrive, until packets count as blocked: 10 ms."""

_AGENTS: dict[DataPath, AgentKind] = {"nftables": "nfagent", "ebpf": "ebpf"}
_START_SECONDS = 180.0
_A_FILE = 50


class Background(msgspec.Struct, frozen=True):
    """What all labs of a run have in common: the cluster, its documents of one size, and the kind of source."""

    cluster: LatencyCluster
    documents: list[Document]
    source: LabSource


def build_lab(
    stack: ExitStack, path: DataPath, background: Background, folder: Path
) -> tuple[MeasuredLab, NetnsTopology]:
    """Build a lab, which the stack removes; its agent enforces the background's policies on return.

    Raises HostError for what the machine lacks, KernelError, ClusterError.
    """
    cluster = background.cluster
    topology = stack.enter_context(plain_topology(cluster, with_api_host=background.source == "apiserver"))
    folder.mkdir(parents=True)
    options, writer = _source(stack, topology, background, folder)
    agent = LabAgent(topology, cluster.server.node, options, folder / "agents", kind=_AGENTS[path])
    # A record for each probe would be work that no agent does by default.
    for name in [name for name in agent.environment if name.startswith("NFAGENT_LOGGING_")]:
        del agent.environment[name]
    stack.callback(agent.stop)
    agent.start(seconds=_START_SECONDS)
    server, client = (topology.pod_namespace(*pod.key) for pod in (cluster.server, cluster.client))
    outside = topology.outside_namespace(OUTSIDE.name)
    probers = (
        stack.enter_context(Prober(client, server, cluster.server.addresses[0], SILENT)),
        stack.enter_context(Prober(server, outside, OUTSIDE.addresses[0], SILENT)),
    )
    sources = cluster.server.addresses[0], cluster.nodes[0].addresses[0]
    return MeasuredLab(
        path, agent, writer, probers, {"source is the Pod": sources[0], "source is the node": sources[1]}
    ), topology


def plain_topology(cluster: LatencyCluster, *, with_api_host: bool = False) -> NetnsTopology:
    """Return the topology of a lab, without agent."""
    hosts = (OUTSIDE, *([API_HOST] if with_api_host else []))
    return NetnsTopology(cluster.nodes, (cluster.server, cluster.client), hosts, tag=TAG)


def _source(
    stack: ExitStack, topology: NetnsTopology, background: Background, folder: Path
) -> tuple[tuple[str, str], ChangeWriter]:
    """Make an agent's source; return the options that name it, and its writer."""
    if background.source == "manifests":
        return _folder_source(background.documents, folder)
    plane = stack.enter_context(
        ControlPlane(folder / "plane", address=API_HOST.addresses[0], netns=topology.outside_namespace(API_HOST.name))
    )
    client = stack.enter_context(plane.client())
    kubeconfig = fill(plane, client, background.documents)
    return ("--kubeconfig", str(kubeconfig)), ApiWriter(client)


def _folder_source(documents: list[Document], folder: Path) -> tuple[tuple[str, str], FolderWriter]:
    manifests = folder / "manifests"
    manifests.mkdir()
    for number, start in enumerate(range(0, len(documents), _A_FILE)):
        listed = {"apiVersion": "v1", "kind": "List", "items": documents[start : start + _A_FILE]}
        (manifests / f"{number:04d}.json").write_bytes(msgspec.json.encode(listed))
    return ("--manifests", str(manifests)), FolderWriter(manifests)
