"""nfagent check --cluster on a node whose agent runs: what the cluster has for the node, and what the agent knows."""

from __future__ import annotations

import json

import pytest

from tests.support.apiserver_labs import ApiLab
from tests.support.packet_labs import Document

pytestmark = [pytest.mark.apiserver, pytest.mark.kernel]

NEW: Document = {
    "apiVersion": "v1",
    "kind": "Pod",
    "metadata": {"namespace": "x", "name": "new"},
    "spec": {"nodeName": "a"},
}


@pytest.mark.usefixtures("tidy")
def test_the_pods_of_its_node_are_known_to_an_agent_that_runs(lab: ApiLab) -> None:
    lab.cluster.put(NEW)
    there = sum(each["spec"].get("nodeName") == "a" for each in lab.client.list("v1", "Pod"))
    kubeconfig = lab.plane.kubeconfig("checking", token=lab.client.service_account_token("nfagent", "nfagent"))
    command = ("check", "--cluster", "--node", "a", "--kubeconfig", str(kubeconfig), "-o", "json")
    found = {each["name"]: each for each in json.loads(lab.cluster.agents["a"].run(*command).stdout)["checks"]}
    assert found["Pods"]["found"] == f"{there} Pods of Node a; the agent knows all of them"
    assert {found[name]["result"] for name in ("permissions", "own kinds", "tier kinds", "node", "Pods")} == {"ok"}
    assert found["agent"]["found"].startswith("running: process ")
