"""Which source address a host outside sees of a Pod whose address the agent doesn't know yet."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from nfagent.lab.probes.listeners import Endpoint, ProbeProtocol
from nfagent.lab.probes.probe import Probe
from nfagent.lab.topology.plan import OutsideHost, PodPlan, grid
from tests.support.packet_labs import Document, ManifestLab, node_document, pod_document, running_lab

pytestmark = pytest.mark.kernel

NODES = grid(nodes=1)[0]
[NODE] = NODES
KNOWN = PodPlan("x", "known", NODE.name, ("10.244.1.10", "2001:db8:244:1::a"))
NEW = PodPlan("x", "new", NODE.name, ("10.244.1.11", "2001:db8:244:1::b"))
OUTSIDE = OutsideHost("outside", ("198.51.100.10", "10.200.0.10", "2001:db8:99::10"))
TRANSLATED, KEPT = ("198.51.100.10", "2001:db8:99::10"), ("10.200.0.10",)
PROTOCOLS: list[tuple[ProbeProtocol, int]] = [("tcp", 443), ("udp", 443), ("icmp", 0)]


@pytest.fixture(name="lab", scope="module")
def _lab(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ManifestLab]:
    folder: Path = tmp_path_factory.mktemp("lab")
    with running_lab(folder, NODES, (KNOWN, NEW), (OUTSIDE,), documents=[pod_document(KNOWN)]) as running:
        outside = running.topology.outside_namespace("outside")
        running.servers.listen(
            Endpoint(outside, address, protocol, port) for address in OUTSIDE.addresses for protocol, port in PROTOCOLS
        )
        yield running


def without_pod_ranges() -> Document:
    return {**node_document(NODE), "spec": {}}


def seen(lab: ManifestLab, pod: PodPlan, destinations: tuple[str, ...]) -> set[str]:
    """As whom hosts outside see a Pod: 'pod', 'node', or 'no host' without an answer, by any protocol."""
    namespace = lab.topology.pod_namespace(pod.namespace, pod.name)
    probes = [Probe(namespace, address, protocol, port) for address in destinations for protocol, port in PROTOCOLS]
    words = dict.fromkeys(pod.addresses, "pod") | dict.fromkeys(NODE.addresses, "node")
    return {words.get(outcome.seen_from or "", "no host") for outcome in lab.ask(probes).values()}


def views(lab: ManifestLab, pod: PodPlan) -> list[set[str]]:
    return [seen(lab, pod, TRANSLATED), seen(lab, pod, KEPT)]


def test_in_the_node_s_pod_ranges_it_is_translated_like_every_other_pod(lab: ManifestLab) -> None:
    assert views(lab, NEW) == views(lab, KNOWN) == [{"node"}, {"pod"}]


def test_outside_the_node_s_pod_ranges_it_keeps_its_address_until_the_agent_knows_it(lab: ManifestLab) -> None:
    lab.apply("cluster", without_pod_ranges(), pod_document(KNOWN))
    assert views(lab, KNOWN) == [{"node"}, {"pod"}]
    assert views(lab, NEW) == [{"pod"}, {"pod"}]
    lab.apply("new", pod_document(NEW))
    assert views(lab, NEW) == [{"node"}, {"pod"}]
    lab.delete("new")
    assert views(lab, NEW) == [{"pod"}, {"pod"}]
