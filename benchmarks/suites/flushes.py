"""Share of forbidden packets that pass while another program flushes the whole ruleset again and again.

In a lab of one node a Pod sends another one a packet each millisecond that no policy allows, while `nft flush ruleset`
runs in the node's namespace at an interval. Packets that arrive have passed. The flow has one direction, so that none
of its packets belongs to an established connection.
"""

from __future__ import annotations

import contextlib
import socket
import tempfile
import threading
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, TypeAlias

import msgspec
import yaml

from benchmarks.harness.process_usage import metered
from benchmarks.registry import Run, bench
from benchmarks.results import Row, at_most
from nfagent.cli.yaml_writer import KubectlDumper
from nfagent.lab.cluster.agents import LabAgent, LabCluster
from nfagent.lab.topology import netns
from nfagent.lab.topology.netns_topology import NetnsTopology
from nfagent.lab.topology.plan import grid

Document: TypeAlias = dict[str, Any]

NODES, PODS, _ = grid(nodes=1)
_INTERVAL = 0.001
_PORT = 4711
_AWAIT_SECONDS = 10.0
LARGE = (200, 2_000)
"""Number of policies, and of Pods on another node that they select."""


class Flushed(msgspec.Struct, frozen=True):
    """A measurement.

    sent, passed: packets of the forbidden flow      flushes: their number meanwhile
    cores:        CPU time of the agent as a share of the time
    """

    sent: int
    passed: int
    flushes: int
    cores: float

    @property
    def share(self) -> float:
        """Percentage that passed."""
        return 100.0 * self.passed / self.sent

    @property
    def each(self) -> float:
        """Packets, which are milliseconds, that passed per flush."""
        return self.passed / max(1, self.flushes)


@bench("flushes", "share of forbidden packets that pass while the ruleset is flushed again and again")
def flushes(run: Run) -> Iterator[Row]:
    """Flush every second, 0.2 s and 0.02 s, in a small cluster and, unless the run is quick, in a larger one."""
    seconds, rounds = (4.0, 1) if run.quick else (15.0, 3)
    for words, documents in (("9 Pods, 1 policy", ()), ("2,009 Pods, 201 policies", tuple(more(*LARGE)))):
        if run.quick and documents:
            return
        for pause in (None, 1.0, 0.2, 0.02):
            run.progress(f"{words}, {'no flush' if pause is None else f'a flush every {pause:g} s'}")
            found = measured(documents, pause, seconds, rounds)
            every = "no flush" if pause is None else f"`nft flush ruleset` every {pause:g} s"
            yield Row(
                name=f"forbidden packets that pass, {every}, {words}",
                unit="%",
                values=[one.share for one in found],
                targets=(at_most("max", 0),) if pause is None else (),
                note=f"of {sum(one.sent for one in found):,} packets",
            )
            if pause is not None:
                yield Row(
                    name=f"the agent's CPU, {every}, {words}",
                    unit="% of a core",
                    values=[100 * one.cores for one in found],
                )
                yield Row(
                    name=f"time without rules per flush, {every}, {words}",
                    unit="ms",
                    values=[one.each for one in found],
                    note=f"{sum(one.flushes for one in found)} flushes",
                )


def measured(others: Sequence[Document], pause: float | None, seconds: float, rounds: int) -> list[Flushed]:
    """Build a lab and measure in it some times. Raises HostError, KernelError."""
    with contextlib.ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="nfagent-flushes-")))
        manifests = folder / "manifests"
        manifests.mkdir()
        text = yaml.dump_all([*objects(), *others], Dumper=KubectlDumper, sort_keys=False)
        (manifests / "cluster.yaml").write_text(text)
        topology = stack.enter_context(NetnsTopology(NODES, PODS, tag="flush"))
        cluster = stack.enter_context(LabCluster(topology, manifests, folder / "agents"))
        cluster.wait_for_recheck()
        return [_measure(topology, cluster.agent("n1"), pause, seconds) for _ in range(rounds)]


def _measure(topology: NetnsTopology, agent: LabAgent, pause: float | None, seconds: float) -> Flushed:
    """Send for so many seconds, and flush meanwhile."""
    source, target = (next(pod for pod in PODS if pod.key == key) for key in (("y", "a"), ("x", "a")))
    stop = threading.Event()
    with metered(agent.process.pid) as usage, ThreadPoolExecutor(2) as pool:
        received = pool.submit(_receive, topology.pod_namespace(*target.key), target.addresses[0], stop)
        sending = pool.submit(_send, topology.pod_namespace(*source.key), target.addresses[0], seconds)
        flushed = 0
        end = time.monotonic() + seconds
        due = time.monotonic() + (pause or seconds)
        while pause is not None and due < end:
            time.sleep(max(0.0, due - time.monotonic()))
            agent.nft("flush", "ruleset")
            flushed, due = flushed + 1, due + pause
        sent = sending.result()
        stop.set()
        passed = received.result()
    _await_calm(agent)
    return Flushed(sent, passed, flushed, usage.cores)


def _send(namespace: str, address: str, seconds: float) -> int:
    with netns.inside(namespace, _datagram_socket) as sender:
        sender.connect((address, _PORT))
        sent, due = 0, time.monotonic()
        end = due + seconds
        while due < end:
            time.sleep(max(0.0, due - time.monotonic()))
            with contextlib.suppress(ConnectionRefusedError):
                sender.send(b"forbidden")
            sent, due = sent + 1, due + _INTERVAL
        return sent


def _receive(namespace: str, address: str, stop: threading.Event) -> int:
    with netns.inside(namespace, _datagram_socket) as receiver:
        receiver.bind((address, _PORT))
        receiver.settimeout(0.1)
        passed = 0
        while not stop.is_set():
            with contextlib.suppress(TimeoutError):
                receiver.recv(64)
                passed += 1
        return passed


def _datagram_socket() -> socket.socket:
    return socket.socket(socket.AF_INET, socket.SOCK_DGRAM)


def _await_calm(agent: LabAgent) -> None:
    end = time.monotonic() + _AWAIT_SECONDS
    while not agent.recheck_is_done() and time.monotonic() < end:
        time.sleep(0.02)


def objects() -> Iterator[Document]:
    """Yield the objects of the lab: its node, Pods, and a policy that allows none of the flow."""
    for node in NODES:
        yield {
            "apiVersion": "v1",
            "kind": "Node",
            "metadata": {"name": node.name},
            "spec": {"podCIDRs": list(node.pod_cidrs)},
            "status": {"addresses": [{"type": "InternalIP", "address": address} for address in node.addresses]},
        }
    for pod in PODS:
        yield _pod(pod.namespace, pod.name, pod.node, list(pod.addresses))
    yield _policy("x", "deny", {"pod": "a"}, [])


def more(policies: int, pods: int) -> Iterator[Document]:
    """Yield Pods of another node, and policies on local Pods that select them."""
    for number in range(pods):
        yield _pod("far", f"p{number}", "elsewhere", [f"10.99.{number // 250}.{number % 250 + 1}"], number % policies)
    for number in range(policies):
        peer = {"namespaceSelector": {}, "podSelector": {"matchLabels": {"group": str(number)}}}
        ports = [{"port": 1000 + number}]
        yield _policy("z", f"p{number}", {"pod": "abc"[number % 3]}, [{"from": [peer], "ports": ports}])


def _pod(namespace: str, name: str, node: str, addresses: list[str], group: int = 0) -> Document:
    return {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"namespace": namespace, "name": name, "labels": {"pod": name, "group": str(group)}},
        "spec": {"nodeName": node, "containers": [{"name": "c"}]},
        "status": {"phase": "Running", "podIPs": [{"ip": address} for address in addresses]},
    }


def _policy(namespace: str, name: str, labels: dict[str, str], ingress: list[Document]) -> Document:
    return {
        "apiVersion": "networking.k8s.io/v1",
        "kind": "NetworkPolicy",
        "metadata": {"namespace": namespace, "name": name},
        "spec": {"podSelector": {"matchLabels": labels}, "policyTypes": ["Ingress"], "ingress": ingress},
    }
