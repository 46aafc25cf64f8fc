"""Two Pod objects with one address: packets that the policies of either deny are dropped (edge case 41)."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from nfagent.lab.probes.listeners import Endpoint
from nfagent.lab.probes.probe import Probe
from nfagent.model.netaddr import FAMILIES
from tests.support.edge_case_lab import OF_Y, A, edge_case_lab
from tests.support.packet_labs import Document, ManifestLab, pod_document, policy_document

pytestmark = [pytest.mark.kernel, pytest.mark.both_backends(asked=True)]

PORTS = (80, 81, 82)


@pytest.fixture(scope="module")
def lab(tmp_path_factory: pytest.TempPathFactory, backend: str) -> Iterator[ManifestLab]:
    """Beside x/a, give its addresses to a record that comes first by name: an earlier Pod's."""
    with edge_case_lab(tmp_path_factory.mktemp("lab"), "routed", backend=backend) as running:
        pod = running.pod("x/a")
        addresses = [running.address("x/a", family) for family in FAMILIES]
        running.servers.listen(Endpoint(pod, address, "tcp", port) for address in addresses for port in PORTS)
        earlier: Document = pod_document(running.topology.pods["x", "a"], {"pod": "earlier"})
        earlier["metadata"]["name"] = "0"
        running.apply("earlier", earlier)
        yield running


def passing(lab: ManifestLab, source: str) -> list[set[int]]:
    """Return the ports of x/a that a Pod reaches, for each family."""
    asked = [
        {port: Probe(lab.pod(source), lab.address("x/a", family), "tcp", port) for port in PORTS} for family in FAMILIES
    ]
    outcomes = lab.ask([probe for probes in asked for probe in probes.values()])
    return [{port for port, probe in probes.items() if outcomes[probe].reached} for probes in asked]


def opened(lab: ManifestLab, name: str, pods: Document, *ports: int) -> None:
    rule: Document = {"from": [OF_Y], "ports": [{"protocol": "TCP", "port": port} for port in ports]}
    lab.apply(name, policy_document("x", name, podSelector=pods, policyTypes=["Ingress"], ingress=[rule]))


def test_41_the_pod_is_isolated_though_another_record_comes_first_and_none_of_its_packets_pass_that_either_denies(
    lab: ManifestLab,
) -> None:
    assert passing(lab, "y/near") == [{80, 81, 82}] * 2
    opened(lab, "own", A, 80, 81)
    assert passing(lab, "y/near") == passing(lab, "y/far") == [{80, 81}] * 2
    opened(lab, "others", {"matchLabels": {"pod": "earlier"}}, 81, 82)
    assert passing(lab, "y/near") == passing(lab, "y/far") == [{81}] * 2
    lab.delete("earlier")
    assert passing(lab, "y/near") == passing(lab, "y/far") == [{80, 81}] * 2
