"""How the latency of a change and its stages come from the times of change, sync and packets."""

from __future__ import annotations

import pytest

from nfagent.controllers.sync_trace import Sync
from nfagent.lab.latency.change_writers import WriteTimes
from nfagent.lab.latency.cluster import latency_cluster
from nfagent.lab.latency.samples import SCENARIOS, STAGES
from nfagent.lab.latency.scenarios import cycles
from nfagent.lab.latency.try_ import outcome
from nfagent.lab.objects.synthetic import FARM
from nfagent.model.objects import Pod

SENT = 100.0
NO_RECHECK = (0.0, 0.0)


def sync(*times: float) -> Sync:
    """Return a sync with its steps so many ms after the change."""
    received, decoded, begun, computed, committed = (SENT + time / 1e3 for time in times)
    return Sync(received, decoded, begun, computed, committed, latest=received)


@pytest.mark.parametrize(
    ("found", "packet", "stages"),
    [
        pytest.param(sync(1, 3, 3, 4, 6), 7.0, (1, 2, 1, 2, 1), id="each stage ends where the next begins"),
        pytest.param(sync(1, 3, 3, 4, 6), 5.0, (1, 2, 1, 1, 0), id="a packet before the commit's confirmation"),
        pytest.param(sync(1, 3, 2, 4, 6), 6.0, (1, 2, 1, 2, 0), id="an event during a round's preparation"),
        pytest.param(sync(-1, 3, 3, 4, 6), 6.0, (0, 3, 1, 2, 0), id="a sync that covers an earlier event too"),
    ],
)
def test_stages_add_up_to_the_latency(found: Sync, packet: float, stages: tuple[float, ...]) -> None:
    measured = outcome(WriteTimes(SENT), SENT + packet / 1e3, 0.0002, found, NO_RECHECK)
    assert measured.latency == pytest.approx(packet * 1e3)
    assert [measured.stages[stage] for stage in STAGES] == pytest.approx([each * 1e3 for each in stages])
    assert sum(measured.stages.values()) == pytest.approx(measured.latency)


def test_a_change_without_a_sync_has_no_stages() -> None:
    measured = outcome(WriteTimes(SENT, SENT + 0.004), SENT + 0.003, 0.0002, None, NO_RECHECK)
    assert measured.stages == {}
    assert measured.latency == pytest.approx(3000)
    assert measured.write == pytest.approx(4000)


@pytest.mark.parametrize(
    ("recheck", "disturbed"),
    [
        pytest.param(NO_RECHECK, False, id="no re-check of connections so far"),
        pytest.param((90.0, 99.0), False, id="one that ended before the change"),
        pytest.param((99.0, 100.001), True, id="one that ended after the change was sent"),
        pytest.param((100.001, 100.002), True, id="one between the change and its commit"),
        pytest.param((100.002, 99.0), True, id="one that still runs"),
        pytest.param((100.0065, 99.0), False, id="the change's own, after its commit"),
        pytest.param((100.2, 100.3), False, id="one after the packet"),
    ],
)
def test_a_change_that_an_earlier_one_disturbs_is_told(recheck: tuple[float, float], disturbed: bool) -> None:  # noqa: FBT001
    measured = outcome(WriteTimes(SENT), SENT + 0.007, 0.0002, sync(1, 3, 3, 4, 6), recheck)
    assert measured.disturbed == disturbed


@pytest.mark.parametrize(
    ("packet", "disturbed"),
    [
        pytest.param(3.9, True, id="before the agent had computed the change"),
        pytest.param(4.0, False, id="right after"),
        pytest.param(5.0, False, id="before the commit's confirmation"),
    ],
)
def test_a_packet_that_the_change_cannot_have_met_is_no_sample(packet: float, disturbed: bool) -> None:  # noqa: FBT001
    measured = outcome(WriteTimes(SENT), SENT + packet / 1e3, 0.0002, sync(1, 3, 3, 4, 6), NO_RECHECK)
    assert measured.disturbed == disturbed


def test_each_scenario_is_recorded_by_one_step_and_each_cycle_ends_as_it_began() -> None:
    found = cycles(latency_cluster(50, 0, seed=1))
    assert sorted(scenario for cycle in found for scenario in cycle.scenarios) == sorted(SCENARIOS)
    for cycle in found:
        before = {write.name: write.document for write in cycle.standing}
        after = dict(before)
        for step in cycle.steps:
            if step.write.deleted:
                del after[step.write.name]
            else:
                after[step.write.name] = step.write.document
        assert after == before


def test_the_background_has_as_many_policies_as_asked_for_and_the_local_ones_first() -> None:
    cluster = latency_cluster(15_000, 10_000, seed=1)
    assert (len(cluster.policies), len({policy.ref for policy in cluster.policies})) == (10_000, 10_000)
    local = {item.namespace for item in cluster.items if isinstance(item, Pod) and item.node == cluster.server.node}
    with_policies = {policy.namespace for policy in cluster.policies[:1000]}
    assert local - {FARM} <= with_policies
