"""What was worked out lately, to be looked up instead: bounded by what it weighs, whatever comes and goes.

`functools.lru_cache` counts entries. Names and labels that each come once fill it, however small the cluster, and one
entry may be as large as an object can be. Where what is remembered weighs too much, all of it is forgotten: what is in
use is soon known again.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable
from typing import Generic, TypeVar

_K = TypeVar("_K", bound=Hashable)
_V = TypeVar("_V")


class WeightedCache(Generic[_K, _V]):
    """A function of one key whose latest answers are remembered.

    weight: of all that is remembered; never more than `most`
    """

    def __init__(self, make: Callable[[_K], _V], weigh: Callable[[_K, _V], int], most: int) -> None:
        """Remember what `make` gives, up to a weight that `weigh` counts for each key and answer."""
        self._make = make
        self._weigh = weigh
        self._most = most
        self._known: dict[_K, _V] = {}
        self.weight = 0

    def __len__(self) -> int:
        """Count the answers that are remembered."""
        return len(self._known)

    def __call__(self, key: _K) -> _V:
        """Give the answer for a key. Raises what making it raises."""
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
        """Forget everything."""
        self._known.clear()
        self.weight = 0
