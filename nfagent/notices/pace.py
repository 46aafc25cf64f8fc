"""How fast things may be said: a bucket that fills with time, and the waits after setbacks. Without clock and lots."""

from __future__ import annotations

_FIRST_SECONDS = 1.0
_LONGEST_SECONDS = 60.0
_DOUBLINGS = 10
RARELY_SECONDS = 600.0
"""Between two tries of what isn't permitted: somebody has to change a role for it."""


class Bucket:
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


class Setbacks:
    """The waits of one kind of request: twice as long from setback to setback, none after a success."""

    def __init__(self) -> None:
        """Start without any setback."""
        self._count = 0

    def succeeded(self) -> None:
        """Say that a request was answered as it should be."""
        self._count = 0

    def pause(self, lot: float, asked: float | None = None) -> float:
        """Give the seconds to wait after a setback.

        lot:   drawn from 0 to 1, so that agents don't return together
        asked: what the server asked for, which is kept, and spread
        """
        doubled: float = _FIRST_SECONDS * 2.0 ** min(self._count, _DOUBLINGS)
        self._count += 1
        longest = min(doubled, _LONGEST_SECONDS)
        if asked is not None:
            return min(max(asked, 0.0), RARELY_SECONDS) + longest * (0.25 + 0.75 * lot)
        return longest * (0.5 + 0.5 * lot)


def rarely(lot: float) -> float:
    """Give the seconds until something is tried again that isn't permitted."""
    return RARELY_SECONDS * (0.75 + 0.5 * lot)
