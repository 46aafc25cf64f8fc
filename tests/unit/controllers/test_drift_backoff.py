"""Repairs of a table that others change: the first ones at once, then spaced; who does it, and for how long."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nfagent.controllers.drift_backoff import (
    CONTESTED_REPAIRS,
    FIRST_SPACING,
    MAX_SPACING,
    REPAIRS_AT_ONCE,
    WINDOW_SECONDS,
    DriftBackoff,
    DriftTotals,
    spacing_after,
)

NFT = "nft (process 4711)"


def repaired(times: int, every: float = 0.0, start: float = 100.0) -> DriftBackoff:
    """Return the state after so many repairs, the last one at `start + every * (times - 1)`."""
    backoff = DriftBackoff()
    for number in range(times):
        backoff.repaired(start + number * every, program=NFT)
    return backoff


@pytest.mark.parametrize(
    ("repairs", "spacing"),
    [
        pytest.param(0, 0.0, id="without a repair there is none"),
        pytest.param(REPAIRS_AT_ONCE - 1, 0.0, id="the first repairs follow at once"),
        pytest.param(REPAIRS_AT_ONCE, FIRST_SPACING, id="then it begins"),
        pytest.param(REPAIRS_AT_ONCE + 1, 2 * FIRST_SPACING, id="and doubles"),
        pytest.param(REPAIRS_AT_ONCE + 3, MAX_SPACING, id="up to its limit"),
        pytest.param(10_000, MAX_SPACING, id="where it stays"),
    ],
)
def test_the_spacing_by_the_repairs_of_the_last_two_minutes(repairs: int, spacing: float) -> None:
    assert spacing_after(repairs) == spacing


@pytest.mark.parametrize(
    ("times", "every", "since_last", "wait"),
    [
        pytest.param(0, 0.0, 0.0, 0.0, id="nothing was repaired before"),
        pytest.param(3, 0.0, 0.0, 0.0, id="a few repairs at one moment"),
        pytest.param(50, 0.0, 0.025, 0.075, id="many repairs, the last one 25 ms ago"),
        pytest.param(50, 0.0, 0.101, 0.0, id="many repairs, the last one 0.1 s ago"),
        pytest.param(500, 0.2, 0.2, 0.0, id="a program that changes the table every 0.2 s"),
        pytest.param(500, 1.0, 119.0, 0.0, id="a program that ended two minutes ago"),
    ],
)
def test_how_long_a_repair_waits_after(times: int, every: float, since_last: float, wait: float) -> None:
    backoff = repaired(times, every)
    now = 100.0 + max(0, times - 1) * every + since_last
    assert max(0.0, backoff.next_repair(now) - now) == pytest.approx(wait)


def test_the_table_is_contested_from_the_fifth_repair_on_until_fewer_are_in_the_window() -> None:
    backoff = DriftBackoff()
    began = [backoff.repaired(100.0 + number) for number in range(CONTESTED_REPAIRS + 3)]
    assert began == [False] * (CONTESTED_REPAIRS - 1) + [True] + [False] * 3
    end = 100.0 + 3 + WINDOW_SECONDS
    assert backoff.contest(end - 0.1) is not None
    assert backoff.contest(end) is None
    ended = backoff.ended(end)
    assert ended is not None
    assert (ended.repairs, ended.seconds) == (CONTESTED_REPAIRS + 3, 7.0)
    assert backoff.ended(end) is None, "told once"
    assert backoff.totals(end) == DriftTotals(contests=1)


def test_a_program_that_changes_the_table_every_40_s_contests_nothing() -> None:
    backoff = repaired(100, 40.0)
    assert backoff.contest(100.0 + 99 * 40.0) is None


def test_a_contest_has_its_program_and_the_share_of_the_time_that_the_table_was_open() -> None:
    backoff = DriftBackoff()
    for number in range(11):
        backoff.repaired(
            101.0 + number, program=f"nft (process {number})", unit="x.service" * (number == 4), exposed=0.5
        )
    contest = backoff.contest(111.0)
    assert contest is not None
    assert (contest.who, contest.who_in_short) == ("nft (process 10) of x.service", "nft of x.service")
    assert str(contest) == (
        "nft (process 10) of x.service keeps changing nfagent's rules: 11 repairs in 10 s, open for 52% of the time"
    )
    assert backoff.totals(111.0).exposed_seconds == 5.5


@pytest.mark.parametrize(
    ("later", "who"),
    [
        pytest.param(("nft (process 2)", ""), "nft (process 2) of a.service", id="another run of the program keeps it"),
        pytest.param(("", ""), "nft (process 1) of a.service", id="an unknown program changes nothing"),
        pytest.param(("iptables (process 2)", ""), "iptables (process 2)", id="another program doesn't get it"),
        pytest.param(("nft (process 2)", "b.scope"), "nft (process 2) of b.scope", id="another unit takes its place"),
    ],
)
def test_the_unit_that_was_found_once(later: tuple[str, str], who: str) -> None:
    backoff = DriftBackoff()
    for _ in range(CONTESTED_REPAIRS):
        backoff.repaired(100.0, program="nft (process 1)", unit="a.service")
    backoff.repaired(100.0, program=later[0], unit=later[1])
    contest = backoff.contest(100.0)
    assert contest is not None
    assert contest.who == who


GAPS = st.lists(st.floats(0.0, 300.0), max_size=60)
ROUNDING = 1e-6
"""More than sums of such gaps are rounded by."""


@given(GAPS)
def test_after_any_history_a_repair_waits_for_a_moment_at_most_and_few_repairs_wait_at_all(gaps: list[float]) -> None:
    backoff, now, times = DriftBackoff(), 0.0, list[float]()
    for gap in gaps:
        now = max(now + gap, backoff.next_repair(now + gap))
        recent = [time for time in times if time > now - WINDOW_SECONDS]
        assert not times or now - times[-1] <= gap + MAX_SPACING + ROUNDING
        assert len(recent) >= REPAIRS_AT_ONCE or not times or now == times[-1] + gap
        backoff.repaired(now, exposed=min(gap, 1.0))
        times.append(now)
        recent.append(now)
        assert (backoff.contest(now) is not None) == (len(recent) >= CONTESTED_REPAIRS)
    rested = now + WINDOW_SECONDS
    assert backoff.contest(rested) is None
    assert backoff.next_repair(rested) <= rested


@given(st.integers(1, 400))
def test_a_program_that_never_rests_costs_ten_repairs_a_second(changes: int) -> None:
    backoff, now = DriftBackoff(), 0.0
    for _ in range(changes):
        now = max(now, backoff.next_repair(now))
        backoff.repaired(now)
    assert changes <= REPAIRS_AT_ONCE + 4 + now / MAX_SPACING
