"""Limits of the verdict log: their settings, and the token bucket that both verdicts share.

A record without a token is dropped, unlike a request of `reporting.token_bucket`, which waits for one.
"""

from __future__ import annotations

import msgspec

DRAINS_A_SECOND = 10
"""How often denied connections that are due are written: a burst of less than a tenth of the rate would limit it."""


class RecordLimits(msgspec.Struct, frozen=True):
    """The settings of `[logging]` for aggregation and rate.

    aggregation_seconds: from the first denied packet of a connection to its record, and how long an allowed one needs
                         no further record; 0: a record a packet
    aggregation_keys:    denied connections that may wait at once, and allowed ones that are remembered
    records_per_second, burst: of the rate limit, for both verdicts together
    """

    aggregation_seconds: float = 5
    aggregation_keys: int = 3_000
    records_per_second: float = 500
    burst: int = 500


class RateLimit:
    """`burst` tokens at first, then `per_second` tokens a second, up to `burst`."""

    def __init__(self, per_second: float, burst: int, now: float) -> None:
        """Start full at the monotonic time `now`."""
        self._per_second = per_second
        self._burst = float(burst)
        self._level = float(burst)
        self._at = now

    def is_empty(self, now: float) -> bool:
        """Return whether there is no token at a monotonic time."""
        self._fill(now)
        return self._level < 1.0

    def take(self, now: float) -> bool:
        """Take a token at a monotonic time; return False where there is none."""
        if self.is_empty(now):
            return False
        self._level -= 1.0
        return True

    def _fill(self, now: float) -> None:
        if now > self._at:
            self._level = min(self._burst, self._level + (now - self._at) * self._per_second)
            self._at = now
