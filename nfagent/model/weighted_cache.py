"""A cache of function results that is bounded by weight.

`functools.lru_cache` counts entries. Names and labels that occur once fill it, even in a small cluster, and one entry
may be as large as an object can be. When the weight would exceed the limit, the whole cache is cleared: entries in use
are soon computed again.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable
from typing import Generic, TypeVar

_K = TypeVar("_K", bound=Hashable)
_V = TypeVar("_V")


class WeightedCache(Generic[_K, _V]):
    """A function of one key with cached results.

    weight: of all cached results; never more than `most`
    """

    def __init__(self, make: Callable[[_K], _V], weigh: Callable[[_K, _V], int], most: int) -> None:
        """Cache the results of `make`, up to a total weight of `most`; `weigh` returns the weight of one entry."""
        self._make = make
        self._weigh = weigh
        self._most = most
        self._known: dict[_K, _V] = {}
        self.weight = 0

    def __len__(self) -> int:
        """Return the number of cached results."""
        return len(self._known)

    def __call__(self, key: _K) -> _V:
        """Return the result for a key. Raises the exceptions of `make`."""
        known = self._known
        if key in known:
            return known[key]
        made = self._make(key)
        weight = self._weigh(key, made)
        if weight <= self._most:
            if self.weight + weight > self._most:
                self.clear()
            known[key] = made
            self.weight += weight
        return made

    def clear(self) -> None:
        """Remove all results."""
        self._known.clear()
        self.weight = 0
