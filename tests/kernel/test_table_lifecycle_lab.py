"""One table, changed by differences only, that stays when the agent ends; tables of other programs are untouched."""

from __future__ import annotations

import re
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from nfagent.lab.cluster.agents import LabAgent
from nfagent.lab.probes.first_packet import watch_change
from nfagent.lab.probes.listeners import pod_endpoints
from nfagent.lab.probes.probe import Probe
from nfagent.lab.topology.plan import grid
from tests.support.packet_labs import (
    ManifestLab,
    held,
    namespace_document,
    pod_document,
    policy_document,
    running_lab,
    wait_until,
)

pytestmark = pytest.mark.kernel

NODES, PODS, _OUTSIDE = grid()
DENY = policy_document("x", "deny", podSelector={"matchLabels": {"pod": "a"}}, policyTypes=["Ingress"])
ALLOW = policy_document("x", "deny", podSelector={"matchLabels": {"pod": "a"}}, ingress=[{}])
FOREIGN_TABLE = (
    "add table inet foreign",
    "add chain inet foreign c { type filter hook forward priority 10; }",
    "add rule inet foreign c ip saddr 192.0.2.77 counter drop",
)


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory, backend: str) -> Iterator[ManifestLab]:
    documents = [*(namespace_document(name) for name in "xyz"), *map(pod_document, PODS)]
    with running_lab(tmp_path_factory.mktemp("lab"), NODES, PODS, documents=documents, backend=backend) as made:
        made.servers.listen(pod_endpoints(made.topology, [("tcp", 80), ("udp", 80)]))
        yield made


@pytest.fixture
def lab(running: ManifestLab) -> Iterator[ManifestLab]:
    """Yield the lab with DENY alone, and without tables of others."""
    running.only_cluster()
    running.apply("deny", DENY)
    yield running
    for agent in running.cluster.agents.values():
        agent.nft("add table inet foreign; delete table inet foreign")
    running.start_stopped()
    running.cluster.wait_until_enforced()


def agent_of(lab: ManifestLab, pod: str) -> LabAgent:
    namespace, name = pod.split("/")
    return lab.cluster.agent(lab.topology.pods[namespace, name].node)


def reached(lab: ManifestLab) -> set[bool]:
    probes = [Probe(lab.pod("y/a"), lab.address("x/a", family), "tcp", 80) for family in (4, 6)]
    return {outcome.reached for outcome in lab.ask(probes, 0.3).values()}


def handles(agent: LabAgent) -> set[str]:
    """List what the table holds, with the kernel's handles: an object made anew has another."""
    listed = agent.nft("-a", "list", "table", "inet", "nfagent")
    return {line.strip() for line in re.sub(r"packets \d+ bytes \d+", "", listed).splitlines() if "# handle" in line}


@pytest.mark.parametrize("kill", [False, True], ids=["SIGTERM", "SIGKILL"])
def test_48_the_rules_go_on_enforcing_when_the_agent_is_gone(lab: ManifestLab, *, kill: bool) -> None:
    agent = agent_of(lab, "x/a")
    agent.stop(kill=kill)
    assert reached(lab) == {False}


def test_a_start_that_finds_the_right_rules_changes_nothing(lab: ManifestLab) -> None:
    agent = agent_of(lab, "x/a")
    lab.cluster.wait_for_recheck()
    before = handles(agent)
    agent.stop()
    agent.start()
    assert agent.ask("/v1/dump/state")["agent"]["reconcile"]["transactions"] == 0
    assert handles(agent) == before


def test_a_start_changes_only_what_differs(lab: ManifestLab) -> None:
    agent = agent_of(lab, "x/a")
    lab.cluster.wait_for_recheck()
    before = handles(agent)
    agent.stop()
    other = policy_document("x", "other", podSelector={"matchLabels": {"pod": "c"}}, policyTypes=["Egress"])
    lab.apply("other", other)
    agent.start()
    lab.cluster.wait_until_enforced()
    lab.cluster.wait_for_recheck()
    # One for the difference, one that takes out of re-check what a start with a difference puts there.
    assert agent.ask("/v1/dump/state")["agent"]["reconcile"]["transactions"] == 2
    assert before <= handles(agent)
    assert any("egress/x/other" in line for line in handles(agent) - before)


@pytest.mark.both_backends
def test_43_no_packet_slips_through_a_restart(lab: ManifestLab) -> None:
    agent = agent_of(lab, "x/a")
    source, destination = lab.pod("y/a"), lab.address("x/a", 4)
    with ThreadPoolExecutor(1) as pool:
        slipped = pool.submit(watch_change, source, destination, "udp", 80, want=True, deadline=4.0)
        for kill in (False, True):
            agent.stop(kill=kill)
            agent.start()
            agent.reload()
        assert slipped.result() is None
    lab.apply("deny", ALLOW)
    assert reached(lab) == {True}


def test_other_tables_are_neither_read_nor_touched(lab: ManifestLab) -> None:
    agent = agent_of(lab, "x/a")
    for command in FOREIGN_TABLE:
        agent.nft(command)
    before = agent.nft("-a", "list", "table", "inet", "foreign")
    agent.reload()
    lab.apply("deny", ALLOW)
    agent.stop()
    agent.start()
    done = agent.run("cleanup")
    assert done.returncode == 2, "an agent keeps the table: cleanup must refuse"
    agent.stop()
    assert agent.run("cleanup").returncode == 0
    assert agent.nft("-a", "list", "table", "inet", "foreign") == before
    assert "nfagent" not in agent.nft("list", "tables")


@pytest.mark.parametrize(
    "damage",
    ["delete table inet nfagent", "flush ruleset", "flush chain inet nfagent forward-ingress"],
    ids=["the table is deleted", "the whole ruleset is flushed", "a base chain is flushed"],
)
def test_44_a_changed_table_is_repaired_at_once_and_the_program_is_named(lab: ManifestLab, damage: str) -> None:
    agent = agent_of(lab, "x/a")
    lab.cluster.wait_for_recheck()
    before = reconcile_status(agent)["drifts"]
    agent.nft(*damage.split())
    wait_until(lambda: reconcile_status(agent)["drifts"] > before and agent.recheck_is_done())
    assert reached(lab) == {False}
    assert (reconcile_status(agent)["drifts"], reconcile_status(agent)["drift_by"].split()[0]) == (before + 1, "nft")
    assert agent.run("dump", "diff").returncode == 0
    assert re.search(r"drift repairs?, last by nft \(process \d+\)", agent.run("dump", "state").stdout)


def reconcile_status(agent: LabAgent) -> dict[str, Any]:
    found: dict[str, Any] = agent.ask("/v1/dump/state")["agent"]["reconcile"]
    return found


def test_27_a_change_after_an_outside_deletion_of_an_element_heals_itself(lab: ManifestLab) -> None:
    agent = agent_of(lab, "x/a")
    address = lab.address("x/a", 4)
    with held(agent):
        agent.nft("delete", "element", "inet", "nfagent", "ingress4", f"{{ {address} }}")
        (lab.cluster.manifests / "deny.yaml").unlink()
    lab.cluster.wait_until_enforced()
    assert reached(lab) == {True}
    lab.apply("deny", DENY)
    assert reached(lab) == {False}
