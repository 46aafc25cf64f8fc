"""When comparisons that other programs cause have credit."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nfagent.controllers.comparison_budget import ComparisonBudget


@pytest.mark.parametrize(
    ("durations", "repair", "wait"),
    [
        pytest.param([1.0], 0.0, 0.0, id="the burst lasts for three seconds"),
        pytest.param([4.0], 0.0, 20.0, id="then a comparison is paid for at a twentieth of the time"),
        pytest.param([2.0, 2.0], 0.0, 20.0, id="as several together are"),
        pytest.param([3.0], 0.5, 10.0, id="a repair costs as well"),
        pytest.param([2.0] * 50, 0.0, 40.0, id="debts don't add up"),
    ],
)
def test_the_wait_after_comparisons_without_a_pause(durations: list[float], repair: float, wait: float) -> None:
    budget, now = ComparisonBudget(), 1000.0
    for duration in durations:
        budget.compared(now, now + duration, duration)
        now += duration
    budget.repaired(repair)
    assert max(0.0, budget.next_comparison() - now) == pytest.approx(wait)


def test_where_the_cpu_is_what_counts_a_wait_for_it_costs_nothing() -> None:
    budget, now = ComparisonBudget(), 1000.0
    for _ in range(10):
        budget.compared(now, now + 2.0, 0.1)
        now += 3.0
        budget.repaired(0.1)
        assert budget.next_comparison() <= now


@given(st.lists(st.tuples(st.floats(0.0, 100.0), st.floats(0.001, 10.0)), min_size=1, max_size=50))
def test_comparisons_that_wait_for_credit_take_a_twentieth_of_the_time_beyond_the_burst(
    story: list[tuple[float, float]],
) -> None:
    budget, now, spent = ComparisonBudget(), 1000.0, 0.0
    for pause, duration in story:
        now = max(now + pause, budget.next_comparison())
        assert spent <= 3.0 + (now - 1000.0) * 0.05 + 1e-6
        budget.compared(now, now + duration, duration)
        now, spent = now + duration, spent + duration
