"""Rows of measured values, and the figures computed from them.

A row has the values of one measured quantity and, where there is one, those of its reference; p50, p99, ratio and
targets are computed here, in the same manner for every row.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from typing import Literal, TypeAlias

import msgspec

Figure: TypeAlias = Literal["p50", "p99", "max", "min", "mean", "ratio", "cpu_seconds", "rss_mib"]
"""`ratio` is value by reference: the median of the rounds' ratios where they are paired, else the ratio of p50s."""


class Target(msgspec.Struct, frozen=True):
    """A limit of a figure, in the row's own unit."""

    figure: Figure
    direction: Literal["at most", "at least"]
    limit: float

    def met_by(self, value: float) -> bool:
        """Return whether a value meets the target."""
        return value <= self.limit if self.direction == "at most" else value >= self.limit

    def __str__(self) -> str:
        """Return for example `p99 <= 5`."""
        return f"{self.figure} {'<=' if self.direction == 'at most' else '>='} {self.limit:g}"


def at_most(figure: Figure, limit: float) -> Target:
    """Return the target that a figure is no larger."""
    return Target(figure, "at most", limit)


def at_least(figure: Figure, limit: float) -> Target:
    """Return the target that a figure is no smaller."""
    return Target(figure, "at least", limit)


class Row(msgspec.Struct, frozen=True, kw_only=True):
    """One measured quantity.

    values:         one per repetition, in `unit`; at least one
    reference:      the same of the reference, measured in the same run
    paired:         values[i] and reference[i] are of one round, so that ratios are computed round by round
    better:         whether lower or higher values are better; decides which end of the values is the worst
    cpu_seconds, rss_mib: additional figures, of the whole measurement
    note:           what a reader must know besides the number, in a few words
    """

    name: str
    unit: str
    values: Sequence[float]
    reference: Sequence[float] | None = None
    reference_name: str = ""
    paired: bool = False
    targets: tuple[Target, ...] = ()
    better: Literal["lower", "higher"] = "lower"
    note: str = ""
    cpu_seconds: float | None = None
    rss_mib: float | None = None

    def __post_init__(self) -> None:
        """Raise ValueError for a row without values, or with unequal pairs."""
        if not self.values:
            raise ValueError(f"row {self.name!r} has no values")
        if self.paired and len(self.values) != len(self.reference or ()):
            raise ValueError(f"row {self.name!r} is paired, but values and reference differ in number")


class TargetResult(msgspec.Struct, frozen=True):
    """A target, its figure's value (None where the row has no such figure), and whether it is met."""

    target: str
    value: float | None
    met: bool


class Summary(msgspec.Struct, frozen=True, kw_only=True):
    """The figures of a row; `ratio_p25` and `ratio_p75` are quartiles of the rounds' ratios, where paired."""

    suite: str = ""
    name: str
    unit: str
    better: Literal["lower", "higher"]
    note: str
    count: int
    p50: float
    p99: float
    max: float
    min: float
    mean: float
    reference_name: str = ""
    reference_p50: float | None = None
    reference_p99: float | None = None
    ratio: float | None = None
    ratio_p25: float | None = None
    ratio_p75: float | None = None
    cpu_seconds: float | None = None
    rss_mib: float | None = None
    targets: tuple[TargetResult, ...] = ()

    @property
    def worst(self) -> float:
        """The worst value."""
        return self.max if self.better == "lower" else self.min


def percentile(values: Sequence[float], share: float) -> float:
    """Return the smallest value that at least this share (0..1) of the values don't exceed (nearest rank)."""
    ordered = sorted(values)
    return ordered[max(0, math.ceil(share * len(ordered)) - 1)]


def summarise(row: Row) -> Summary:
    """Compute a row's figures and the results of its targets."""
    summary = Summary(
        name=row.name,
        unit=row.unit,
        better=row.better,
        note=row.note,
        count=len(row.values),
        p50=statistics.median(row.values),
        p99=percentile(row.values, 0.99),
        max=max(row.values),
        min=min(row.values),
        mean=statistics.fmean(row.values),
        cpu_seconds=row.cpu_seconds,
        rss_mib=row.rss_mib,
    )
    if row.reference:
        summary = msgspec.structs.replace(summary, **_comparison(row, row.reference))
    return msgspec.structs.replace(summary, targets=tuple(_target_result(target, summary) for target in row.targets))


def _comparison(row: Row, reference: Sequence[float]) -> dict[str, float | str]:
    reference_p50 = statistics.median(reference)
    found: dict[str, float | str] = {
        "reference_name": row.reference_name,
        "reference_p50": reference_p50,
        "reference_p99": percentile(reference, 0.99),
    }
    if row.paired and all(reference):
        ratios = [value / other for value, other in zip(row.values, reference, strict=True)]
        found["ratio"] = statistics.median(ratios)
        found["ratio_p25"], found["ratio_p75"] = percentile(ratios, 0.25), percentile(ratios, 0.75)
    elif reference_p50:
        found["ratio"] = statistics.median(row.values) / reference_p50
    return found


def _target_result(target: Target, summary: Summary) -> TargetResult:
    value: float | None = getattr(summary, target.figure)
    return TargetResult(str(target), value, value is not None and target.met_by(value))
