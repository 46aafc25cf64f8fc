"""The latency table: what its figures are made of, what is marked as measured elsewhere, and who is probed."""

from __future__ import annotations

import pytest

from benchmarks.data.synthetic import Size
from benchmarks.harness.paired_labs import CYCLE, Scene, large, small
from benchmarks.results import summarise
from benchmarks.suites.end_to_end import API, FELIX_LARGE, FOLDER, Outcome, Standing, Try, rows, table
from nfagent.lab.topology_plan import check
from nfagent.model.objects import Pod

SMALL_SYNTHETIC = Size(pods=120, policies=10, local=20, farm=5)


@pytest.fixture(scope="module")
def outcome() -> Outcome:
    """Make up a hundred tries of each change: by the API server 1, 2, ... 100 ms, by the folder half of that."""
    tries = tuple(
        Try(change=change, way=way, fresh=ms * share, live=ms * share, answer=answer, gap=0.2, cpu=ms / 10)
        for change, _ in CYCLE
        for ms in range(1, 101)
        for way, share, answer in ((API, 1.0, 3.0), (FOLDER, 0.5, None))
    )
    return Outcome("a cluster", FELIX_LARGE, tries, {API: Standing(90, 0.6, 20), FOLDER: Standing(80, 0, 20)}, (1, 2))


def test_each_change_has_a_line_for_each_way_with_p50_p95_and_the_pairs_ratio(outcome: Outcome) -> None:
    header, *lines = table([outcome])
    found = [dict(zip(header, line, strict=False)) for line in lines]
    assert [(line["change"], line["way"]) for line in found[:-1]] == [(c, w) for c, _ in CYCLE for w in (API, FOLDER)]
    for line in found[:-1]:
        api = line["way"] == API
        assert (line["p50 ms"], line["p95 ms"]) == (("50.5", "95") if api else ("25.2", "47.5"))
        assert line.get("ratio") == ("2" if api else None)
        assert (line["after answer p50"] == "47.5") == api


def test_what_was_measured_elsewhere_is_called_so(outcome: Outcome) -> None:
    line = table([outcome])[-1]
    assert line[2:4] == ["Felix, elsewhere", "35 to 58"]


def test_live_connections_are_a_column_of_changes_that_block(outcome: Outcome) -> None:
    header, *lines = table([outcome])
    filled = {line[1] for line in lines[:-1] if line[header.index("live p50")]}
    assert filled == {change for change, blocked in CYCLE if blocked}


def test_targets_are_a_third_of_felix_lower_figures(outcome: Outcome) -> None:
    judged = {row.name: summarise(row).targets for row in rows(outcome)}
    assert [str(one.target) for one in judged["a cluster, policy created: API write to packet"]] == ["p50 <= 11.7"]
    assert [str(one.target) for one in judged["a cluster: agent's CPU for a change that blocks"]] == ["p50 <= 35.7"]
    assert [one.met for one in judged["a cluster: agent's CPU at rest, by the API server"]] == [False]


@pytest.mark.parametrize("scene", [small(), large(SMALL_SYNTHETIC, 7)], ids=["nine Pods", "a synthetic cluster"])
def test_the_server_is_with_the_agent_the_client_on_the_other_node_and_nobody_shares_their_addresses(
    scene: Scene,
) -> None:
    check(scene.nodes, scene.pods, ())
    assert [pod.node for pod in (scene.server, scene.client)] == [node.name for node in scene.nodes]
    assert scene.server.namespace == scene.client.namespace
    addresses = [address for item in scene.items if isinstance(item, Pod) for address in item.addresses]
    addresses += scene.client.addresses
    assert len(addresses) == len(set(addresses))
