"""From power-on to the first enforced rule: which packets reach Pods, for each choice of docs/boot.md.

A boot is simulated: the agent has stopped, and the node's kernel has no rules. Packets come from outside at 1 ms
spacing.
"""

from __future__ import annotations

import itertools
import os
import shutil
import socket
import struct
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import ExitStack
from pathlib import Path
from types import TracebackType
from typing import Self

import pytest

from nfagent.lab import netns
from nfagent.lab.agents import LabAgent
from nfagent.lab.packet_counter import PacketCounter
from nfagent.lab.topology_plan import OutsideHost, PodPlan, grid
from tests.support.packet_labs import (
    ManifestLab,
    namespace_document,
    pod_document,
    policy_document,
    running_lab,
    wait_until,
)

pytestmark = [
    pytest.mark.kernel,
    pytest.mark.skipif(os.geteuid() != 0, reason="needs root: network namespaces and nf_tables"),
]

NODES = grid(nodes=1)[0]
[NODE] = NODES
CLOSED = PodPlan("shop", "db", NODE.name, ("10.244.1.10", "2001:db8:244:1::a"))
NEW = PodPlan("shop", "db-new", NODE.name, ("10.244.1.11", "2001:db8:244:1::b"))
OPEN = PodPlan("shop", "web", NODE.name, ("10.244.1.12", "2001:db8:244:1::c"))
PODS = (CLOSED, NEW, OPEN)
OUTSIDE = OutsideHost("outside", ("198.51.100.10", "2001:db8:99::10"))
POLICY = policy_document("shop", "db", podSelector={"matchLabels": {"app": "db"}}, policyTypes=["Ingress"])
LABELS = {CLOSED: {"app": "db"}, NEW: {"app": "db"}, OPEN: {"app": "web"}}
PORT = 5353
_NUMBER = struct.Struct("!I")
_SPACING = 0.001
HELD = {"NFAGENT_POLICY_UNKNOWN_PODS": "held"}


class PacketSource:
    """Sends numbered UDP packets to Pods, in a thread; a context manager that ends it."""

    def __init__(self, namespace: str, pods: tuple[PodPlan, ...]) -> None:
        self.sent = 0
        self._sockets = {
            pod: netns.inside(namespace, lambda: socket.socket(socket.AF_INET, socket.SOCK_DGRAM)) for pod in pods
        }
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stop.set()
        self._thread.join()
        for each in self._sockets.values():
            each.close()

    def _run(self) -> None:
        for number in itertools.count():
            for pod, opened in self._sockets.items():
                try:
                    opened.sendto(_NUMBER.pack(number), (pod.addresses[0], PORT))
                except OSError:  # a Pod has answered that nothing listens there
                    continue
            self.sent = number + 1
            if self._stop.wait(_SPACING):
                return


class Boot:
    """One boot of the node."""

    def __init__(self, lab: ManifestLab, settings: Mapping[str, str]) -> None:
        self.lab = lab
        self.agent: LabAgent = lab.cluster.agent(NODE.name)
        self._settings = settings
        self._counters: dict[PodPlan, PacketCounter] = {}
        self._stack = ExitStack()

    def __enter__(self) -> Self:
        """Turn the power off: the agent stops, and rules and runtime folder are gone."""
        self.agent.environment.update(self._settings)
        if not self.agent.is_running:
            self.agent.start()
        self.lab.delete("new") if (self.lab.cluster.manifests / "new.yaml").exists() else None
        self.lab.cluster.wait_until_enforced()
        self.agent.stop()
        self.agent.nft("flush", "ruleset")
        shutil.rmtree(self.agent.environment["NFAGENT_RUNTIME_DIR"])
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stack.close()
        self.agent.stop()
        for name in self._settings:
            del self.agent.environment[name]

    def early_unit(self) -> str:
        """Run `nfagent restore`, and return what it says."""
        done = self.agent.run("restore", "--node", NODE.name)
        assert done.returncode == 0, done.stderr
        return done.stdout

    def network(self) -> None:
        """Begin to send packets to all Pods."""
        for pod in PODS:
            counter = PacketCounter(self.lab.topology.pod_namespace(*pod.key), 4, "udp", PORT)
            self._counters[pod] = self._stack.enter_context(counter)
        source = PacketSource(self.lab.topology.outside_namespace("outside"), PODS)
        self._source = self._stack.enter_context(source)
        self.packets(50)

    def packets(self, more: int) -> None:
        """Wait until so many further packets were sent to each Pod."""
        wanted = self._source.sent + more
        wait_until(lambda: self._source.sent >= wanted)
        assert self._source.sent >= wanted

    def arrived(self, pod: PodPlan, since: float = 0.0) -> int:
        """Return the number of packets that arrived at a Pod since a time by the monotonic clock."""
        return sum(when > since for when, _ in self._counters[pod].arrivals())

    def new_pod_is_known(self) -> float:
        """Give the new Pod an address in its status; return when it is enforced."""
        self.lab.apply("new", pod_document(NEW, LABELS[NEW]))
        return time.monotonic()


@pytest.fixture(name="lab", scope="module")
def _lab(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ManifestLab]:
    folder: Path = tmp_path_factory.mktemp("lab")
    documents = [namespace_document("shop"), POLICY, *(pod_document(pod, LABELS[pod]) for pod in (CLOSED, OPEN))]
    with running_lab(folder, NODES, PODS, (OUTSIDE,), documents=documents) as running:
        yield running


def test_without_the_early_unit_every_pod_is_open_until_the_agent_has_read_the_cluster(lab: ManifestLab) -> None:
    with Boot(lab, {}) as boot:
        boot.network()
        assert min(map(boot.arrived, PODS)) > 0
        boot.agent.start()
        ready = time.monotonic()
        boot.packets(50)
        assert boot.arrived(CLOSED, ready) == 0
        assert boot.arrived(NEW, ready) > 0, "its address isn't known yet"
        known = boot.new_pod_is_known()
        boot.packets(50)
        assert boot.arrived(NEW, known) == 0
        assert boot.arrived(OPEN, known) > 0


def test_with_the_early_unit_the_addresses_of_before_are_closed_and_new_ones_are_open(lab: ManifestLab) -> None:
    with Boot(lab, {}) as boot:
        assert "enforced until the agent has read the cluster: the saved ruleset of 20" in boot.early_unit()
        boot.network()
        boot.agent.start()
        boot.packets(50)
        assert boot.arrived(CLOSED) == 0
        assert boot.arrived(OPEN) > 0
        assert boot.arrived(NEW) > 0
        known = boot.new_pod_is_known()
        boot.packets(50)
        assert (boot.arrived(CLOSED), boot.arrived(NEW, known)) == (0, 0)


def test_with_the_early_unit_and_unknown_pods_held_no_forbidden_packet_arrives(lab: ManifestLab) -> None:
    with Boot(lab, HELD) as boot:
        assert "unknown Pods of 10.244.1.0/24, 2001:db8:244:1::/64 are held" in boot.early_unit()
        boot.network()
        assert [boot.arrived(pod) for pod in PODS] == [0, 0, 0], "no Pod is known after a boot"
        boot.agent.start()
        ready = time.monotonic()
        boot.packets(50)
        assert boot.arrived(OPEN, ready) > 0, "it is known now"
        boot.new_pod_is_known()
        boot.packets(50)
        assert (boot.arrived(CLOSED), boot.arrived(NEW)) == (0, 0)
        counters = boot.agent.ask("/v1/dump/counters")["drops"]
        assert "drop/unknown-pod" in {each["name"] for each in counters}


def test_the_agent_takes_the_restored_ruleset_over_without_a_gap_and_says_what_held(lab: ManifestLab) -> None:
    with Boot(lab, HELD) as boot:
        boot.early_unit()
        boot.agent.start()
        state = boot.agent.ask("/v1/dump/state")["agent"]
        assert state["boot"]["enforced"] == ""
        assert state["reconcile"]["drifts"] == 0
        assert not (Path(boot.agent.environment["NFAGENT_RUNTIME_DIR"]) / "restored").exists()


def test_while_the_cluster_cant_be_read_ready_says_what_is_enforced(lab: ManifestLab, tmp_path: Path) -> None:
    kubeconfig = tmp_path / "kubeconfig"
    kubeconfig.write_text(
        "apiVersion: v1\nkind: Config\ncurrent-context: x\n"
        "contexts: [{name: x, context: {cluster: x, user: x}}]\n"
        "clusters: [{name: x, cluster: {server: 'http://127.0.0.1:1'}}]\nusers: [{name: x, user: {token: t}}]\n"
    )
    with Boot(lab, HELD) as boot:
        boot.early_unit()
        agent = LabAgent(
            lab.topology, NODE.name, ("--kubeconfig", str(kubeconfig)), lab.cluster.manifests.parent / "agents"
        )
        agent.environment.update(boot.agent.environment)
        agent.start({"NFAGENT_BOOT_WAIT_SECONDS": "0"})
        try:
            boot.network()
            enforced = agent.ask("/v1/dump/state")["agent"]["boot"]["enforced"]
            assert enforced.startswith("the saved ruleset of 20")
            assert "unknown Pods of 10.244.1.0/24" in enforced
            assert f"enforced until it is read: {enforced}" in agent.stderr_text
            boot.packets(50)
            assert [boot.arrived(pod) for pod in PODS] == [0, 0, 0]
        finally:
            agent.stop()
