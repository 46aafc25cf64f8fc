"""Waits: of a bucket, and for permission."""

from __future__ import annotations

from nfagent.reporting.token_bucket import TokenBucket, rarely


def test_a_bucket_gives_its_burst_and_then_its_rate() -> None:
    bucket = TokenBucket(2.0, 0.5, 100.0)
    waits = []
    for _ in range(3):
        waits.append(bucket.wait(100.0))
        bucket.take(100.0)
    assert waits == [0.0, 0.0, 2.0]
    assert bucket.wait(100.0) == 4.0
    assert bucket.wait(104.0) == 0.0


def test_a_bucket_never_holds_more_than_its_burst_and_a_clock_that_goes_back_fills_nothing() -> None:
    bucket = TokenBucket(1.0, 1.0, 0.0)
    bucket.take(1000.0)
    assert bucket.wait(900.0) == 1.0
    assert bucket.wait(1000.5) == 0.5


def test_what_is_not_permitted_is_tried_again_after_ten_minutes_or_so() -> None:
    assert (rarely(0.0), rarely(1.0)) == (450.0, 750.0)
