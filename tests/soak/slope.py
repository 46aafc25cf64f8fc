"""A robust regression line: the slope of Theil and Sen, with its confidence interval. Pure.

The slope is the median of the slopes between all pairs of points, so that up to 29 % of the points may be wrong by any
amount. The interval is made of order statistics of these slopes, at ranks that Kendall's tau gives without a slope.
Reference: P. K. Sen, Estimates of the regression coefficient based on Kendall's tau, JASA 63 (1968).

That holds for independent points. Where neighbours are similar, n points say as much as n (1 - r) / (1 + r) of them,
for an autocorrelation r of neighbours, and the interval is wider by the root of that.
Reference: G. V. Bayley, J. M. Hammersley, The effective number of independent observations in an autocorrelated time
series, JRSS Suppl. 8 (1946).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import combinations, pairwise
from statistics import NormalDist, fmean, median

import msgspec

CONFIDENCE = 0.95
_FEWEST = 8
_MOST_SIMILAR = 0.95


class Slope(msgspec.Struct, frozen=True):
    """A slope, per unit of x, and its confidence interval of 95 %.

    points: number of points
    """

    value: float
    low: float
    high: float
    points: int


def slope_of(points: Sequence[tuple[float, float]]) -> Slope | None:
    """Return the slope through points (x, y); None for fewer than eight, or without two different x."""
    slopes = sorted((y2 - y1) / (x2 - x1) for (x1, y1), (x2, y2) in combinations(points, 2) if x1 != x2)
    count = len(points)
    if count < _FEWEST or not slopes:
        return None
    deviation = math.sqrt(count * (count - 1) * (2 * count + 5) / 18)
    value = median(slopes)
    similar = _autocorrelation([y - value * x for x, y in points])
    reach = NormalDist().inv_cdf(0.5 + CONFIDENCE / 2) * deviation * math.sqrt((1 + similar) / (1 - similar))
    low = max(0, math.floor((len(slopes) - reach) / 2))
    return Slope(value, slopes[low], slopes[-1 - low], count)


def _autocorrelation(values: Sequence[float]) -> float:
    """Return that of neighbours, from 0 to 0.95."""
    middle = fmean(values)
    deviations = [value - middle for value in values]
    square = sum(each * each for each in deviations)
    product = sum(one * other for one, other in pairwise(deviations))
    return min(max(0.0, product / square), _MOST_SIMILAR) if square else 0.0
