"""By how much totals grew in the last minutes, from samples of them. Times are monotonic seconds of the caller."""

from __future__ import annotations

from collections import deque
from collections.abc import Hashable, Mapping
from typing import Generic, TypeVar

_K = TypeVar("_K", bound=Hashable)


class IncreaseWindow(Generic[_K]):
    """Samples of totals by key, none of which ever decreases while its key exists."""

    def __init__(self, seconds: float) -> None:
        """Start without samples. seconds: what `increase` covers, or a little more, once the samples reach that far."""
        self._seconds = seconds
        self._samples: deque[tuple[float, dict[_K, int]]] = deque()

    def add(self, now: float, totals: Mapping[_K, int]) -> None:
        """Add a sample; those before the one that the window begins with are forgotten."""
        self._samples.append((now, dict(totals)))
        while len(self._samples) > 1 and self._samples[1][0] <= now - self._seconds:
            self._samples.popleft()

    def increase(self, now: float, totals: Mapping[_K, int]) -> tuple[float, dict[_K, int]]:
        """Return the seconds since the oldest sample, and by how much each total grew; (0, {}) without a sample."""
        if not self._samples:
            return 0.0, {}
        began, before = self._samples[0]
        grown = {key: total - before.get(key, 0) for key, total in totals.items()}
        return now - began, {key: packets for key, packets in grown.items() if packets > 0}
