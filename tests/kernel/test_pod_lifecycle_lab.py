"""The lifecycle of a Pod, with packets: it gets its addresses one by one, it ends, and another Pod gets them."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from nfagent.lab.probes.listeners import ProbeProtocol, pod_endpoints
from nfagent.lab.probes.probe import Probe
from nfagent.lab.topology.plan import PodPlan, grid
from tests.support.packet_labs import (
    Document,
    ManifestLab,
    namespace_document,
    pod_document,
    policy_document,
    running_lab,
)
from tests.support.raw_sockets import heard, udp_socket

pytestmark = pytest.mark.kernel

NODES, _PODS, _OUTSIDE = grid()
JOB = PodPlan("x", "job", "n1", ("10.244.1.10", "2001:db8:244:1::a"))
NEAR = PodPlan("x", "near", "n1", ("10.244.1.11", "2001:db8:244:1::b"))
FAR = PodPlan("x", "far", "n2", ("10.244.2.12", "2001:db8:244:2::c"))
PORTS: list[tuple[ProbeProtocol, int]] = [("tcp", 80), ("udp", 80)]
NO_CALLERS: set[tuple[str, int]] = set()
BOTH = {("near", 4), ("near", 6), ("far", 4), ("far", 6)}


def labelled(app: str) -> Document:
    return {"podSelector": {"matchLabels": {"app": app}}}


# No Pod reaches a job, and a Pod that jobs may reach is reached by no other Pod.
POLICIES = [
    policy_document("x", "closed", **labelled("job"), policyTypes=["Ingress"]),
    policy_document("x", "from-jobs", **labelled("server"), ingress=[{"from": [labelled("job")]}]),
    policy_document("x", "heir-from-near", **labelled("heir"), ingress=[{"from": [labelled("near")]}]),
]


@pytest.fixture
def lab(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ManifestLab]:
    documents = [
        namespace_document("x"),
        pod_document(NEAR, {"app": "near"}),
        pod_document(FAR, {"app": "server"}),
        *POLICIES,
    ]
    with running_lab(tmp_path_factory.mktemp("lab"), NODES, [JOB, NEAR, FAR], documents=documents) as running:
        running.servers.listen(pod_endpoints(running.topology, PORTS))
        yield running


def job(*addresses: str, phase: str = "Running", terminating: bool = False) -> Document:
    found = pod_document(JOB, {"app": "job"})
    found["status"] = {"phase": phase, "podIPs": [{"ip": address} for address in addresses]}
    if terminating:
        found["metadata"]["deletionTimestamp"] = "2025-01-01T00:00:00Z"
    return found


def asked(lab: ManifestLab, ways: dict[tuple[str, int], list[Probe]]) -> set[tuple[str, int]]:
    """Return the ways by which all probes were answered; on none may only some be."""
    outcomes = lab.ask((probe for probes in ways.values() for probe in probes), 0.4)
    found = {way: {outcomes[probe].reached for probe in probes} for way, probes in ways.items()}
    assert all(len(reached) == 1 for reached in found.values()), found
    return {way for way, reached in found.items() if reached == {True}}


def callers(lab: ManifestLab) -> set[tuple[str, int]]:
    """Return the Pods that reach the job's first addresses, with the family."""
    return asked(
        lab,
        {
            (name, family): [Probe(lab.pod(f"x/{name}"), JOB.addresses[family == 6], *port) for port in PORTS]
            for name in ("near", "far")
            for family in (4, 6)
        },
    )


def called(lab: ManifestLab, source: str) -> set[int]:
    """Return the families by which a Pod reaches the one that only jobs may reach."""
    ways = {
        ("", family): [Probe(lab.pod(source), lab.address("x/far", family), *port) for port in PORTS]
        for family in (4, 6)
    }
    return {family for _, family in asked(lab, ways)}


def test_42_policies_apply_to_each_address_of_a_pod_as_soon_as_it_is_known_until_the_pod_ends(lab: ManifestLab) -> None:
    four, six = JOB.addresses
    for document, reached_by, reaching in (
        (job(phase="Pending"), BOTH, set()),
        (job(four), {("near", 6), ("far", 6)}, {4}),
        (job(four, six), NO_CALLERS, {4, 6}),
        (job(four, six, terminating=True), NO_CALLERS, {4, 6}),
        (job(four, six, phase="Failed", terminating=True), BOTH, set()),
    ):
        lab.apply("job", document)
        assert callers(lab) == reached_by, document
        assert called(lab, "x/job") == reaching, document


def test_41_a_pod_with_the_addresses_of_an_ended_one_meets_its_own_policies(lab: ManifestLab) -> None:
    lab.apply("job", job(*JOB.addresses))
    assert callers(lab) == NO_CALLERS
    lab.apply("job", job(*JOB.addresses, phase="Succeeded"))
    lab.servers.stop(lab.pod("x/job"))
    lab.topology.remove_pod("x", "job")
    heir = PodPlan("x", "heir", "n1", JOB.addresses)
    lab.topology.add_pod(heir)
    lab.servers.listen(
        endpoint for endpoint in pod_endpoints(lab.topology, PORTS) if endpoint.netns == lab.pod("x/heir")
    )
    pending = pod_document(heir, {"app": "heir"})
    pending["status"]["phase"] = "Pending"
    lab.apply("heir", pending)
    assert callers(lab) == {("near", 4), ("near", 6)}
    assert called(lab, "x/heir") == set()


def test_42_a_denied_connection_from_before_the_second_family_was_known_ends_when_it_is(lab: ManifestLab) -> None:
    four, six = JOB.addresses
    lab.apply("job", job(four))
    with udp_socket(lab.pod("x/near"), NEAR.addresses[1]) as live:
        live.connect((six, 80))
        live.send(b"before")
        assert live.recv(100) == b"before"
        lab.apply("job", job(four, six))
        live.send(b"after")
        lab.servers.wait_idle()  # what has come to the job is answered by now
        assert heard(live) == []
        lab.cluster.wait_for_recheck()
        live.send(b"once more")
        lab.servers.wait_idle()
        assert heard(live) == []
