"""The end-to-end table: its figures, marks of figures of another run, and the probed Pods."""

from __future__ import annotations

import pytest

from benchmarks.harness.paired_labs import CYCLE, Scenario, large, small
from benchmarks.results import summarise
from benchmarks.suites.end_to_end import API, FELIX_LARGE, FOLDER, IdleUsage, Measurement, ScenarioResult, rows, table
from nfagent.lab.objects.synthetic import Size
from nfagent.lab.topology.plan import check
from nfagent.model.objects import Pod

SMALL_SYNTHETIC = Size(pods=120, policies=10, local=20, farm=5)


@pytest.fixture(scope="module")
def result() -> ScenarioResult:
    """Return a hundred measurements of each change: by API server 1, 2, ... 100 ms, by folder half of that."""
    measurements = tuple(
        Measurement(
            change=change, source=source, fresh=ms * share, live=ms * share, answer=answer, gap=0.2, cpu=ms / 10
        )
        for change, _ in CYCLE
        for ms in range(1, 101)
        for source, share, answer in ((API, 1.0, 3.0), (FOLDER, 0.5, None))
    )
    return ScenarioResult(
        "a cluster", FELIX_LARGE, measurements, {API: IdleUsage(90, 0.6, 20), FOLDER: IdleUsage(80, 0, 20)}, (1, 2)
    )


def test_each_change_has_a_line_for_each_source_with_p50_p95_and_the_pairs_ratio(result: ScenarioResult) -> None:
    header, *lines = table([result])
    found = [dict(zip(header, line, strict=False)) for line in lines]
    assert [(line["change"], line["source"]) for line in found[:-1]] == [
        (c, w) for c, _ in CYCLE for w in (API, FOLDER)
    ]
    for line in found[:-1]:
        api = line["source"] == API
        assert (line["p50 ms"], line["p95 ms"]) == (("50.5", "95") if api else ("25.2", "47.5"))
        assert line.get("ratio") == ("2" if api else None)
        assert (line["after response p50"] == "47.5") == api


def test_figures_of_another_run_are_marked(result: ScenarioResult) -> None:
    line = table([result])[-1]
    assert line[2:4] == ["Felix, other run", "35 to 58"]


def test_established_connections_have_figures_for_changes_that_block(result: ScenarioResult) -> None:
    header, *lines = table([result])
    filled = {line[1] for line in lines[:-1] if line[header.index("established p50")]}
    assert filled == {change for change, blocked in CYCLE if blocked}


def test_targets_are_a_third_of_felix_lower_figures(result: ScenarioResult) -> None:
    judged = {row.name: summarise(row).targets for row in rows(result)}
    assert [str(one.target) for one in judged["a cluster, policy created: API write to packet"]] == ["p50 <= 11.7"]
    assert [str(one.target) for one in judged["a cluster: agent's CPU for a change that blocks"]] == ["p50 <= 35.7"]
    assert [one.met for one in judged["a cluster: idle agent's CPU, API server as source"]] == [False]


@pytest.mark.parametrize("scenario", [small(), large(SMALL_SYNTHETIC, 7)], ids=["nine Pods", "a synthetic cluster"])
def test_server_and_client_are_on_different_nodes_and_have_unique_addresses(
    scenario: Scenario,
) -> None:
    check(scenario.nodes, scenario.pods, ())
    assert [pod.node for pod in (scenario.server, scenario.client)] == [node.name for node in scenario.nodes]
    assert scenario.server.namespace == scenario.client.namespace
    addresses = [address for item in scenario.items if isinstance(item, Pod) for address in item.addresses]
    addresses += scenario.client.addresses
    assert len(addresses) == len(set(addresses))
