"""The verdicts of `nfagent try` for logged connections, compared with packets after the change is made."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from nfagent.lab.cluster.agents import LabAgent
from nfagent.lab.probes.listeners import ProbeProtocol, pod_endpoints
from nfagent.lab.probes.probe import Probe
from nfagent.lab.topology.plan import grid
from tests.support.packet_labs import (
    Document,
    ManifestLab,
    as_text,
    logging_document,
    namespace_document,
    pod_document,
    policy_document,
    running_lab,
    wait_until,
)

pytestmark = pytest.mark.kernel

NODES, PODS, _ = grid()
PORTS: list[tuple[ProbeProtocol, int]] = [("tcp", 80), ("udp", 80), ("icmp", 0)]
CLIENTS = ("y/a", "y/b", "z/a", "z/c")
SUBJECT = {"matchLabels": {"pod": "a"}}
FROM_Y = {"namespaceSelector": {"matchLabels": {"ns": "y"}}}
OPEN = policy_document("x", "door", podSelector=SUBJECT, ingress=[{}])
AJAR = policy_document(
    "x", "door", podSelector=SUBJECT, ingress=[{"from": [FROM_Y]}, {"ports": [{"protocol": "UDP", "port": 80}]}]
)
GUARD: Document = {
    "apiVersion": "policy.networking.k8s.io/v1alpha1",
    "kind": "AdminNetworkPolicy",
    "metadata": {"name": "guard"},
    "spec": {
        "priority": 10,
        "subject": {"pods": {"namespaceSelector": {"matchLabels": {"ns": "x"}}, "podSelector": SUBJECT}},
        "ingress": [
            {
                "action": "Deny",
                "from": [{"pods": {"namespaceSelector": {}, "podSelector": {"matchLabels": {"pod": "b"}}}}],
            },
            {
                "action": "Allow",
                "from": [{"pods": {"namespaceSelector": {}, "podSelector": {"matchLabels": {"pod": "c"}}}}],
            },
        ],
    },
}


@pytest.fixture(scope="module")
def lab(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ManifestLab]:
    documents = [*(namespace_document(name) for name in "xyz"), *map(pod_document, PODS)]
    documents.append(logging_document(allow=True, deny=True))
    with running_lab(tmp_path_factory.mktemp("lab"), NODES, PODS, documents=documents) as running:
        running.servers.listen(pod_endpoints(running.topology, PORTS))
        yield running


def agent(lab: ManifestLab) -> LabAgent:
    return lab.cluster.agent(lab.topology.pods["x", "a"].node)


def probes(lab: ManifestLab) -> dict[tuple[str, str], Probe]:
    """Return every way of calling x/a, by the client's address and the protocol that the log names."""
    return {
        (lab.address(client, family), "icmpv6" if (protocol, family) == ("icmp", 6) else protocol): Probe(
            lab.pod(client), lab.address("x/a", family), protocol, port
        )
        for client in CLIENTS
        for family in (4, 6)
        for protocol, port in PORTS
    }


def logged(lab: ManifestLab) -> set[tuple[str, str]]:
    """Return the ways of which the log has a record; a probe that was sent again has several."""
    log = agent(lab).verdict_log
    lines = log.read_bytes().split(b"\n")[:-1] if log.exists() else []
    connections = [json.loads(line)["connection"] for line in lines]
    return {(connection["src_ip"], connection["protocol"]) for connection in connections}


def tried(lab: ManifestLab, folder: Path, code: int, *documents: Document, delete: bool = False) -> dict[str, Any]:
    given = folder / "given.yaml"
    given.write_text(as_text(documents))
    done = agent(lab).run("try", "-f", str(given), "-o", "json", *(["--delete"] if delete else []))
    assert done.returncode == code, done.stdout + done.stderr
    found: dict[str, Any] = json.loads(done.stdout)
    return found


def turned(found: dict[str, Any]) -> dict[tuple[str, str], bool]:
    """Return the new verdicts of the flows that change."""
    return {
        (change["flow"]["source"], change["flow"]["protocol"]): change["after"] == "allowed"
        for change in found["changes"]
    }


def test_packets_meet_the_verdicts_that_try_predicted(lab: ManifestLab, tmp_path: Path) -> None:
    ways = probes(lab)
    lab.apply("door", OPEN)
    verdicts = dict.fromkeys(ways, True)
    assert lab.wrong({ways[way]: verdict for way, verdict in verdicts.items()}) == []
    wait_until(lambda: logged(lab) == ways.keys())

    found = tried(lab, tmp_path, 1, AJAR, GUARD)
    changes = turned(found)
    assert found["log"]["judged"] == len(ways)
    assert set(changes.values()) == {False}
    assert 0 < len(changes) < len(ways)
    verdicts |= changes
    lab.apply("door", AJAR, GUARD)
    assert lab.wrong({ways[way]: verdict for way, verdict in verdicts.items()}) == []

    found = tried(lab, tmp_path, 1, GUARD, delete=True)
    changes = turned(found)
    assert set(changes.values()) == {True, False}
    verdicts |= changes
    lab.apply("door", AJAR)
    assert lab.wrong({ways[way]: verdict for way, verdict in verdicts.items()}) == []

    changes = turned(tried(lab, tmp_path, 0, OPEN))
    assert {way: verdict for way, verdict in verdicts.items() if not verdict}.keys() == changes.keys()
    assert all(changes.values())


def test_only_the_pairs_of_pods_that_try_lists_change(lab: ManifestLab, tmp_path: Path) -> None:
    lab.apply("door", OPEN)
    given = tmp_path / "given.yaml"
    given.write_text(as_text([AJAR, GUARD]))
    done = agent(lab).run("try", "-f", str(given), "-o", "json", "--pods")
    assert done.returncode == 1, done.stderr
    found = json.loads(done.stdout)
    # x/a is judged, by eight others, in two families: UDP to port 80, any other port, ping.
    assert found["pods"]["judged"] == 8 * 2 * 3
    pings = {way: after for way, after in turned(found).items() if way[1] in {"icmp", "icmpv6"} and way in probes(lab)}
    lab.apply("door", AJAR, GUARD)
    expected = {probe: pings.get(way, True) for way, probe in probes(lab).items() if way[1].startswith("icmp")}
    assert set(expected.values()) == {True, False}
    assert lab.wrong(expected) == []
