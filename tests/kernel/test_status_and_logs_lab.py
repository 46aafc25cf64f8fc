"""`nfagent status` and `nfagent logs` of a running agent: who was denied, by real packets; filters by the cluster."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import pytest

from nfagent.lab.cluster.agents import LabAgent
from nfagent.lab.probes.listeners import pod_endpoints
from nfagent.lab.probes.probe import Probe
from nfagent.lab.topology.plan import OutsideHost, grid
from tests.support.packet_labs import (
    ManifestLab,
    logging_document,
    namespace_document,
    pod_document,
    policy_document,
    running_lab,
    wait_until,
)

pytestmark = pytest.mark.kernel

NODES, PODS, _ = grid()
OUTSIDE = OutsideHost("outside", ("198.51.100.10", "2001:db8:99::10"))
FROM_Y = policy_document(
    "x",
    "from-y",
    podSelector={"matchLabels": {"pod": "a"}},
    ingress=[{"from": [{"namespaceSelector": {"matchLabels": {"ns": "y"}}}]}],
)
BROKEN = policy_document("x", "broken", ingress=[{"from": [{"ipBlock": {"cidr": "10.0.0.0/99"}}]}])


@pytest.fixture(scope="module")
def lab(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ManifestLab]:
    documents = [*(namespace_document(name) for name in "xyz"), *map(pod_document, PODS), FROM_Y]
    with running_lab(tmp_path_factory.mktemp("lab"), NODES, PODS, (OUTSIDE,), documents=documents) as running:
        running.servers.listen(pod_endpoints(running.topology, [("tcp", 80)]))
        running.apply("logging", logging_document(allow=True, deny=True))
        yield running


def agent(lab: ManifestLab) -> LabAgent:
    return lab.cluster.agent(lab.topology.pods["x", "a"].node)


def call(lab: ManifestLab, *sources: str) -> None:
    """Call x/a from these Pods, or from outside; return once the records are in the log."""
    for source in sources:
        name = lab.topology.outside_namespace("outside") if source == "outside" else lab.pod(source)
        lab.reaches(Probe(name, lab.address("x/a", 4), "tcp", 80), 0.15)
    # Not by their number: one packet of a connection may come twice.
    called = {OUTSIDE.addresses[0] if source == "outside" else source for source in sources}
    wait_until(lambda: callers(lab) >= called)


def callers(lab: ManifestLab) -> set[str]:
    """Return the sources of the records in the log's whole lines."""
    log = agent(lab).verdict_log
    lines = log.read_bytes().split(b"\n")[:-1] if log.exists() else []
    return {named(json.loads(line)["src"]) for line in lines}


def named(end: dict[str, Any]) -> str:
    """Return a Pod as `y/b`, another end by its address."""
    return str(end.get("instance") or f"{end['pod_namespace']}/{end['pod_name']}")


def shown(lab: ManifestLab, *options: str) -> set[str]:
    """Return the sources of the records that `nfagent logs` shows."""
    said = agent(lab).run("logs", "-o", "json", *options)
    assert said.returncode in {0, 2}, said.stderr
    return {named(json.loads(line)["src"]) for line in said.stdout.splitlines()}


def status(lab: ManifestLab) -> tuple[int, dict[str, Any]]:
    said = agent(lab).run("status", "-o", "json")
    assert said.returncode in {0, 1}, said.stderr
    found: dict[str, Any] = json.loads(said.stdout)
    return said.returncode, found


def test_who_was_denied_is_in_the_status_and_in_the_log(lab: ManifestLab) -> None:
    call(lab, "z/c", "y/b", "outside")
    assert shown(lab, "--to", "x/a", "--verdict", "dropped") == {"z/c", OUTSIDE.addresses[0]}
    assert shown(lab, "--from", "pod=c") == {"z/c"}
    assert shown(lab, "--from", "world") == {OUTSIDE.addresses[0]}
    assert shown(lab, "--not", "--from", "world", "--not", "--from-label", "pod in (c)") == {"y/b"}
    assert shown(lab, "--from-port", "80") == set()

    code, found = status(lab)
    assert (code, found["health"], found["problems"]) == (0, "ok", [])
    assert (found["in_sync"], found["source"]["kind"], found["source"]["synced"]) == (True, "manifests", True)
    assert found["denied"]["by"] == "log"
    assert found["denied"]["packets"] >= 2
    denied = {(item["source"], item["destination"], *item["policies"]) for item in found["denied"]["top"]}
    assert denied == {("z/c", "x/a:80/tcp", "x/from-y"), (OUTSIDE.addresses[0], "x/a:80/tcp", "x/from-y")}

    text = agent(lab).run("status").stdout
    assert "z/c -> x/a:80/tcp by x/from-y" in text
    top = json.loads(agent(lab).run("logs", "--top", "-o", "json").stdout)
    assert [item["name"] for item in top["policies"]] == ["x/from-y"]


def test_where_denies_are_not_logged_the_policies_counters_tell(lab: ManifestLab) -> None:
    lab.apply("logging", logging_document(allow=True, deny=False))
    before = status(lab)[1]["denied"]["packets"]
    lab.reaches(Probe(lab.pod("z/c"), lab.address("x/a", 4), "tcp", 80), 0.15)
    wait_until(lambda: status(lab)[1]["denied"]["packets"] > before)  # a reading serves for a moment
    found = status(lab)[1]["denied"]
    assert found["by"] == "counters"
    assert found["top"][0]["policies"] == ["x/from-y"]


def test_top_counts_by_pod_and_by_policy_and_knows_what_is_not_counted(lab: ManifestLab) -> None:
    lab.reaches(Probe(lab.pod("z/c"), lab.address("x/a", 4), "tcp", 80), 0.15)
    said = agent(lab).run("top", "-o", "json", "-n", "2", "--interval", "1")
    assert said.returncode == 0, said.stderr
    first, second = map(json.loads, said.stdout.splitlines())
    assert first["seconds"] is None
    assert second["seconds"] > 0.5
    rows = {(row["name"], row["direction"]): row for row in second["pods"]}
    denied = rows["x/a", "ingress"]["denied"]
    assert denied >= 1
    [earlier] = [row for row in first["pods"] if (row["name"], row["direction"]) == ("x/a", "ingress")]
    # A packet of the probe may be sent again in between.
    assert rows["x/a", "ingress"]["denied_rate"] == pytest.approx(
        (denied - earlier["denied"]) / second["seconds"], abs=0.01
    )
    here = [key for key, pod in lab.topology.pods.items() if pod.node == lab.topology.pods["x", "a"].node]
    assert {f"{space}/{name}" for space, name in here} == {name for name, _ in rows}
    other = next(row for row in second["pods"] if row["name"] != "x/a")
    assert (other["direction"], other["denied"], other["allowed"]) == ("", None, None)
    policies = {(row["name"], row["direction"]): row["denied"] for row in second["policies"]}
    assert policies["x/from-y", "ingress"] >= 1


def test_a_policy_that_fails_closed_makes_the_status_degraded_until_it_is_repaired(lab: ManifestLab) -> None:
    lab.apply("broken", BROKEN)
    code, found = status(lab)
    assert (code, found["health"], found["failing_closed"]) == (1, "degraded", ["x/broken"])
    lab.apply("broken", policy_document("x", "broken", ingress=[{}]))
    assert status(lab)[0] == 0


def test_the_agent_filters_the_records_that_it_keeps(lab: ManifestLab) -> None:
    found = [
        json.loads(line)
        for line in agent(lab).run("logs", "-o", "json", "--file", str(agent(lab).verdict_log)).stdout.splitlines()
    ]
    summary = agent(lab).ask("/v1/summary", filter='{"all":[{"field":"to","terms":["pod=a"]}]}')
    assert summary["records"] == len(found) > 0
    assert agent(lab).ask("/v1/summary", of="denied")["denied"] == sum(item["disposition"] == "deny" for item in found)


def test_the_state_lists_the_pods_of_the_node(lab: ManifestLab) -> None:
    said = agent(lab).run("dump", "state", "-o", "json")
    node = lab.topology.pods["x", "a"].node
    here = {f"{item['namespace']}/{item['name']}" for item in json.loads(said.stdout)["pods"]}
    assert here == {f"{space}/{name}" for (space, name), pod in lab.topology.pods.items() if pod.node == node}
    assert f"{len(PODS) - len(here)} Pods of other nodes not listed" in said.stderr
