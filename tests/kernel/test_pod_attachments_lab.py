"""Policies are enforced with every attachment of Pods and every underlay of nodes."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Iterator

import pytest

from nfagent.errors import HostError
from nfagent.lab.probes.listeners import ProbeProtocol, pod_endpoints
from nfagent.lab.probes.probe import Probe
from nfagent.lab.topology import netns
from nfagent.lab.topology.ip_commands import BRIDGED
from nfagent.lab.topology.plan import Attachment, PodPlan, Underlay, grid
from tests.support.packet_labs import (
    Document,
    ManifestLab,
    namespace_document,
    pod_document,
    policy_document,
    running_lab,
)

pytestmark = pytest.mark.kernel

WAYS: list[tuple[Attachment, Underlay]] = [
    ("routed", "flat"),
    ("bridge", "flat"),
    ("routed", "vlan"),
    ("routed", "vxlan"),
    ("bridge", "vxlan"),
]
PROTOCOLS: tuple[ProbeProtocol, ...] = ("tcp", "udp")

# Who is where: its name, its label, its node.
PODS = [
    ("db", "db", 1),
    ("web", "web", 1),
    ("spy", "spy", 1),
    ("caller", "caller", 1),
    ("far-db", "db", 2),
    ("far-web", "web", 2),
    ("far-spy", "spy", 2),
]

# Who reaches whom, once the policies are there: from and to Pods of one node and of two, judged at either end.
REACHED = {
    "web > db 80": True,
    "web > db 81": False,
    "spy > db 80": False,
    "far-web > db 80": True,
    "far-web > db 81": False,
    "far-spy > db 80": False,
    "web > far-db 80": True,
    "spy > far-db 80": False,
    "far-web > far-db 80": True,
    "far-spy > far-db 80": False,
    "caller > web 80": True,
    "caller > spy 80": False,
    "caller > far-web 80": True,
    "caller > far-spy 80": False,
}


def labelled(app: str) -> Document:
    return {"podSelector": {"matchLabels": {"app": app}}}


POLICIES = [
    policy_document(
        "shop",
        "db-from-web",
        **labelled("db"),
        ingress=[{"from": [labelled("web")], "ports": [{"port": 80}, {"port": 80, "protocol": "UDP"}]}],
    ),
    policy_document(
        "shop", "caller-to-web", **labelled("caller"), policyTypes=["Egress"], egress=[{"to": [labelled("web")]}]
    ),
]


@pytest.fixture(scope="module", params=WAYS, ids=lambda way: f"Pods {way[0]}, nodes {way[1]}")
def lab(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[ManifestLab]:
    nodes, _, _ = grid(request.param[0], 2, request.param[1])
    pods = {
        PodPlan("shop", name, f"n{node}", (f"10.244.{node}.{last}", f"2001:db8:244:{node}::{last:x}")): app
        for last, (name, app, node) in enumerate(PODS, start=10)
    }
    documents = [namespace_document("shop"), *(pod_document(pod, {"app": app}) for pod, app in pods.items())]
    try:
        with running_lab(tmp_path_factory.mktemp("lab"), nodes, list(pods), documents=documents) as running:
            running.servers.listen(
                pod_endpoints(running.topology, [(protocol, port) for protocol in PROTOCOLS for port in (80, 81)])
            )
            yield running
    except HostError as error:
        if "this kernel has no vlan devices" not in str(error):
            raise
        pytest.skip(str(error))


@pytest.fixture
def _policies(lab: ManifestLab) -> Iterator[None]:
    lab.apply("policies", *POLICIES)
    yield
    lab.delete("policies")


def reached(lab: ManifestLab) -> dict[str, set[bool]]:
    """Probe each row of REACHED by TCP and UDP over both families; all four must agree."""
    probes = {
        Probe(lab.pod(f"shop/{source}"), lab.address(f"shop/{destination}", family), protocol, int(port)): row
        for row in REACHED
        for source, _, destination, port in [row.split()]
        for family in (4, 6)
        for protocol in PROTOCOLS
    }
    found: dict[str, set[bool]] = {row: set() for row in REACHED}
    for probe, outcome in lab.ask(probes, 0.4).items():
        found[probes[probe]].add(outcome.reached)
    return found


def test_without_a_policy_every_pod_reaches_every_pod(lab: ManifestLab) -> None:
    assert reached(lab) == {row: {True} for row in REACHED}


@pytest.mark.usefixtures("_policies")
def test_with_policies_only_allowed_pods_reach_each_other(lab: ManifestLab) -> None:
    assert reached(lab) == {row: {want} for row, want in REACHED.items()}


@pytest.mark.parametrize("lab", [("bridge", "flat")], ids=["Pods bridge, nodes flat"], indirect=True)
@pytest.mark.usefixtures("_policies")
def test_without_br_netfilter_pods_of_one_bridge_reach_each_other_and_check_reports_it(lab: ManifestLab) -> None:
    node, agent = lab.topology.node_namespace("n1"), lab.cluster.agent("n1")
    netns.write_sysctls(node, dict.fromkeys(BRIDGED, "0"))
    try:
        near = {row for row in REACHED if "far-" not in row}
        assert reached(lab) == {row: {want or row in near} for row, want in REACHED.items()}
        [found] = [
            item for item in json.loads(agent.run("check", "-o", "json").stdout)["checks"] if "br_" in item["name"]
        ]
        assert found["result"] == "warn"
        assert "bridge cbr0 (IPv4, IPv6)" in found["found"]
        for command in found["fix"].split(" && "):
            subprocess.run(lab.topology.command(node, command.split()), check=True)
        assert reached(lab) == {row: {want} for row, want in REACHED.items()}
    finally:
        netns.write_sysctls(node, BRIDGED)
