"""Quantiles, ratios of quantiles and their confidence intervals."""

from __future__ import annotations

import math
import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nfagent.lab.latency.quantiles import latencies, quantile
from nfagent.lab.report.statistics import Estimate, quantile_estimate, ratio_estimate

ASCENDING = st.lists(st.floats(1, 1e6), min_size=1, max_size=80).map(sorted)
PERCENTS = st.integers(1, 100)


@pytest.mark.parametrize(
    ("count", "percent", "expected"),
    [(1, 50, 1), (1, 99, 1), (2, 50, 1), (3, 50, 2), (100, 99, 99), (100, 50, 50), (200, 99, 198), (7, 100, 7)],
)
def test_a_quantile_is_the_smallest_value_that_the_share_does_not_exceed(
    count: int, percent: int, expected: int
) -> None:
    assert quantile(list(range(1, count + 1)), percent) == expected


@given(ASCENDING, PERCENTS)
def test_at_least_the_share_of_all_values_is_at_most_the_quantile(ascending: list[float], percent: int) -> None:
    found = quantile(ascending, percent)
    upto = sum(1 for value in ascending if value <= found)
    below = sum(1 for value in ascending if value < found)
    assert 100 * upto >= percent * len(ascending)
    assert 100 * below < percent * len(ascending)


@given(ASCENDING, PERCENTS)
def test_an_interval_contains_its_quantile_and_lies_among_the_values(ascending: list[float], percent: int) -> None:
    found = quantile_estimate(ascending, percent)
    assert ascending[0] <= found.low <= found.value <= found.high <= ascending[-1]


@given(ASCENDING, ASCENDING, PERCENTS, st.floats(0.1, 10))
def test_a_ratio_grows_with_what_is_above(above: list[float], below: list[float], percent: int, factor: float) -> None:
    once = ratio_estimate(above, below, percent)
    scaled = ratio_estimate([factor * value for value in above], below, percent)
    assert once is not None
    assert scaled is not None
    assert scaled.value == pytest.approx(factor * once.value)
    assert scaled.low == pytest.approx(factor * once.low)
    assert scaled.high == pytest.approx(factor * once.high)


@given(ASCENDING, ASCENDING)
def test_the_same_samples_give_the_same_ratio(above: list[float], below: list[float]) -> None:
    assert ratio_estimate(above, below, 99) == ratio_estimate(above, below, 99)


@given(st.integers(1, 60), PERCENTS)
def test_equal_values_have_the_ratio_one_without_doubt(count: int, percent: int) -> None:
    assert ratio_estimate([5.0] * count, [5.0] * count, percent) == Estimate(1, 1, 1)


@pytest.mark.parametrize(("count", "percent"), [(20, 50), (200, 50), (200, 99), (137, 95)])
def test_an_interval_is_that_of_resampling_many_times(count: int, percent: int) -> None:
    draw = random.Random(count)  # noqa: S311 - reproducible, not secret
    ascending = sorted(draw.lognormvariate(0, 0.5) for _ in range(count))
    resampled = sorted(quantile(sorted(draw.choices(ascending, k=count)), percent) for _ in range(4000))
    found = quantile_estimate(ascending, percent)
    # The ranks of the bounds among the resampled quantiles: 2.5 % and 97.5 %, but for what chance and ties move.
    assert sum(1 for value in resampled if value < found.low) <= 140
    assert sum(1 for value in resampled if value <= found.low) >= 60
    assert sum(1 for value in resampled if value > found.high) <= 140
    assert sum(1 for value in resampled if value >= found.high) >= 60


@pytest.mark.parametrize("percent", [50, 99])
def test_intervals_contain_the_true_ratio_as_often_as_they_say(percent: int) -> None:
    draw = random.Random(percent)  # noqa: S311 - as above
    normal = {50: 0.0, 99: 2.3263}[percent]
    truth = math.exp(0.5 + normal * (0.6 - 0.4))
    hits = 0
    for _ in range(100):
        above = sorted(draw.lognormvariate(0.5, 0.6) for _ in range(200))
        below = sorted(draw.lognormvariate(0, 0.4) for _ in range(200))
        ratio = ratio_estimate(above, below, percent)
        hits += ratio is not None and ratio.low <= truth <= ratio.high
    assert 88 <= hits <= 100


def test_a_try_that_timed_out_is_longer_than_every_other_one() -> None:
    ascending = latencies([3.0, None, 1.0])
    assert ascending == [1.0, 3.0, math.inf]
    assert quantile(ascending, 99) == math.inf


@pytest.mark.parametrize(
    ("above", "below"),
    [([], [1.0]), ([1.0], []), ([1.0], [1.0, math.inf]), ([1.0], [0.0])],
    ids=["nothing above", "nothing below", "a deadline that passed below", "a quantile of 0 below"],
)
def test_a_ratio_that_cannot_be_known_is_not_given(above: list[float], below: list[float]) -> None:
    assert ratio_estimate(above, below, 50) is None


def test_tries_that_timed_out_above_leave_the_ratio_without_a_bound() -> None:
    ratio = ratio_estimate(latencies([2.0] * 150 + [None] * 50), [1.0] * 200, 99)
    assert ratio == Estimate(math.inf, math.inf, math.inf)
