"""Histograms, and the durations of the reconciler's stages and of records that they count."""

from __future__ import annotations

import pytest

from nfagent.controllers.sync_latency import SyncLatency
from nfagent.model.histogram import Histogram
from nfagent.verdicts.record_latency import RecordLatency
from nfagent.verdicts.records import Record, RecordConnection, RecordEndpoint, timestamp


@pytest.mark.parametrize(
    ("values", "counts", "total"),
    [
        pytest.param([], [0, 0, 0], 0.0, id="no value"),
        pytest.param([1.0, 2.0], [1, 2, 2], 3.0, id="a value that is a bound is in its bucket"),
        pytest.param([0.5, 1.5, 99.0], [1, 2, 3], 101.0, id="a value above the last bound is in all values alone"),
        pytest.param([-1.0], [1, 1, 1], 0.0, id="a negative value counts as 0"),
    ],
)
def test_buckets_are_cumulative(values: list[float], counts: list[int], total: float) -> None:
    histogram = Histogram((1.0, 2.0))
    for value in values:
        histogram.observe(value)
    assert (histogram.cumulative(), histogram.total) == (counts, total)


class Rounds:
    """A reconciler's rounds, each with an event before it."""

    def __init__(self) -> None:
        self.latency = SyncLatency()

    def counted(self) -> dict[str, tuple[int, float]]:
        """Return for each stage how many durations were counted, and their sum."""
        return {stage: (found.cumulative()[-1], round(found.total, 6)) for stage, found in self.latency.stages.items()}

    def fail(self, at: float) -> None:
        """Begin a round that ends before its commit."""
        self.latency.begin(at)
        self.latency.cover(at)
        self.latency.computed(at + 1)

    def commit(self, at: float) -> None:
        """Compute for a second and commit for another."""
        self.fail(at)
        self.latency.measured("commit", 1)
        self.latency.committed(at + 2)


def test_a_commit_counts_each_stage_of_the_first_event_that_it_covers() -> None:
    rounds = Rounds()
    rounds.latency.event(12.0)
    rounds.latency.event(10.0)
    rounds.commit(15.0)
    assert rounds.counted() == {
        "wait": (1, 5.0),
        "compute": (1, 1.0),
        "compare": (0, 0.0),
        "commit": (1, 1.0),
        "total": (1, 7.0),
    }


def test_an_event_whose_round_fails_counts_once_with_its_retries() -> None:
    rounds = Rounds()
    rounds.latency.event(10.0)
    rounds.fail(11.0)
    rounds.latency.event(20.0)
    rounds.commit(21.0)
    assert rounds.counted()["total"] == (1, 13.0)
    rounds.latency.event(30.0)
    rounds.commit(31.0)
    assert rounds.counted()["total"] == (2, 16.0)


def test_a_repair_without_an_event_has_neither_a_waiting_time_nor_a_total() -> None:
    rounds = Rounds()
    rounds.commit(10.0)
    found = rounds.counted()
    assert (found["wait"], found["total"], found["commit"]) == ((0, 0.0), (0, 0.0), (1, 1.0))


def test_an_event_that_needs_no_commit_is_not_counted_later() -> None:
    rounds = Rounds()
    rounds.latency.event(10.0)
    rounds.fail(11.0)
    rounds.latency.discard()
    rounds.latency.event(100.0)
    rounds.commit(101.0)
    assert rounds.counted()["total"] == (1, 3.0)


@pytest.mark.parametrize(
    ("disposition", "allows", "denies"),
    [
        pytest.param("allow", (1, 2_000_000.0), (0, 0.0), id="allow"),
        pytest.param("deny", (0, 0.0), (1, 2.0), id="deny"),
    ],
)
def test_a_records_age_is_that_of_its_packet(
    disposition: str, allows: tuple[int, float], denies: tuple[int, float]
) -> None:
    latency = RecordLatency()
    record = Record(
        connection=RecordConnection(src_ip="10.0.0.1", dest_ip="10.0.0.2", protocol="tcp", direction="ingress"),
        disposition="allow" if disposition == "allow" else "deny",
        src=RecordEndpoint(instance="10.0.0.1"),
        dest=RecordEndpoint(instance="10.0.0.2"),
        count=1,
        timestamp=timestamp(1_700_000_000_500_000_000),
    )
    latency.observe(record, 1_700_000_002.5)
    found = [(each.cumulative()[-1], round(each.total, 3)) for each in (latency.allow, latency.deny)]
    assert found == [allows, denies]
