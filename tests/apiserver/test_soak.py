"""The soak's lab by a kube-apiserver: what the server makes of a step is what the evaluator is asked about."""

from __future__ import annotations

from collections.abc import Iterator
from random import Random

import pytest

from nfagent.lab.machine.binaries import ControlPlaneBinaries
from tests.fuzz.case import Case, Document, ManifestChange, Step
from tests.fuzz.generator import file_of
from tests.fuzz.packets import PacketLab
from tests.soak.cycles import CycleRunner
from tests.soak.faults import SERVER_FAULTS, await_healed
from tests.soak.plan import rest_step
from tests.soak.server_objects import ServerObjects

pytestmark = [pytest.mark.kernel, pytest.mark.apiserver]

POLICY: Document = {
    "apiVersion": "networking.k8s.io/v1",
    "kind": "NetworkPolicy",
    "metadata": {"namespace": "shop", "name": "drawn"},
    "spec": {"podSelector": {}, "ingress": [{"ports": [{"port": 80}]}]},
}
REFUSED: Document = {**POLICY, "spec": {"podSelector": {}, "ingress": [{"ports": [{"port": -1}]}]}}


@pytest.fixture(scope="module")
def lab(binaries: ControlPlaneBinaries, tmp_path_factory: pytest.TempPathFactory) -> Iterator[PacketLab]:  # noqa: ARG001 - skips without them
    with PacketLab(tmp_path_factory.mktemp("lab"), objects=ServerObjects()) as running:
        yield running


def written(lab: PacketLab, document: Document | None) -> list[Document | None]:
    """Write a step with the policy; return what the source has of its file afterwards."""
    file = file_of(POLICY)
    placed = lab.take(Step((ManifestChange(file, document),), "clear"))
    return [change.document for change in placed.changes if change.file == file]


def test_a_cluster_that_the_server_has_is_as_the_evaluator_says(lab: PacketLab) -> None:
    runner = CycleRunner(lab, lambda _words: None)
    runner.run(3, 0, Case((rest_step(),)))
    assert runner.problems == []
    assert runner.counts.probes > 0


def test_a_step_is_what_the_server_made_of_it(lab: PacketLab) -> None:
    [stored] = written(lab, POLICY)
    assert stored is not None
    assert stored["spec"]["policyTypes"] == ["Ingress"], "a default of the server"
    assert written(lab, REFUSED) == [stored], "what it refuses stays as it was"
    assert written(lab, None) == [None]
    assert written(lab, REFUSED) == [None]


def test_agents_watch_a_server_again_that_was_killed(lab: PacketLab) -> None:
    fault = SERVER_FAULTS[-1]
    agent = lab.agents["a"]
    with fault.inject(lab, agent, Random(1)):  # noqa: S311 - it chooses nothing here
        pass
    await_healed(agent, 30.0)
    [stored] = written(lab, POLICY)
    assert stored is not None
    await_healed(agent, 30.0)
    assert "drawn" in {policy["name"] for policy in agent.ask("/v1/dump/policies")["policies"]}
