"""The result of a soak: what counts as converged, and as a leak."""

from __future__ import annotations

from typing import Literal

import msgspec
import pytest

from tests.fuzz.stats import Counts
from tests.soak.cycles import Churn, Problem
from tests.soak.report import FILLING_CYCLES, NodeAtRest, SoakReport, slope_at_rest
from tests.soak.resources import Sample
from tests.soak.slope import Slope
from tests.soak.tables import TableContents

SAMPLE = Sample(0.0, "a", 7, 50_000, 300_000, 30, 10, 5, 0, 1000, 2, at_rest=True)
TABLES = TableContents({"nfagent/forward": 3}, {"nfagent/pods4": 2, "nfagent/revoked4": 0}, ("nfagent/drop",))
REST = NodeAtRest(TABLES, SAMPLE)


def report(problems: list[Problem], slope: Slope | None, histories: int = FILLING_CYCLES) -> SoakReport:
    rest = {"a": REST}
    return SoakReport(1, 30.0, "routed", Churn(), Counts(), problems, rest, rest, slope, histories=histories)


@pytest.mark.parametrize(
    ("problems", "slope", "as_expected"),
    [
        ([], Slope(2.0, -30.0, 40.0, 50), True),
        ([], None, True),
        ([], Slope(90.0, 10.0, 200.0, 50), True),
        ([], Slope(5000.0, 4000.0, 6000.0, 50), False),
        ([Problem(3, 1, "verdict", "allowed")], None, False),
    ],
    ids=["flat memory", "a short run", "a negligible slope", "a leak", "a wrong verdict"],
)
def test_the_exit_code_says(problems: list[Problem], slope: Slope | None, *, as_expected: bool) -> None:
    assert report(problems, slope).as_expected == as_expected


def test_memory_is_not_judged_while_caches_fill() -> None:
    leak = Slope(5000.0, 4000.0, 6000.0, 50)
    assert report([], leak, FILLING_CYCLES - 1).as_expected
    assert not report([], leak, FILLING_CYCLES).as_expected


@pytest.mark.parametrize(
    ("tables", "found"),
    [
        (TABLES, []),
        (TableContents({}, TABLES.sets, TABLES.counters), ["chain nfagent/forward: 3 at first, none now"]),
        (
            TableContents(TABLES.chains, TABLES.sets | {"nfagent/pods4": 9}, TABLES.counters),
            ["set nfagent/pods4: 2 at first, 9 now"],
        ),
        (TableContents(TABLES.chains, TABLES.sets, ()), ["counter nfagent/drop: missing"]),
        (TableContents(TABLES.chains, TABLES.sets, ("nfagent/drop", "nfagent/x")), ["counter nfagent/x: new"]),
        (
            TableContents(TABLES.chains, TABLES.sets | {"nfagent/revoked4": 3}, TABLES.counters),
            ["3 reply tuples, 0 at first"],
        ),
    ],
    ids=["nothing", "a chain", "elements", "a missing counter", "a new counter", "reply tuples"],
)
def test_a_table_differs_by(tables: TableContents, found: list[str]) -> None:
    assert list(REST.differences(NodeAtRest(tables, SAMPLE), whole=True)) == found


@pytest.mark.parametrize(
    ("change", "found"),
    [
        ({"descriptors": 31}, ["31 descriptors, 30 at first"]),
        ({"server": 2}, []),
        ({"server": 3}, ["3 connections to the API server, 0 at first"]),
        ({"threads": 11}, []),
        ({"threads": 99}, ["99 threads, 10 at first"]),
        ({"connections": 40}, []),
        ({"connections": 400}, ["400 conntrack entries, 5 at first"]),
        ({"rss": 90_000, "log": 10_000}, []),
    ],
    ids=[
        "a descriptor",
        "idle connections to the server",
        "more connections to the server",
        "a thread of a pool",
        "many threads",
        "a few connections",
        "many connections",
        "memory and log alone don't",
    ],
)
def test_an_agent_differs_by(change: dict[str, int], found: list[str]) -> None:
    now = NodeAtRest(TABLES, msgspec.structs.replace(SAMPLE, **change))
    assert list(REST.differences(now, whole=True)) == found
    assert list(REST.differences(now, whole=False)) == []


@pytest.mark.parametrize("name", ["rss", "anonymous", "blocks"])
def test_the_slope_is_that_of_the_second_half_and_of_the_last_process(
    name: Literal["rss", "anonymous", "blocks"],
) -> None:
    # Memory rises by 1 MiB a minute, up to the half; before a restart, it is another process's.
    rising = [min(minute, 30) * 1024 for minute in range(60)]
    samples = [
        msgspec.structs.replace(SAMPLE, seconds=60.0 * minute, **{name: 50_000 + used})
        for minute, used in enumerate(rising)
    ]
    other = [
        msgspec.structs.replace(SAMPLE, pid=3, seconds=-60.0 * n, **{name: 90_000 + n * 1000}) for n in range(9, 0, -1)
    ]
    found = slope_at_rest([*other, *samples], name)
    assert found is not None
    assert found.value == 0.0
    assert found.points == 30
