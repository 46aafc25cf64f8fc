"""Waits: of a bucket, and after setbacks."""

from __future__ import annotations

import pytest

from nfagent.notices.pace import RARELY_SECONDS, Bucket, Setbacks, rarely


def test_a_bucket_gives_its_burst_and_then_its_rate() -> None:
    bucket = Bucket(2.0, 0.5, 100.0)
    waits = []
    for _ in range(3):
        waits.append(bucket.wait(100.0))
        bucket.take(100.0)
    assert waits == [0.0, 0.0, 2.0]
    assert bucket.wait(100.0) == 4.0
    assert bucket.wait(104.0) == 0.0


def test_a_bucket_never_holds_more_than_its_burst_and_a_clock_that_goes_back_fills_nothing() -> None:
    bucket = Bucket(1.0, 1.0, 0.0)
    bucket.take(1000.0)
    assert bucket.wait(900.0) == 1.0
    assert bucket.wait(1000.5) == 0.5


def test_setbacks_double_the_wait_until_a_success() -> None:
    setbacks = Setbacks()
    assert [setbacks.pause(1.0) for _ in range(8)] == [1, 2, 4, 8, 16, 32, 60, 60]
    setbacks.succeeded()
    assert setbacks.pause(0.0) == 0.5


@pytest.mark.parametrize(
    ("asked", "lot", "least", "most"),
    [
        pytest.param(30.0, 0.0, 30.0, 31.0, id="what the server asks for is kept"),
        pytest.param(30.0, 1.0, 31.0, 31.0, id="and spread"),
        pytest.param(0.0, 0.0, 0.1, 1.0, id="asking for nothing is no leave to go on at once"),
        pytest.param(1e9, 0.0, RARELY_SECONDS, RARELY_SECONDS + 1, id="no server silences an agent for ever"),
    ],
)
def test_a_server_that_asks_for_patience_gets_it(asked: float, lot: float, least: float, most: float) -> None:
    assert least <= Setbacks().pause(lot, asked) <= most


def test_what_is_not_permitted_is_tried_again_after_ten_minutes_or_so() -> None:
    assert (rarely(0.0), rarely(1.0)) == (450.0, 750.0)
