"""The soak's parts in a lab: every fault ends and is healed, and a wrong verdict is a problem. `make soak` runs it."""

from __future__ import annotations

from collections.abc import Iterator
from random import Random

import pytest

from nfagent.lab.machine.patience import patient
from tests.fuzz.case import Case
from tests.fuzz.packets import PacketLab
from tests.kernel.test_fuzz_lab import WithoutPolicies
from tests.soak.cycles import CycleRunner
from tests.soak.faults import FOLDER_FAULTS, Fault, await_healed
from tests.soak.plan import SPARED, rest_step
from tests.soak.resources import sample
from tests.soak.tables import contents, remaining_differences

pytestmark = pytest.mark.kernel


@pytest.fixture(scope="module")
def lab(tmp_path_factory: pytest.TempPathFactory) -> Iterator[PacketLab]:
    with PacketLab(tmp_path_factory.mktemp("lab")) as running:
        running.take(rest_step())
        yield running


@pytest.mark.parametrize("fault", FOLDER_FAULTS, ids=lambda fault: fault.name)
def test_the_table_is_as_before_after(lab: PacketLab, fault: Fault) -> None:
    random = Random(1)  # noqa: S311 - it chooses a node
    agent = lab.agents[fault.node(random)]
    before, pid = contents(agent), agent.process.pid
    with fault.inject(lab, agent, random):
        pass
    await_healed(agent, patient(30.0))
    lab.settle()
    assert remaining_differences(agent, before, patient(30.0)) == []
    assert fault.restarts == (agent.process.pid != pid)
    assert agent.node != SPARED or not fault.restarts


def test_what_an_agent_uses_is_read(lab: PacketLab) -> None:
    for node, agent in lab.agents.items():
        found = sample(agent, lab.node_namespace(node), 1.0, at_rest=True, ask=True)
        assert found.pid == agent.process.pid
        assert found.rss > 10_000
        assert found.blocks > 10_000
        assert min(found.descriptors, found.threads, found.state) > 0


@pytest.mark.parametrize("wrong", [False, True], ids=["as it is is no problem", "without policies is wrong"])
def test_a_cluster_that_the_evaluator_knows(lab: PacketLab, *, wrong: bool) -> None:
    runner = CycleRunner(lab, lambda _words: None, WithoutPolicies) if wrong else CycleRunner(lab, lambda _words: None)
    runner.run(3, 0, Case((rest_step(),)))
    kinds = {problem.kind for problem in runner.problems}
    assert kinds == ({"verdict"} if wrong else set())
    assert runner.counts.probes > 0
