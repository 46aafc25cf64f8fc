"""What looks at the rules in iptables may cost."""

from __future__ import annotations

import pytest

from nfagent.kernel.look_budget import LOOK_SECONDS, LookBudget


class Time:
    """A monotonic time that the test moves."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


def seconds_until_urgent(budget: LookBudget, time: Time) -> float:
    began = time.now
    while not budget.may_list(urgent=True):
        time.now += 0.01
    return time.now - began


def test_a_cheap_look_is_followed_by_another_one_after_a_second_or_at_once_where_something_calls_for_it() -> None:
    budget = LookBudget(Time())
    budget.looked(0.004, with_content=False)
    assert (budget.pause, budget.rest) == (LOOK_SECONDS, 0.1)


def test_looks_take_a_twentieth_of_the_time_also_where_something_calls_for_them() -> None:
    budget = LookBudget(Time())
    budget.looked(0.1, with_content=False)
    assert budget.rest == pytest.approx(1.9)
    assert budget.pause == budget.rest


def test_a_look_at_the_content_delays_the_next_one_of_its_kind_only() -> None:
    time = Time()
    budget = LookBudget(time)
    budget.looked(0.1, with_content=True)
    assert (budget.pause, budget.is_content_due) == (LOOK_SECONDS, False)
    time.now += 2.9
    assert budget.is_content_due


def test_what_was_written_is_listed_in_a_twentieth_of_the_time() -> None:
    time = Time()
    budget = LookBudget(time)
    assert budget.may_list(urgent=False)
    budget.listed(0.2)
    assert not budget.may_list(urgent=False)
    time.now += 3.8
    assert budget.may_list(urgent=False)


def test_a_listing_of_what_was_written_holds_up_none_after_a_difference() -> None:
    budget = LookBudget(Time())
    budget.listed(0.2)
    assert budget.may_list(urgent=True)


def test_listings_after_differences_that_repeat_take_a_twentieth_of_the_time() -> None:
    time = Time()
    budget = LookBudget(time)
    while budget.may_list(urgent=True):
        budget.listed(0.3)
    waits = []
    for _ in range(5):
        waits.append(seconds_until_urgent(budget, time))
        budget.listed(0.3)
    assert waits[1:] == [pytest.approx(6.0, abs=0.1)] * 4
