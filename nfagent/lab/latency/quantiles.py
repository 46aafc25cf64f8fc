"""Quantiles of latencies, by the nearest rank; pure.

A try whose deadline passed took longer than every other one: it counts as infinity.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence


def latencies(tries: Iterable[float | None]) -> list[float]:
    """Return latencies in ascending order; None, a deadline that passed, as infinity at the end."""
    return sorted(math.inf if latency is None else latency for latency in tries)


def rank(count: int, percent: int) -> int:
    """Return the rank of a quantile, from 1; in whole numbers, since 0.07 * 100 is above 7."""
    return max(1, -(-count * percent // 100))


def quantile(ascending: Sequence[float], percent: int) -> float:
    """Return a quantile: the smallest value that `percent` of all don't exceed."""
    return ascending[rank(len(ascending), percent) - 1]
