"""The rate limit of records: a burst at once, then so many a second, never more than the burst saved up."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from nfagent.verdicts.rate_limit import RateLimit


def taken(limit: RateLimit, now: float, tries: int) -> int:
    return sum(limit.take(now) for _ in range(tries))


def test_a_burst_passes_at_once_and_what_exceeds_it_does_not() -> None:
    limit = RateLimit(per_second=500, burst=20, now=7)
    assert taken(limit, 7, 30) == 20


def test_tokens_come_back_at_the_rate_and_no_more_than_the_burst_is_saved() -> None:
    limit = RateLimit(per_second=10, burst=20, now=0)
    assert taken(limit, 0, 20) == 20
    assert taken(limit, 0.5, 100) == 5
    assert taken(limit, 1_000, 100) == 20


def test_a_time_before_the_last_one_brings_nothing() -> None:
    limit = RateLimit(per_second=1_000, burst=1, now=10)
    assert limit.take(10)
    assert not limit.take(9)
    assert not limit.take(10)


@given(
    steps=st.lists(st.tuples(st.floats(0, 5), st.integers(0, 50)), max_size=40),
    rate=st.integers(1, 100),
    burst=st.integers(1, 50),
)
def test_in_any_stretch_of_time_no_more_pass_than_burst_and_rate_allow(
    steps: list[tuple[float, int]], rate: int, burst: int
) -> None:
    limit = RateLimit(rate, burst, now=0)
    now, passed = 0.0, [(0.0, 0)]
    for pause, tries in steps:
        now += pause
        passed.append((now, taken(limit, now, tries)))
    for first in range(len(passed)):
        stretch = passed[first:]
        allowed = burst + rate * (stretch[-1][0] - stretch[0][0])
        assert sum(count for _, count in stretch) <= allowed + 1e-6
