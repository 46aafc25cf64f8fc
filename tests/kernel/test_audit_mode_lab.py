"""Audit mode with real packets: what audited policies alone would deny passes, is counted and logged as audit-deny."""

from __future__ import annotations

import itertools
import subprocess
from collections.abc import Callable, Iterator

import pytest

from nfagent.lab.cluster.agents import LabAgent
from nfagent.lab.probes.listeners import ProbeProtocol, pod_endpoints
from nfagent.lab.probes.probe import Probe
from nfagent.lab.topology.plan import grid
from nfagent.verdicts.records import Record, decode
from tests.support.packet_labs import (
    Document,
    ManifestLab,
    logging_document,
    namespace_document,
    pod_document,
    policy_document,
    running_lab,
    wait_until,
)
from tests.support.raw_sockets import udp_socket

pytestmark = pytest.mark.kernel

NODES, PODS, _ = grid()
PORTS: list[tuple[ProbeProtocol, int]] = [("tcp", 80), ("udp", 80), ("icmp", 0)]
SUBJECT = {"matchLabels": {"pod": "a"}}
FENCED = policy_document("y", "fenced", podSelector={"matchLabels": {"pod": "b"}}, ingress=[])
"""Of a Pod on the node of x/a."""
FENCES = itertools.count(20_000)
"""Ports of datagrams to it, each for one."""


def audited(document: Document, value: str = "true") -> Document:
    return document | {"metadata": document["metadata"] | {"annotations": {"nfagent.io/audit": value}}}


CLOSED = policy_document("x", "closed", podSelector=SUBJECT, ingress=[])
FROM_Y = policy_document(
    "x", "from-y", podSelector=SUBJECT, ingress=[{"from": [{"namespaceSelector": {"matchLabels": {"ns": "y"}}}]}]
)
ADMIN: Document = {
    "apiVersion": "policy.networking.k8s.io/v1alpha1",
    "kind": "AdminNetworkPolicy",
    "metadata": {"name": "guard"},
    "spec": {
        "priority": 1,
        "subject": {"pods": {"namespaceSelector": {}, "podSelector": SUBJECT}},
        "ingress": [{"action": "Deny", "from": [{"namespaces": {"matchLabels": {"ns": "z"}}}]}],
    },
}

UNTRACKED = """table inet exempt {
  chain c { type filter hook prerouting priority raw; meta l4proto udp notrack; }
}"""


def run(command: list[str], text: str = "") -> None:
    subprocess.run(command, check=True, text=True, input=text)


@pytest.fixture(scope="module")
def lab(tmp_path_factory: pytest.TempPathFactory, backend: str) -> Iterator[ManifestLab]:
    documents = [*(namespace_document(name) for name in "yz"), *map(pod_document, PODS)]
    with running_lab(tmp_path_factory.mktemp("lab"), NODES, PODS, documents=documents, backend=backend) as running:
        running.servers.listen(pod_endpoints(running.topology, PORTS))
        running.apply("space", namespace_document("x"))
        running.apply("logging", logging_document(allow=False, deny=True))
        running.apply("fenced", FENCED)
        reporting = agent(running)
        reporting.stop()
        reporting.start({"NFAGENT_LOGGING_AGGREGATION_SECONDS": "0"})
        yield running


def agent(lab: ManifestLab) -> LabAgent:
    return lab.cluster.agent(lab.topology.pods["x", "a"].node)


def records(lab: ManifestLab) -> list[Record]:
    log = agent(lab).verdict_log
    written, _, _ = log.read_bytes().rpartition(b"\n") if log.exists() else (b"", b"", b"")
    return [decode(line) for line in written.splitlines()]


def fresh(lab: ManifestLab, act: Callable[[], object]) -> list[Record]:
    """Return the records that an act brings about.

    The kernel hands packets over later, in their order: all records are there with that of a packet that follows.
    """
    known = len(records(lab))
    act()
    port = next(FENCES)
    with udp_socket(lab.pod("z/c"), lab.address("z/c", 4)) as sock:
        sock.sendto(b"fence", (lab.address("y/b", 4), port))
    wait_until(lambda: any(record.connection.dest_port == port for record in records(lab)))
    return [record for record in records(lab)[known:] if record.dest.pod_name != "b"]


def counted(lab: ManifestLab, verdict: str) -> int:
    found = agent(lab).ask("/v1/dump/counters")["counters"]
    return sum(counter["packets"] for counter in found if counter["verdict"] == verdict)


@pytest.mark.parametrize("family", [4, 6])
@pytest.mark.parametrize(("protocol", "port"), PORTS)
@pytest.mark.both_backends
def test_what_an_audited_policy_alone_denies_passes_and_is_one_record(
    lab: ManifestLab, protocol: ProbeProtocol, port: int, family: int
) -> None:
    lab.apply("policies", audited(CLOSED))
    before = counted(lab, "audit-deny")
    probe = Probe(lab.pod("z/c"), lab.address("x/a", family), protocol, port)
    answered: list[bool] = []
    found = fresh(lab, lambda: answered.append(lab.reaches(probe)))
    assert answered == [True]
    assert {record.disposition for record in found} == {"audit-deny"}
    assert [policy.name for policy in found[0].isolating_policies] == ["closed"]
    assert (found[0].policies, found[0].connection.direction) == ((), "ingress")
    assert (found[0].src.pod_name, found[0].dest.pod_name) == ("c", "a")
    assert counted(lab, "audit-deny") > before


@pytest.mark.parametrize("family", [4, 6])
def test_what_conntrack_does_not_follow_is_a_record_too(lab: ManifestLab, family: int) -> None:
    lab.apply("policies", audited(CLOSED))
    node = lab.topology.node_namespace(lab.topology.pods["x", "a"].node)
    run(["ip", "netns", "exec", node, "nft", "-f", "-"], UNTRACKED)
    try:
        probe = Probe(lab.pod("z/c"), lab.address("x/a", family), "udp", 80)
        answered: list[bool] = []
        found = fresh(lab, lambda: answered.append(lab.reaches(probe)))
    finally:
        run(["ip", "netns", "exec", node, "nft", "delete table inet exempt"])
    assert answered == [True]
    # Each packet is one: a probe without an answer yet is repeated.
    assert {record.disposition for record in found} == {"audit-deny"}
    assert [policy.name for policy in found[0].isolating_policies] == ["closed"]


def test_what_an_enforced_policy_denies_is_dropped_as_without_the_audited_one(lab: ManifestLab) -> None:
    lab.apply("policies", FROM_Y, audited(CLOSED))
    denied = Probe(lab.pod("z/c"), lab.address("x/a", 4), "udp", 80)
    expected = {denied: False, Probe(lab.pod("y/c"), denied.destination, "tcp", 80): True}
    wrong: list[str] = []
    found = fresh(lab, lambda: wrong.extend(lab.wrong(expected)))
    assert wrong == []
    assert {record.disposition for record in found} == {"deny"}
    assert [policy.name for policy in found[0].isolating_policies] == ["from-y"]


def test_an_audited_policy_of_the_admin_tier_leaves_the_verdict_to_the_others(lab: ManifestLab) -> None:
    lab.apply("policies", audited(ADMIN))
    probe = Probe(lab.pod("z/c"), lab.address("x/a", 6), "tcp", 80)
    wrong: list[str] = []
    found = fresh(lab, lambda: wrong.extend(lab.wrong({probe: True})))
    assert [(record.disposition, record.isolating_policies[0].kind) for record in found[:1]] == [
        ("audit-deny", "AdminNetworkPolicy")
    ]
    lab.apply("policies", audited(ADMIN), CLOSED)
    found = fresh(lab, lambda: wrong.extend(lab.wrong({probe: False})))
    assert wrong == []
    assert [(record.disposition, record.isolating_policies[0].name) for record in found[:1]] == [("deny", "closed")]


def test_a_namespace_audits_its_policies_until_its_annotation_goes(lab: ManifestLab) -> None:
    lab.apply("policies", CLOSED)
    probe = Probe(lab.pod("z/c"), lab.address("x/a", 4), "tcp", 80)
    assert lab.wrong({probe: False}) == []
    lab.apply("space", audited(namespace_document("x")))
    assert lab.wrong({probe: True}) == []
    # A value that can't be read keeps the last good one.
    lab.apply("space", audited(namespace_document("x"), "True"))
    assert lab.wrong({probe: True}) == []
    lab.apply("space", namespace_document("x"))
    assert lab.wrong({probe: False}) == []


def test_explain_and_dump_show_the_audit(lab: ManifestLab) -> None:
    lab.apply("policies", audited(CLOSED))
    shown = agent(lab).run("explain", "z/c", "x/a:80/tcp")
    assert shown.returncode == 0
    assert "allowed, logged as audit-deny" in shown.stdout
    assert "remove the annotation nfagent.io/audit from NetworkPolicy x/closed" in shown.stdout
    dumped = agent(lab).run("dump", "policies")
    assert "NetworkPolicy, audited" in dumped.stdout
