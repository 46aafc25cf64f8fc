"""The policies of one file take effect in one commit: no allowed new connection is denied meanwhile."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from nfagent.lab.probes.listeners import pod_endpoints
from nfagent.lab.probes.probe import Probe
from nfagent.lab.topology.plan import grid
from tests.support.packet_labs import (
    Document,
    ManifestLab,
    as_text,
    namespace_document,
    pod_document,
    policy_document,
    running_lab,
)

pytestmark = pytest.mark.kernel

NODES, PODS, _ = grid(nodes=1)
POLICIES = 400


@pytest.fixture(scope="module")
def lab(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ManifestLab]:
    documents = [*(namespace_document(name) for name in "xyz"), *map(pod_document, PODS)]
    with running_lab(tmp_path_factory.mktemp("lab"), NODES, PODS, documents=documents) as running:
        running.servers.listen(pod_endpoints(running.topology, [("tcp", 80)]))
        yield running


def one_file() -> list[Document]:
    """Return policies on x/a, the last of which allows x/b; the others allow a peer that doesn't exist."""
    names = [f"absent-{number}" for number in range(POLICIES - 1)] + ["b"]
    return [
        policy_document(
            "x",
            f"p{number:04}",
            podSelector={"matchLabels": {"pod": "a"}},
            policyTypes=["Ingress"],
            ingress=[{"from": [{"podSelector": {"matchLabels": {"pod": name}}}]}],
        )
        for number, name in enumerate(names)
    ]


def transactions(lab: ManifestLab) -> int:
    return int(lab.cluster.agent("n1").ask("/v1/dump/state")["agent"]["reconcile"]["transactions"])


def lost_while_it_settles(lab: ManifestLab) -> int:
    """Connect from x/b to x/a again and again until the policies are enforced; count the failed ones."""
    agent = lab.cluster.agent("n1")
    probe, lost, done = Probe(lab.pod("x/b"), lab.address("x/a", 4), "tcp", 80), 0, False
    while not done:
        done = agent.ask("/v1/dump/state")["agent"]["reconcile"]["in_sync"] and enforces(lab)
        lost += not lab.reaches(probe, deadline=0.25)
    return lost


def enforces(lab: ManifestLab) -> bool:
    """Return whether x/c is kept out."""
    return not lab.reaches(Probe(lab.pod("x/c"), lab.address("x/a", 4), "tcp", 80), deadline=0.25)


def test_no_new_connection_is_lost_while_a_file_of_policies_takes_effect(lab: ManifestLab) -> None:
    assert not enforces(lab)
    # What the start has to judge, and to read of interfaces, may cause transactions of its own.
    lab.cluster.wait_for_recheck()
    lab.cluster.wait_for_links()
    before = transactions(lab)
    lab.cluster.place("policies.yaml", as_text(one_file()))
    assert lost_while_it_settles(lab) == 0
    lab.cluster.wait_until_enforced()
    lab.cluster.wait_for_recheck()
    # One for the policies, one for each address that leaves re-check after it.
    assert transactions(lab) - before <= 3
