"""Rate limiter (token bucket), and the retry delay of forbidden requests. Without clock and random source."""

from __future__ import annotations

FORBIDDEN_RETRY_SECONDS = 600.0
"""Between two tries of a request that RBAC forbids: it succeeds only after a role was changed."""


class TokenBucket:
    """A token bucket: `burst` tokens at first, then `rate` tokens a second."""

    def __init__(self, burst: float, rate: float, now: float) -> None:
        """Start full at the monotonic time `now`."""
        self._burst = burst
        self._rate = rate
        self._level = burst
        self._at = now

    def delay(self, now: float) -> float:
        """Return the seconds until a token is available."""
        self._fill(now)
        return max(0.0, (1.0 - self._level) / self._rate)

    def take(self, now: float) -> None:
        """Remove a token; one removed too early makes the level negative and delays the next ones."""
        self._fill(now)
        self._level -= 1.0

    def _fill(self, now: float) -> None:
        self._level = min(self._burst, self._level + max(0.0, now - self._at) * self._rate)
        self._at = max(self._at, now)


def forbidden_retry_delay(jitter: float) -> float:
    """Return the seconds until a forbidden request is tried again; jitter: random, 0 to 1."""
    return FORBIDDEN_RETRY_SECONDS * (0.75 + 0.5 * jitter)
