"""An agent, and the commands, on a kernel without nf_tables: all by iptables-legacy and ipset."""

from __future__ import annotations

import json
import os
import shutil
import socket
import subprocess
import sys
from collections.abc import Iterator
from functools import partial
from typing import Any

import pytest

from nfagent.lab.cluster.agents import LabAgent, LabCluster
from nfagent.lab.probes.listeners import DOMAINS, Listeners
from nfagent.lab.topology import netns
from nfagent.lab.topology.netns_topology import NetnsTopology
from nfagent.lab.topology.plan import NodePlan, PodPlan
from nfagent.model.netaddr import family_of
from tests.support.packet_labs import (
    ManifestLab,
    as_text,
    logging_document,
    namespace_document,
    node_document,
    pod_document,
    policy_document,
    wait_until,
)
from tests.support.without_nf_tables import environment_without_nf_tables

pytestmark = [
    pytest.mark.kernel,
    pytest.mark.skipif(os.geteuid() != 0, reason="needs root: network namespaces and iptables"),
    pytest.mark.skipif(shutil.which("gcc") is None, reason="needs gcc, for the library that hides nf_tables"),
]

NODE = NodePlan("n1", ("192.0.2.1", "2001:db8:ffff::1"), ("10.244.1.0/24", "2001:db8:244:1::/64"))
SERVER = PodPlan("x", "server", "n1", ("10.244.1.10", "2001:db8:244:1::10"))
CLIENT = PodPlan("x", "client", "n1", ("10.244.1.11", "2001:db8:244:1::11"))
CLOSED = policy_document("x", "closed", podSelector={"matchLabels": {"pod": "server"}}, policyTypes=["Ingress"])
PORT = 8000


@pytest.fixture(scope="module")
def lab(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ManifestLab]:
    folder = tmp_path_factory.mktemp("lab")
    manifests = folder / "manifests"
    manifests.mkdir()
    documents = [
        node_document(NODE),
        namespace_document("x"),
        logging_document(allow=False, deny=True),
        *map(pod_document, (SERVER, CLIENT)),
    ]
    (manifests / "cluster.yaml").write_text(as_text(documents), encoding="utf-8")
    hidden = environment_without_nf_tables(folder)
    with NetnsTopology((NODE,), (SERVER, CLIENT), tag="nonft") as topology, Listeners() as servers:
        cluster = LabCluster(topology, manifests, folder / "agents", backend="iptables")
        for agent in cluster.agents.values():
            agent.environment |= {**hidden, "NFAGENT_BACKEND": "auto"}
        with cluster:
            yield ManifestLab(topology, servers, cluster)


@pytest.fixture
def agent(lab: ManifestLab) -> LabAgent:
    return lab.cluster.agent("n1")


def run_json(agent: LabAgent, *arguments: str) -> Any:  # noqa: ANN401 - a command's JSON
    done = agent.run(*arguments, "-o", "json")
    assert done.stdout, done.stderr
    return json.loads(done.stdout)


def test_the_backend_is_iptables_as_there_is_no_nf_tables(agent: LabAgent) -> None:
    backend = agent.ask("/v1/dump/state")["agent"]["backend"]
    assert (backend["name"], backend["reason"]) == ("iptables", "the kernel has no nf_tables")
    assert (backend["variant"], backend["variant_reason"]) == ("legacy", "the kernel has no nf_tables")
    assert backend["problems"] == []


def test_policies_hold_and_what_they_deny_is_logged(lab: ManifestLab, agent: LabAgent) -> None:
    lab.apply("policy", CLOSED)
    for address in SERVER.addresses:
        with netns.inside(
            lab.pod("x/client"), partial(socket.socket, DOMAINS[family_of(address)], socket.SOCK_DGRAM)
        ) as sent:
            sent.sendto(b"x", (address, PORT))
    wait_until(lambda: len(records_of(agent)) >= 2)
    records = records_of(agent)
    assert {(record["disposition"], record["connection"]["dest_ip"]) for record in records} == {
        ("deny", address) for address in SERVER.addresses
    }
    lab.only_cluster()


def records_of(agent: LabAgent) -> list[dict[str, Any]]:
    log = agent.verdict_log
    # The last line may still be written.
    return [json.loads(line) for line in log.read_bytes().split(b"\n")[:-1]] if log.exists() else []


def test_no_part_has_a_problem(agent: LabAgent) -> None:
    found = agent.ask("/v1/dump/state")
    assert found["problems"] == []
    status = found["agent"]
    problems = {
        part: value["problem"] for part, value in status.items() if isinstance(value, dict) and "problem" in value
    }
    assert {part: problem for part, problem in problems.items() if problem} == {
        "frames": "the backend is iptables, and frames are dropped by nf_tables only"
    }
    lines = agent.stderr_text.splitlines()
    # A test before this one deletes the policy.
    said = [line for line in lines if " warning " in line or " error " in line if "no policy is left" not in line]
    assert [line for line in said if not line.endswith(f"{problems['frames']}; retrying")] == []


def test_check_speaks_of_iptables_alone(agent: LabAgent) -> None:
    found = run_json(agent, "check")
    rows = {item["name"]: (item["result"], item["found"]) for item in found["checks"]}
    assert rows["backend"] == (
        "ok",
        "iptables (legacy: the kernel has no nf_tables), as the kernel has no nf_tables",
    )
    wrong = [(name, *row) for name, row in rows.items() if "nft" in row[1].replace("the kernel has no nf_tables", "")]
    assert wrong == []
    assert rows["iptables marks"][0] == "ok"


def test_the_difference_and_the_kernel_are_shown(agent: LabAgent) -> None:
    assert agent.ask("/v1/dump/diff")["equal"]
    assert run_json(agent, "dump", "kernel")


def test_without_capabilities_the_check_says_what_cannot_be_changed(lab: ManifestLab, agent: LabAgent) -> None:
    command = ["setpriv", "--bounding-set", "-all", "--inh-caps", "-all", sys.executable, "-m", "nfagent", "check"]
    done = subprocess.run(
        lab.topology.command(lab.topology.node_namespace("n1"), [*command, "-o", "json"]),
        env=agent.environment,
        capture_output=True,
        text=True,
        check=False,
    )
    rows = {item["name"]: item["found"] for item in json.loads(done.stdout)["checks"]}
    assert rows["privileges"] == "no CAP_NET_ADMIN: rules can't be changed"


def test_cleanup_removes_all(lab: ManifestLab, agent: LabAgent) -> None:
    agent.stop()
    text = agent.run("cleanup").stdout
    assert "of iptables with" in text
    assert "inet nfagent" not in text, text
    saved = subprocess.run(
        lab.topology.command(lab.topology.node_namespace("n1"), ["iptables-legacy-save"]),
        capture_output=True,
        text=True,
        check=True,
    ).stdout
    assert "nfa-" not in saved
