"""`nfagent lab up`: builds a lab that stays up after the command has returned."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import msgspec
import yaml

from nfagent.errors import KernelError
from nfagent.lab.apiserver.control_plane import ControlPlane
from nfagent.lab.apiserver.source import fill
from nfagent.lab.cluster import running_labs
from nfagent.lab.cluster.agents import LabAgent, lab_backend, own_environment
from nfagent.lab.cluster.plan import API_HOST, ClusterPlan, LabSource, cluster_plan, documents
from nfagent.lab.cluster.running_labs import LabMember, LabNode, LabState
from nfagent.lab.machine import requirements
from nfagent.lab.machine.binaries import find
from nfagent.lab.topology.netns_topology import NetnsTopology
from nfagent.lab.topology.plan import Attachment, Underlay
from nfagent.system.interrupts import deferred_interrupts, interrupting

# Resident memory of an agent with a small cluster, of the servers, and of etcd with kube-apiserver.
_AGENT_MIB, _SERVERS_MIB, _PLANE_MIB = 80, 60, 600
_PODS_MIB = 0.1
_PARALLEL = 4


class LabOptions(msgspec.Struct, frozen=True):
    """What to build. pods: of each node."""

    name: str = "lab"
    nodes: int = 2
    pods: int = 3
    attachment: Attachment = "routed"
    underlay: Underlay = "flat"
    source: LabSource = "manifests"


def build_lab(options: LabOptions, progress: Callable[[str], None]) -> LabState:
    """Build a lab, and return when every agent enforces its (empty) policies.

    After an error or an interrupt nothing of it remains. Raises UsageError for a lab that exists already, HostError
    for what the machine lacks, KernelError, ClusterError.
    """
    running_labs.check_name(options.name)
    plan = cluster_plan(
        options.nodes,
        options.pods,
        options.attachment,
        options.underlay,
        api_host=options.source == "apiserver",
    )
    _check(options)
    with interrupting():
        folder = running_labs.claim(options.name)
        try:
            return _Builder(options, plan, folder, progress).build()
        except BaseException:
            running_labs.remove(options.name)
            raise


def _check(options: LabOptions) -> None:
    requirements.check_root()
    requirements.check_programs(("ip", "nft"))
    mib = options.nodes * (_AGENT_MIB + options.pods * _PODS_MIB) + _SERVERS_MIB
    if options.source == "apiserver":
        find()
        mib += _PLANE_MIB
    requirements.check_memory(round(mib), "give fewer --nodes, or `--source manifests`")


class _Builder:
    """Builds one lab, in the order in which its parts need each other."""

    def __init__(self, options: LabOptions, plan: ClusterPlan, folder: Path, progress: Callable[[str], None]) -> None:
        self._options = options
        self._plan = plan
        self._folder = folder
        self._progress = progress
        self._topology = NetnsTopology(plan.nodes, plan.pods, plan.outside, prefix=running_labs.prefix(options.name))
        self._marked = {running_labs.VARIABLE: options.name}

    def build(self) -> LabState:
        """Build everything, and write the state file."""
        pods = len(self._plan.pods)
        self._progress(f"network namespaces of {len(self._plan.nodes)} nodes and {pods} Pods")
        self._topology.up()
        state = self._state(*self._source())
        source = ("--kubeconfig", state.kubeconfig) if state.kubeconfig else ("--manifests", state.manifests)
        self._start_agents(source)
        self._progress("servers")
        self._start_servers(state)
        running_labs.write_state(state)
        return state

    def _start_agents(self, source: tuple[str, str]) -> None:
        """Start the agents, some at a time."""
        agents = [
            LabAgent(self._topology, node.name, source, self._folder / "agents", outlives=True)
            for node in self._plan.nodes
        ]
        for agent in agents:
            agent.environment |= self._marked
        pool = ThreadPoolExecutor(_PARALLEL)
        try:
            for number, _ in enumerate(pool.map(LabAgent.start, agents), start=1):
                self._progress(f"agent {number} of {len(agents)}")
        finally:
            # After an interrupt: no agent may start after the lab's processes have been ended.
            pool.shutdown(cancel_futures=True)

    def _source(self) -> tuple[str, str]:
        """Make the agents' source; return the folder of manifests, and the kubeconfig; one of both is ''."""
        found = documents(self._plan)
        if self._options.source == "manifests":
            self._progress("manifests")
            manifests = self._folder / "manifests"
            manifests.mkdir()
            (manifests / "cluster.yaml").write_text(_as_text(found), encoding="utf-8")
            return str(manifests), ""
        self._progress("etcd and kube-apiserver")
        plane = ControlPlane(
            self._folder / "plane",
            address=API_HOST.addresses[0],
            netns=self._topology.outside_namespace(API_HOST.name),
            outlives=self._marked,
        )
        plane.up()
        with plane.client() as client:
            kubeconfig = fill(plane, client, found)
        plane.kubeconfig()
        return "", str(kubeconfig)

    def _state(self, manifests: str, kubeconfig: str) -> LabState:
        topology, options = self._topology, self._options
        nodes = (
            LabNode(
                node.name,
                topology.node_namespace(node.name),
                node.addresses,
                str(self._folder / "agents" / node.name),
                lab_backend(),
            )
            for node in self._plan.nodes
        )
        pods = (
            LabMember("/".join(pod.key), topology.pod_namespace(*pod.key), pod.addresses, pod.node)
            for pod in self._plan.pods
        )
        outside = (
            LabMember(host.name, topology.outside_namespace(host.name), host.addresses) for host in self._plan.outside
        )
        return LabState(
            name=options.name,
            attachment=options.attachment,
            underlay=options.underlay,
            source=options.source,
            manifests=manifests,
            kubeconfig=kubeconfig,
            nodes=tuple(nodes),
            members=(*pods, *outside),
        )

    def _start_servers(self, state: LabState) -> None:
        """Start the servers of all Pods. Raises KernelError."""
        with (self._folder / "servers.log").open("ab") as log, deferred_interrupts():
            process = subprocess.Popen(
                [sys.executable, "-m", "nfagent.lab.cluster.pod_servers"],
                env={**own_environment(), **self._marked},
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=log,
                start_new_session=True,
            )
        said = b""
        if process.stdin is not None and process.stdout is not None:
            with process.stdin as pipe:
                pipe.write(msgspec.json.encode(state))
            said = process.stdout.readline()
            process.stdout.close()
        if said.strip() != b"ready":
            complaint = (self._folder / "servers.log").read_text("utf-8", "replace").strip()
            raise KernelError(f"the servers of the lab's Pods didn't start: {complaint or 'no output'}")


def _as_text(found: list[dict[str, Any]]) -> str:
    return yaml.safe_dump_all(found, sort_keys=False)
