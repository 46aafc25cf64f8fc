"""Rate limiter and retry delay of forbidden requests."""

from __future__ import annotations

from nfagent.reporting.token_bucket import TokenBucket, forbidden_retry_delay


def test_a_bucket_allows_its_burst_and_then_its_rate() -> None:
    bucket = TokenBucket(2.0, 0.5, 100.0)
    waits = []
    for _ in range(3):
        waits.append(bucket.delay(100.0))
        bucket.take(100.0)
    assert waits == [0.0, 0.0, 2.0]
    assert bucket.delay(100.0) == 4.0
    assert bucket.delay(104.0) == 0.0


def test_a_bucket_never_exceeds_its_burst_and_a_clock_that_goes_back_fills_nothing() -> None:
    bucket = TokenBucket(1.0, 1.0, 0.0)
    bucket.take(1000.0)
    assert bucket.delay(900.0) == 1.0
    assert bucket.delay(1000.5) == 0.5


def test_a_forbidden_request_is_retried_after_about_ten_minutes() -> None:
    assert (forbidden_retry_delay(0.0), forbidden_retry_delay(1.0)) == (450.0, 750.0)
