"""Throughput, connections, CPU and memory: rows of the report's table."""

from __future__ import annotations

from collections.abc import Iterable
from itertools import groupby

from nfagent.lab.report_statistics import quantile
from nfagent.lab.report_words import RATE_PATH_NAMES, significant, times
from nfagent.lab.samples import Rate

_UNITS: dict[str, tuple[str, float]] = {
    "tcp_bits_per_second": ("TCP throughput [Gbit/s]", 1e9),
    "udp_bits_per_second": ("UDP throughput [Gbit/s]", 1e9),
    "connections_per_second": ("connections [1/s]", 1),
    "cpu_ns_per_packet": ("CPU time of a packet [ns]", 1),
    "rss_bytes": ("resident memory of the agent [MiB]", 2**20),
}
"""Quantity -> its words with the unit, and how much of the quantity's own unit one of it is."""

RATE_HEADER = ("quantity", "policies", "Pods", *RATE_PATH_NAMES.values(), "nftables by eBPF")


def rate_rows(rates: Iterable[Rate]) -> list[tuple[str, ...]]:
    """Return a row for each quantity and size: its name and size, median and range of each path, the medians' ratio."""
    order = list(_UNITS)

    def key(rate: Rate) -> tuple[int, str, int, int]:
        place = order.index(rate.quantity) if rate.quantity in order else len(order)
        return place, rate.quantity, rate.pods, rate.policies

    rows = []
    for (_, quantity, pods, policies), of_size in groupby(sorted(rates, key=key), key=key):
        words, unit = _UNITS.get(quantity, (quantity, 1))
        values: dict[str, list[float]] = {}
        for rate in of_size:
            values.setdefault(rate.path, []).extend(value / unit for value in rate.values)
        cells = [_median_and_range(values.get(path, [])) for path in RATE_PATH_NAMES]
        rows.append((words, f"{policies:,}", f"{pods:,}", *cells, _ratio(values)))
    return rows


def _median_and_range(values: list[float]) -> str:
    if not values:
        return "not measured"
    ascending = sorted(values)
    middle = significant(quantile(ascending, 50))
    return middle if len(values) == 1 else f"{middle} ({significant(ascending[0])} to {significant(ascending[-1])})"


def _ratio(values: dict[str, list[float]]) -> str:
    ours, theirs = sorted(values.get("nftables", [])), sorted(values.get("ebpf", []))
    if not ours or not theirs or quantile(theirs, 50) == 0:
        return "not known"
    return times(quantile(ours, 50) / quantile(theirs, 50))
