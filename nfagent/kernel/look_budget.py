"""Spaces looks at the rules in iptables, so that they take no more than their share of the CPU.

Looks at numbers and sizes take 5 % of the time at most, those at the content 3 %, and listing everything 5 %. Listings
after a change that may be another program's have a credit, so that the first ones follow at once.
"""

from __future__ import annotations

import time
from collections.abc import Callable

LOOK_SECONDS = 1.0
_SHORTEST = 0.1
_REST, _CONTENT_REST = 19, 29
"""After a look, and after one at the content, so many times its CPU time passes until the next one."""
_LONGEST, _LONGEST_CONTENT = 10.0, 30.0
"""But no more than so many seconds."""
_SHARE, _BURST = 0.05, 2.0
"""Token bucket of listings, in seconds of CPU time."""


class LookBudget:
    """What looks have cost, in seconds of CPU time."""

    def __init__(self, monotonic: Callable[[], float] = time.monotonic) -> None:
        """Start with nothing spent."""
        self._monotonic = monotonic
        self.rest = _SHORTEST  # for which no look follows
        self._content_at = 0.0
        self._verified_at = 0.0  # from which what we wrote may be listed
        self._credit, self._credited_at = _BURST, monotonic()

    @property
    def pause(self) -> float:
        """Seconds until the next look, where nothing calls for one."""
        return max(LOOK_SECONDS, self.rest)

    @property
    def is_content_due(self) -> bool:
        """Whether the next look may read rules and members."""
        return self._monotonic() >= self._content_at

    def may_list(self, *, urgent: bool) -> bool:
        """Return whether everything may be listed.

        urgent: something differs from the look before; otherwise only what we wrote isn't verified yet
        """
        self._refill()
        return self._credit > 0 if urgent else self._monotonic() >= self._verified_at

    def looked(self, seconds: float, *, with_content: bool) -> None:
        """Record a look."""
        if with_content:
            self._content_at = self._monotonic() + min(seconds * _CONTENT_REST, _LONGEST_CONTENT)
        else:
            self.rest = min(max(_SHORTEST, seconds * _REST), _LONGEST)

    def listed(self, seconds: float) -> None:
        """Record a listing."""
        self._refill()
        self._credit -= seconds
        self._verified_at = self._monotonic() + min(seconds * _REST, _LONGEST)

    def _refill(self) -> None:
        now = self._monotonic()
        self._credit = min(_BURST, self._credit + (now - self._credited_at) * _SHARE)
        self._credited_at = now
