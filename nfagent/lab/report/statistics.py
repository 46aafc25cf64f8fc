"""How sure quantiles of latencies are, and their ratios.

The confidence intervals are those of the percentile bootstrap. Of an order statistic, the bootstrap's distribution is
known exactly, so nothing is drawn at random, and the same samples give the same report: the k-th smallest value of a
resample is at most the sample's j-th where at least k of its n draws are, each of which is so in j of n cases.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import lru_cache

import msgspec

from nfagent.lab.latency.quantiles import quantile, rank

CONFIDENCE = 0.95
_NEGLIGIBLE = 1e-7
_STANDARD_DEVIATIONS = 7
"""Farther from its mean, a count is negligible: its probability is below 1e-9."""


class Estimate(msgspec.Struct, frozen=True):
    """A figure and its confidence interval of 95 %; infinity where tries ran into their deadline."""

    value: float
    low: float
    high: float


def quantile_estimate(ascending: Sequence[float], percent: int) -> Estimate:
    """Return a quantile with its confidence interval."""
    return _estimate(quantile(ascending, percent), _resampled(ascending, percent))


def ratio_estimate(above: Sequence[float], below: Sequence[float], percent: int) -> Estimate | None:
    """Return the ratio of the same quantile of two independent samples; both are in ascending order.

    None where it can't be known: a sample is empty, a value of `below` is infinite, or its quantile is 0.
    """
    if not above or not below or below[-1] == math.inf or quantile(below, percent) == 0:
        return None
    divisors = _resampled(below, percent)
    ratios = [
        (value / divisor if divisor else math.inf, weight * share)
        for value, weight in _resampled(above, percent)
        for divisor, share in divisors
    ]
    return _estimate(quantile(above, percent) / quantile(below, percent), ratios)


def _resampled(ascending: Sequence[float], percent: int) -> list[tuple[float, float]]:
    """Return the values that the quantile of a resample can have, each with its probability."""
    weights = _rank_weights(len(ascending), rank(len(ascending), percent))
    return [(ascending[position], weight) for position, weight in weights]


def _estimate(value: float, distribution: list[tuple[float, float]]) -> Estimate:
    distribution.sort()
    total = math.fsum(weight for _, weight in distribution)
    tail = total * (1 - CONFIDENCE) / 2
    return Estimate(value, _at(distribution, tail), _at(distribution, total - tail))


def _at(distribution: Sequence[tuple[float, float]], share: float) -> float:
    """Return the smallest value up to which a distribution has this share."""
    passed = 0.0
    for value, weight in distribution:
        passed += weight
        if passed >= share:
            return value
    return distribution[-1][0]


@lru_cache(maxsize=256)
def _rank_weights(count: int, rank: int) -> tuple[tuple[int, float], ...]:
    """Return which value of a sample, from 0, the rank-th of a resample is, with what probability."""
    reach = _reach(count, rank / count)
    first, last = max(0, rank - reach), min(count, rank + reach)
    found = []
    before = _at_least(rank, count, first / count)
    for position in range(first, last):
        upto = _at_least(rank, count, (position + 1) / count)
        if upto - before > _NEGLIGIBLE:
            found.append((position, upto - before))
        before = upto
    return tuple(found)


def _at_least(rank: int, count: int, probability: float) -> float:
    """Return the probability of at least `rank` successes in `count` independent tries (binomial distribution)."""
    if probability in {0, 1}:
        return probability
    odds = math.log(probability), math.log1p(-probability)
    whole = math.lgamma(count + 1)
    expected = count * probability
    # Beyond it, all terms together are negligible.
    last = min(count, max(rank, math.ceil(expected)) + _reach(count, probability))
    terms = (
        whole - math.lgamma(hits + 1) - math.lgamma(count - hits + 1) + hits * odds[0] + (count - hits) * odds[1]
        for hits in range(rank, last + 1)
    )
    return min(1.0, math.fsum(map(math.exp, terms)))


def _reach(count: int, probability: float) -> int:
    """Return how far from its mean a binomial count is, but for a negligible probability."""
    deviation = math.sqrt(count * probability * (1 - probability))
    return math.ceil(_STANDARD_DEVIATIONS * deviation) + _STANDARD_DEVIATIONS
