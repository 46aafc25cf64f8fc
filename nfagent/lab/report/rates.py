"""Throughput, connections, CPU and memory: medians of each path, and of two runs, next to each other."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import TypeAlias

import msgspec

from nfagent.lab.latency.quantiles import quantile
from nfagent.lab.latency.samples import Rate, RatePath
from nfagent.lab.report.statistics import Estimate, ratio_estimate
from nfagent.lab.report.words import RATE_PATH_NAMES, ratio_text, significant, times

_UNITS: dict[str, tuple[str, float]] = {
    "tcp_bits_per_second": ("TCP throughput [Gbit/s]", 1e9),
    "udp_bits_per_second": ("UDP throughput [Gbit/s]", 1e9),
    "connections_per_second": ("connections [1/s]", 1),
    "cpu_ns_per_packet": ("CPU time of a packet [ns]", 1),
    "rss_bytes": ("resident memory of the agent [MiB]", 2**20),
}
"""Quantity -> its words with the unit, and how much of the quantity's own unit one of it is."""

_LEAST_VALUES = 20
"""From so many values of both sides on, a ratio has a confidence interval."""

RATE_HEADER = ("quantity", "policies", "Pods", *RATE_PATH_NAMES.values(), "nftables by eBPF")
RATE_CHANGE_HEADER = ("quantity", "policies", "Pods", "path", "A", "B", "B by A")


class RateKey(msgspec.Struct, frozen=True):
    """What was measured, at which size."""

    quantity: str
    policies: int
    pods: int

    @property
    def cells(self) -> tuple[str, str, str]:
        """The quantity with its unit, policies and Pods, as text."""
        return _UNITS.get(self.quantity, (self.quantity, 1))[0], f"{self.policies:,}", f"{self.pods:,}"

    @property
    def order(self) -> tuple[int, str, int, int]:
        """The sort key: known quantities first, then by name and size."""
        known = list(_UNITS)
        place = known.index(self.quantity) if self.quantity in known else len(known)
        return place, self.quantity, self.pods, self.policies


_ByPath: TypeAlias = Mapping[RatePath, Sequence[float]]


def rate_rows(rates: Iterable[Rate]) -> list[tuple[str, ...]]:
    """Return a row for each quantity and size: its name and size, median and range of each path, the medians' ratio."""
    return [
        (
            *key.cells,
            *(_median_and_range(values.get(path, ())) for path in RATE_PATH_NAMES),
            _ratio_words(values.get("nftables", ()), values.get("ebpf", ())),
        )
        for key, values in sorted(_grouped(rates).items(), key=lambda item: item[0].order)
    ]


class RateChange(msgspec.Struct, frozen=True):
    """One quantity of one path in two runs: all values of A and of B in the unit of its words, none if not measured."""

    key: RateKey
    path: RatePath
    a: tuple[float, ...]
    b: tuple[float, ...]

    @property
    def row(self) -> tuple[str, ...]:
        """The cells of a row: the medians of both runs with their ranges, and B's median by A's."""
        runs = (_median_and_range(self.a), _median_and_range(self.b))
        return (*self.key.cells, RATE_PATH_NAMES[self.path], *runs, self._words)

    @property
    def _words(self) -> str:
        lacking = next((run for run, values in (("A", self.a), ("B", self.b)) if not values), "")
        return f"not measured in {lacking}" if lacking else _ratio_words(self.b, self.a)


def rate_changes(a: Iterable[Rate], b: Iterable[Rate]) -> tuple[RateChange, ...]:
    """Return what either of two runs measured, by quantity, size and path."""
    before, after = _grouped(a), _grouped(b)
    changes = (
        RateChange(key, path, *(tuple(found.get(key, {}).get(path, ())) for found in (before, after)))
        for key in sorted({**before, **after}, key=lambda key: key.order)
        for path in RATE_PATH_NAMES
    )
    return tuple(change for change in changes if change.a or change.b)


def _grouped(rates: Iterable[Rate]) -> dict[RateKey, _ByPath]:
    """Return the values of each quantity and size by path, in ascending order and in the unit of the words."""
    found: dict[RateKey, dict[RatePath, list[float]]] = {}
    for rate in rates:
        unit = _UNITS.get(rate.quantity, (rate.quantity, 1))[1]
        by_path = found.setdefault(RateKey(rate.quantity, rate.policies, rate.pods), {})
        by_path[rate.path] = sorted([*by_path.get(rate.path, []), *(value / unit for value in rate.values)])
    return {key: dict(by_path) for key, by_path in found.items()}


def _median_and_range(ascending: Sequence[float]) -> str:
    if not ascending:
        return "not measured"
    middle = significant(quantile(ascending, 50))
    if len(ascending) == 1:
        return middle
    return f"{middle} ({significant(ascending[0])} to {significant(ascending[-1])})"


def _ratio_words(above: Sequence[float], below: Sequence[float]) -> str:
    ratio: Estimate | None = ratio_estimate(above, below, 50)
    if ratio is None:
        return "not known"
    return ratio_text(ratio) if min(len(above), len(below)) >= _LEAST_VALUES else times(ratio.value)
