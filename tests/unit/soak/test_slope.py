"""The robust slope, and its confidence interval."""

from __future__ import annotations

from random import Random

import pytest

from tests.soak.slope import slope_of


@pytest.mark.parametrize("slope", [0.0, 3.0, -40.0], ids=["flat", "rising", "falling"])
def test_the_interval_has_the_slope_of_noisy_points_and_of_outliers(slope: float) -> None:
    random = Random(7)  # noqa: S311 - noise
    points = [(x / 10, slope * x / 10 + random.gauss(0, 1)) for x in range(100)]
    points[10], points[80] = (1.0, 500.0), (8.0, -500.0)
    found = slope_of(points)
    assert found is not None
    assert found.low <= slope <= found.high
    assert found.high - found.low < 0.5


def test_equal_values_have_the_slope_zero_for_certain() -> None:
    found = slope_of([(float(x), 64.0) for x in range(20)])
    assert found is not None
    assert (found.value, found.low, found.high, found.points) == (0.0, 0.0, 0.0, 20)


@pytest.mark.parametrize("points", [[], [(1.0, 1.0)] * 20, [(float(x), 1.0) for x in range(7)]], ids=len)
def test_too_few_points_have_no_slope(points: list[tuple[float, float]]) -> None:
    assert slope_of(points) is None


def test_sens_interval_is_that_of_his_tables() -> None:
    # Kendall's S exceeds 18 with a probability of 2.2 % for nine points: the ranks 9 and 28 of 36 slopes.
    values = [0.0, 1.5, 1.27, 3.9, 2.06, 6.11, 5.0, 7.93, 9.1]
    found = slope_of(list(enumerate(values)))
    pairs = sorted((values[j] - values[i]) / (j - i) for i in range(9) for j in range(i + 1, 9))
    assert found is not None
    assert len(set(pairs)) == len(pairs) == 36
    assert (found.low, found.high) == (pairs[8], pairs[27])


def test_points_that_are_similar_to_their_neighbours_rarely_rise_by_chance() -> None:
    # Without regard to the neighbours half of the intervals would be above 0, or below it.
    random = Random(7)  # noqa: S311 - noise
    missed = 0
    for _ in range(60):
        value, points = 0.0, []
        for x in range(40):
            value = 0.8 * value + random.gauss(0, 0.6)
            points.append((float(x), value))
        found = slope_of(points)
        assert found is not None
        missed += not found.low <= 0 <= found.high
    assert missed <= 8


def test_a_rise_that_never_falls_is_above_zero_however_similar_the_points_are() -> None:
    found = slope_of([(float(x), 1 - 0.9**x) for x in range(40)])
    assert found is not None
    assert 0 < found.low <= found.value
