"""How fast things may be said: a bucket that fills with time, and the wait for permission. Without clock and lots."""

from __future__ import annotations

RARELY_SECONDS = 600.0
"""Between two tries of what isn't permitted: somebody has to change a role for it."""


class TokenBucket:
    """A token bucket: `burst` at once, then `rate` a second."""

    def __init__(self, burst: float, rate: float, now: float) -> None:
        """Start full."""
        self._burst = burst
        self._rate = rate
        self._level = burst
        self._at = now

    def wait(self, now: float) -> float:
        """Give the seconds until something may be said."""
        self._fill(now)
        return max(0.0, (1.0 - self._level) / self._rate)

    def take(self, now: float) -> None:
        """Say something. What is said too early is made up for later."""
        self._fill(now)
        self._level -= 1.0

    def _fill(self, now: float) -> None:
        self._level = min(self._burst, self._level + max(0.0, now - self._at) * self._rate)
        self._at = max(self._at, now)


def rarely(lot: float) -> float:
    """Give the seconds until something is tried again that isn't permitted."""
    return RARELY_SECONDS * (0.75 + 0.5 * lot)
