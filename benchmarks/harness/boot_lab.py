"""A node that boots, in network namespaces: its agent has stopped, and its kernel has no rules.

    with boot_lab(folder) as (topology, cluster), Boot(topology, cluster, {}) as boot:
        boot.early_unit()              # or not
        boot.network()                 # packets come to all Pods from outside, one each millisecond
        boot.agent.start()
        known = boot.new_pod_is_known()
        boot.arrived(CLOSED)

Before the boot the node had Pods CLOSED, which a policy isolates, and OPEN. NEW is isolated too; its address isn't in
its status before `new_pod_is_known`, as that of every Pod that starts.
"""

from __future__ import annotations

import itertools
import shutil
import socket
import struct
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import yaml

from nfagent.cli.yaml_writer import KubectlDumper
from nfagent.errors import KernelError
from nfagent.lab.cluster.agents import LabAgent, LabCluster
from nfagent.lab.machine.patience import patient
from nfagent.lab.probes.packet_counter import PacketCounter
from nfagent.lab.topology import netns
from nfagent.lab.topology.netns_topology import NetnsTopology
from nfagent.lab.topology.plan import OutsideHost, PodPlan, grid

NODES = grid(nodes=1)[0]
[NODE] = NODES
CLOSED = PodPlan("shop", "db", NODE.name, ("10.244.1.10", "2001:db8:244:1::a"))
NEW = PodPlan("shop", "db-new", NODE.name, ("10.244.1.11", "2001:db8:244:1::b"))
OPEN = PodPlan("shop", "web", NODE.name, ("10.244.1.12", "2001:db8:244:1::c"))
PODS = (CLOSED, NEW, OPEN)
OUTSIDE = OutsideHost("outside", ("198.51.100.10", "2001:db8:99::10"))
HELD = {"NFAGENT_POLICY_UNKNOWN_PODS": "held"}
_LABELS = {CLOSED: "db", NEW: "db", OPEN: "web"}
_PORT = 5353
_NUMBER = struct.Struct("!I")
_SPACING = 0.001
_POLL_SECONDS = 0.005
_PATIENCE = patient(20.0)


class PacketSource:
    """Sends numbered UDP packets to Pods, in a thread; a context manager that ends it.

    sent: number of packets sent to each Pod so far
    """

    def __init__(self, namespace: str, pods: tuple[PodPlan, ...]) -> None:
        """Open a socket for each Pod. Raises KernelError for a namespace that doesn't exist."""
        self.sent = 0
        self._sockets = {pod: netns.inside(namespace, _datagram_socket) for pod in pods}
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="lab packets", daemon=True)

    def __enter__(self) -> Self:
        """Start to send."""
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Stop to send."""
        self._stop.set()
        self._thread.join()
        for opened in self._sockets.values():
            opened.close()

    def wait_for(self, more: int) -> None:
        """Wait until so many further packets were sent to each Pod. Raises KernelError after 20 seconds."""
        wanted, end = self.sent + more, time.monotonic() + _PATIENCE
        while self.sent < wanted:
            if time.monotonic() > end:
                raise KernelError(f"{self.sent} packets were sent, not {wanted}, after {_PATIENCE:.0f} s")
            time.sleep(_POLL_SECONDS)

    def _run(self) -> None:
        for number in itertools.count():
            for pod, opened in self._sockets.items():
                try:
                    opened.sendto(_NUMBER.pack(number), (pod.addresses[0], _PORT))
                except OSError:  # a Pod has answered that nothing listens there
                    continue
            self.sent = number + 1
            if self._stop.wait(_SPACING):
                return


class Boot:
    """One boot of the node; a context manager."""

    def __init__(self, topology: NetnsTopology, cluster: LabCluster, settings: Mapping[str, str]) -> None:
        """Plan the boot; settings: of the agent and of the early unit, before the boot and after it."""
        self.agent: LabAgent = cluster.agent(NODE.name)
        self._topology = topology
        self._cluster = cluster
        self._settings = settings
        self._counters: dict[PodPlan, PacketCounter] = {}
        self._stack = ExitStack()
        self._source: PacketSource | None = None

    def __enter__(self) -> Self:
        """Turn the power off: rules and runtime folder are gone."""
        self.agent.stop()
        (self._cluster.manifests / "new.yaml").unlink(missing_ok=True)
        self.agent.environment.update(self._settings)
        self.agent.start()
        self._cluster.wait_until_enforced()
        self.agent.stop()
        self.agent.nft("flush", "ruleset")
        shutil.rmtree(self.agent.environment["NFAGENT_RUNTIME_DIR"])
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """End packets and agent."""
        self._stack.close()
        self.agent.stop()
        for name in self._settings:
            del self.agent.environment[name]

    def early_unit(self) -> str:
        """Run `nfagent restore`, and return what it says. Raises KernelError."""
        done = self.agent.run("restore", "--node", NODE.name)
        if done.returncode:
            raise KernelError(done.stderr.strip())
        return done.stdout

    def network(self, packets: int = 50) -> float:
        """Begin to send to all Pods, and return when the first packet was sent, after so many."""
        for pod in PODS:
            counter = PacketCounter(self._topology.pod_namespace(*pod.key), 4, "udp", _PORT)
            self._counters[pod] = self._stack.enter_context(counter)
        began = time.monotonic()
        self._source = self._stack.enter_context(PacketSource(self._topology.outside_namespace("outside"), PODS))
        self.packets(packets)
        return began

    def packets(self, more: int) -> None:
        """Wait until so many further packets were sent to each Pod. Raises KernelError."""
        if self._source is not None:
            self._source.wait_for(more)

    def arrived(self, pod: PodPlan, since: float = 0.0) -> int:
        """Return the number of packets that arrived at a Pod since a time by the monotonic clock."""
        return sum(when > since for when in self.arrivals(pod))

    def arrivals(self, pod: PodPlan) -> list[float]:
        """Return when packets arrived at a Pod."""
        return [when for when, _ in self._counters[pod].arrivals()]

    def new_pod_is_known(self) -> float:
        """Give the new Pod an address in its status; return when it is enforced."""
        self._cluster.write("new.yaml", _text(_pod(NEW)))
        return time.monotonic()


@contextmanager
def boot_lab(folder: Path) -> Iterator[tuple[NetnsTopology, LabCluster]]:
    """Build the node, its Pods and a host outside, and plan the node's agent, which `Boot` starts."""
    manifests = folder / "manifests"
    manifests.mkdir()
    (manifests / "cluster.yaml").write_text(_text(*_objects()), encoding="utf-8")
    with NetnsTopology(NODES, PODS, (OUTSIDE,), tag="boot") as topology:
        cluster = LabCluster(topology, manifests, folder / "agents")
        try:
            yield topology, cluster
        finally:
            cluster.stop()


def _objects() -> Iterator[dict[str, Any]]:
    yield {
        "apiVersion": "v1",
        "kind": "Node",
        "metadata": {"name": NODE.name},
        "spec": {"podCIDRs": list(NODE.pod_cidrs)},
        "status": {"addresses": [{"type": "InternalIP", "address": address} for address in NODE.addresses]},
    }
    yield {
        "apiVersion": "networking.k8s.io/v1",
        "kind": "NetworkPolicy",
        "metadata": {"namespace": "shop", "name": "db"},
        "spec": {"podSelector": {"matchLabels": {"app": "db"}}, "policyTypes": ["Ingress"]},
    }
    yield from (_pod(CLOSED), _pod(OPEN))


def _pod(pod: PodPlan) -> dict[str, Any]:
    return {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"namespace": pod.namespace, "name": pod.name, "labels": {"app": _LABELS[pod]}},
        "spec": {"nodeName": pod.node, "containers": [{"name": "main"}]},
        "status": {"phase": "Running", "podIPs": [{"ip": address} for address in pod.addresses]},
    }


def _text(*documents: dict[str, Any]) -> str:
    return yaml.dump_all(documents, Dumper=KubectlDumper, sort_keys=False)


def _datagram_socket() -> socket.socket:
    return socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
