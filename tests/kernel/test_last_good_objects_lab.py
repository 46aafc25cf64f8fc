"""A restart of the agent: the last valid version of an object that is unreadable now stays enforced."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from nfagent.lab.cluster.agents import LabAgent, LabCluster
from nfagent.lab.probes.listeners import Endpoint, Listeners, pod_endpoints
from nfagent.lab.probes.probe import Probe
from nfagent.lab.topology.netns_topology import NetnsTopology
from nfagent.lab.topology.plan import NodePlan, OutsideHost, PodPlan
from tests.support.packet_labs import ManifestLab, pod_plans, wait_until

pytestmark = pytest.mark.kernel

FAULTS = Path(__file__).parents[1] / "faults"
GOOD = "restart-forgets-last-good/good"
OUTSIDE = OutsideHost("outside", ("192.168.9.9", "2001:db8:99::9"))
MANIFESTS = ("objs.json", "pol.yaml")


def planned() -> tuple[list[NodePlan], list[PodPlan]]:
    """Plan the nodes and Pods that the inputs have, all of them the same ones."""
    items = json.loads((FAULTS / GOOD / "objs.json").read_text())["items"]
    nodes = [
        NodePlan(
            item["metadata"]["name"],
            tuple(entry["address"] for entry in item["status"]["addresses"]),
            tuple(item["spec"]["podCIDRs"]),
        )
        for item in items
        if item["kind"] == "Node"
    ]
    pods = pod_plans(items)
    return nodes, pods


class RestartLab(ManifestLab):
    """A lab whose agents start and stop; the manifests are those of an input."""

    def put(self, fault: str) -> None:
        """Replace the manifests, and return when the running agents have read the new ones."""
        for name in MANIFESTS:
            path = FAULTS / fault / name
            if path.exists():
                self.cluster.place(name, path.read_text())
            else:
                (self.cluster.manifests / name).unlink(missing_ok=True)
        self.cluster.wait_until_enforced()

    def publish(self, fault: str, revision: str) -> None:
        """Publish an input as git-sync does: a folder of its own, and the link to it swapped at one moment."""
        link = self.cluster.manifests
        folder = link.with_name(revision)
        folder.mkdir()
        for path in (FAULTS / fault).iterdir():
            (folder / path.name).write_text(path.read_text())
        beside = link.with_name("next")
        beside.symlink_to(revision)
        beside.rename(link)
        self.cluster.wait_until_enforced()

    def restart(self, node: str) -> LabAgent:
        agent = self.cluster.agent(node)
        agent.stop()
        agent.start()
        return agent

    def problems(self, node: str) -> list[str]:
        found = self.cluster.agent(node).ask("/v1/dump/state")["problems"]
        return [f"{problem['place']} {problem['object']} {problem['reason']}" for problem in found]

    @property
    def srv_reached(self) -> set[bool]:
        """Whether bug-a/cli reaches bug-b/srv, by both families."""
        probes = [Probe(self.pod("bug-a/cli"), self.address("bug-b/srv", family), "tcp", 80) for family in (4, 6)]
        return {outcome.reached for outcome in self.ask(probes, 0.3).values()}

    def seen_outside(self) -> set[str | None]:
        """As whom a host outside sees bug-a/cli."""
        probe = Probe(self.pod("bug-a/cli"), OUTSIDE.addresses[0], "tcp", 443)
        return {outcome.seen_from for outcome in self.ask([probe], 2.0).values()}


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RestartLab]:
    folder = tmp_path_factory.mktemp("lab")
    (folder / "revision-0").mkdir()
    (folder / "manifests").symlink_to("revision-0")
    nodes, pods = planned()
    with (
        NetnsTopology(nodes, pods, [OUTSIDE], tag="t") as topology,
        Listeners() as servers,
        LabCluster(topology, folder / "manifests", folder / "agents") as cluster,
    ):
        servers.listen(pod_endpoints(topology, [("tcp", 80)]))
        outside = topology.outside_namespace("outside")
        servers.listen([Endpoint(outside, OUTSIDE.addresses[0], "tcp", 443)])
        yield RestartLab(topology, servers, cluster)


@pytest.fixture
def lab(running: RestartLab) -> RestartLab:
    """Return the lab with the valid manifests read."""
    for agent in running.cluster.agents.values():
        if not agent.is_running:
            agent.start()
    running.put(GOOD)
    assert running.srv_reached == {False}
    return running


BROKEN = {
    "that has a tab": "restart-forgets-last-good/tab",
    "of a former version of its API": "restart-forgets-last-good/v1beta1",
    "of the API group extensions": "extensions-v1beta1-silent",
}


@pytest.mark.parametrize("fault", BROKEN.values(), ids=BROKEN.keys())
@pytest.mark.parametrize("stopped", [False, True], ids=["while the agent runs", "while it is stopped"])
def test_a_policy_stays_in_force_over_a_restart_in_a_file(lab: RestartLab, fault: str, *, stopped: bool) -> None:
    agent = lab.cluster.agent("n2")
    if stopped:
        agent.stop()
    lab.put(fault)
    assert lab.srv_reached == {False}
    lab.restart("n2")
    assert lab.srv_reached == {False}
    [problem] = lab.problems("n2")
    assert "pol.yaml" in problem
    assert problem.endswith("stays in force")
    lab.restart("n2")
    assert lab.srv_reached == {False}, "as often as it starts"


def test_a_policy_that_is_killed_with_its_agent_and_mistyped_meanwhile_stays_in_force(lab: RestartLab) -> None:
    agent = lab.cluster.agent("n2")
    wait_until(lambda: agent.ask("/v1/dump/state")["agent"]["last_good"]["pending"] == 0)
    agent.stop(kill=True)
    text = (FAULTS / GOOD / "pol.yaml").read_text()
    lab.cluster.place("pol.yaml", text.replace("kind: NetworkPolicy", "kind: NetworkPolcy"))
    agent.start()
    assert lab.srv_reached == {False}
    [problem] = lab.problems("n2")
    assert "did you mean NetworkPolicy (apiVersion networking.k8s.io/v1)?; its last good version stays in" in problem


def test_a_link_to_the_manifests_that_is_swapped_takes_effect_and_keeps_what_breaks(lab: RestartLab) -> None:
    lab.publish("restart-forgets-last-good/masq-before", "revision-1")
    assert lab.srv_reached == {True}, "it has no policy"
    lab.publish(GOOD, "revision-2")
    assert lab.srv_reached == {False}
    lab.publish(BROKEN["of the API group extensions"], "revision-3")
    assert lab.srv_reached == {False}
    lab.restart("n2")
    assert lab.srv_reached == {False}
    lab.cluster.agent("n2").stop()
    lab.publish("restart-forgets-last-good/masq-before", "revision-4")
    lab.cluster.agent("n2").start()
    assert lab.srv_reached == {True}


@pytest.mark.parametrize("change", ["deleted", "deleted while stopped", "allowing"])
def test_a_deleted_or_corrected_object_is_not_kept(lab: RestartLab, change: str) -> None:
    agent = lab.cluster.agent("n2")
    lab.put(BROKEN["that has a tab"])
    lab.restart("n2")
    if change == "deleted while stopped":
        agent.stop()
    if change == "allowing":
        lab.cluster.write("pol.yaml", (FAULTS / GOOD / "pol.yaml").read_text() + "  ingress: [{}]\n")
    else:
        lab.cluster.delete("pol.yaml")
    if not agent.is_running:
        agent.start()
    assert lab.srv_reached == {True}
    assert lab.problems("n2") == []
    lab.restart("n2")
    assert lab.srv_reached == {True}


@pytest.mark.parametrize("stopped", [False, True], ids=["while the agent runs", "while it is stopped"])
def test_a_masquerade_list_stays_in_force_over_a_restart(lab: RestartLab, *, stopped: bool) -> None:
    lab.put("restart-forgets-last-good/masq-before")
    node = set(lab.topology.nodes["n1"].addresses)
    assert lab.seen_outside() <= node
    if stopped:
        lab.cluster.agent("n1").stop()
    lab.put("restart-forgets-last-good/masq-after")
    lab.restart("n1")
    assert lab.seen_outside() <= node, "the list of before translates everything"
    [problem] = lab.problems("n1")
    assert "ConfigMap kube-system/ip-masq-agent" in problem
    assert problem.endswith("has host bits set; write 192.168.9.0/24")


def test_without_a_state_folder_rules_are_enforced_and_the_problem_is_reported(lab: RestartLab) -> None:
    agent = lab.cluster.agent("n2")
    agent.stop()
    agent.start({"NFAGENT_STATE_DIR": "/proc/nowhere"})
    assert lab.srv_reached == {False}
    status = agent.ask("/v1/dump/state")["agent"]["last_good"]
    assert "/proc/nowhere" in status["problem"]
    wait_until(lambda: "checkpoint: /proc/nowhere" in agent.stderr_text)
    agent.stop()


def test_cleanup_deletes_the_last_known_objects(lab: RestartLab) -> None:
    agent = lab.cluster.agent("n2")
    lab.put(BROKEN["that has a tab"])
    agent.stop()
    done = agent.run("cleanup")
    assert "last good objects" in done.stdout
    agent.start()
    assert lab.srv_reached == {True}
