"""From power-on to the first enforced rule: which packets reach Pods, for each choice of docs/boot.md."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from pathlib import Path
from typing import TypeAlias

import pytest

from benchmarks.harness.boot_lab import CLOSED, HELD, NEW, NODE, OPEN, PODS, Boot, boot_lab
from nfagent.errors import NfagentError
from nfagent.lab.cluster.agents import LabAgent, LabCluster
from nfagent.lab.topology.netns_topology import NetnsTopology
from tests.support.packet_labs import wait_until

pytestmark = [
    pytest.mark.kernel,
    pytest.mark.skipif(os.geteuid() != 0, reason="needs root: network namespaces and nf_tables"),
]
Lab: TypeAlias = tuple[NetnsTopology, LabCluster]
NONE = [0, 0, 0]


@pytest.fixture(name="lab", scope="module")
def _lab(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Lab]:
    with boot_lab(tmp_path_factory.mktemp("lab")) as built:
        yield built


def answers(agent: LabAgent) -> bool:
    try:
        agent.ask("/v1/dump/state")
    except NfagentError:
        return False
    return True


def test_without_the_early_unit_every_pod_is_open_until_the_agent_has_read_the_cluster(lab: Lab) -> None:
    with Boot(*lab, {}) as boot:
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


def test_with_the_early_unit_the_addresses_of_before_are_closed_and_new_ones_are_open(lab: Lab) -> None:
    with Boot(*lab, {}) as boot:
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


def test_with_the_early_unit_and_unknown_pods_held_no_forbidden_packet_arrives(lab: Lab) -> None:
    with Boot(*lab, HELD) as boot:
        assert "unknown Pods of 10.244.1.0/24, 2001:db8:244:1::/64 are held" in boot.early_unit()
        boot.network()
        assert list(map(boot.arrived, PODS)) == NONE, "no Pod is known after a boot"
        boot.agent.start()
        ready = time.monotonic()
        boot.packets(50)
        assert boot.arrived(OPEN, ready) > 0, "it is known now"
        boot.new_pod_is_known()
        boot.packets(50)
        assert (boot.arrived(CLOSED), boot.arrived(NEW)) == (0, 0)
        assert "drop/unknown-pod" in {each["name"] for each in boot.agent.ask("/v1/dump/counters")["drops"]}
        state = boot.agent.ask("/v1/dump/state")["agent"]
        assert (state["boot"]["enforced"], state["reconcile"]["drifts"]) == ("", 0)
        assert not (Path(boot.agent.environment["NFAGENT_RUNTIME_DIR"]) / "restored").exists()


def test_without_the_early_unit_unknown_pods_are_held_from_the_agent_s_first_commit_on(lab: Lab) -> None:
    with Boot(*lab, HELD) as boot:
        boot.agent.start()
        boot.network()
        assert (boot.arrived(CLOSED), boot.arrived(NEW)) == (0, 0)
        assert boot.arrived(OPEN) > 0


def test_while_the_cluster_is_unreadable_ready_says_what_is_enforced(lab: Lab, tmp_path: Path) -> None:
    kubeconfig = tmp_path / "kubeconfig"
    kubeconfig.write_text(
        "apiVersion: v1\nkind: Config\ncurrent-context: x\n"
        "contexts: [{name: x, context: {cluster: x, user: x}}]\n"
        "clusters: [{name: x, cluster: {server: 'http://127.0.0.1:1'}}]\nusers: [{name: x, user: {token: t}}]\n"
    )
    topology, cluster = lab
    with Boot(*lab, HELD) as boot:
        boot.early_unit()
        source = ("--kubeconfig", str(kubeconfig))
        agent = LabAgent(topology, NODE.name, source, cluster.manifests.parent / "agents")
        agent.environment.update(boot.agent.environment)
        agent.start({"NFAGENT_BOOT_WAIT_SECONDS": "0"})
        try:
            boot.network()
            wait_until(lambda: answers(agent))  # it is ready at once, and serves its socket soon after
            enforced = agent.ask("/v1/dump/state")["agent"]["boot"]["enforced"]
            assert enforced.startswith("the saved ruleset of 20")
            assert "unknown Pods of 10.244.1.0/24" in enforced
            wait_until(lambda: f"enforced until it is read: {enforced}" in agent.stderr_text)  # a thread writes it
            assert f"Enforced until then: {enforced}" in agent.run("dump", "ruleset").stderr
            boot.packets(50)
            assert list(map(boot.arrived, PODS)) == NONE
        finally:
            agent.stop()
