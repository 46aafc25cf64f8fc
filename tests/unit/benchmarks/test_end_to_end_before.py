"""Figures of two versions: each change beside the same change of the other version, and net of the API's response."""

from __future__ import annotations

import pytest

from benchmarks.harness.paired_labs import BEFORE, CYCLE, NOW, ChangeKind, small
from benchmarks.results import Row, summarise
from benchmarks.suites.end_to_end import Measurement
from benchmarks.suites.end_to_end_before import rows


def measurement(change: ChangeKind, version: str, fresh: float) -> Measurement:
    return Measurement(change=change, source=version, fresh=fresh, live=fresh, answer=4.0, gap=0.2, cpu=fresh / 2)


@pytest.fixture
def found() -> dict[str, Row]:
    """Return the rows by name; the earlier version takes twice as long, and a created policy 10 ms longer."""
    measurements = [
        measurement(change, version, (turn + 6.0) * (2 if version == BEFORE else 1) + 10 * (change == "policy created"))
        for turn in range(3)
        for change, _blocks in CYCLE
        for version in (BEFORE, NOW)
    ]
    return {row.name: row for row in rows(small(), measurements, "load 0 to 0")}


def test_versions_are_compared_round_by_round(found: dict[str, Row]) -> None:
    row = summarise(found["9 Pods, policy deleted: API write to packet"])
    assert (row.p50, row.reference_p50, row.ratio, row.ratio_p25) == (7.0, 14.0, 0.5, 0.5)
    assert summarise(found["9 Pods, policy deleted: agent's CPU"]).p50 == 3.5


def test_the_target_is_about_a_created_policy_of_this_version_after_the_response(found: dict[str, Row]) -> None:
    assert [name for name, row in found.items() if row.targets] == [
        "9 Pods, policy created: API server's response to packet, now"
    ]
    row = found["9 Pods, policy created: API server's response to packet, now"]
    assert row.values == [12.0, 13.0, 14.0]
    assert not summarise(row).targets[0].met


def test_only_changes_that_block_end_established_connections(found: dict[str, Row]) -> None:
    assert [name for name in found if "established" in name] == [
        f"9 Pods, {change}: API write to an established connection's last packet" for change, blocks in CYCLE if blocks
    ]
