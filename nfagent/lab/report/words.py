"""Figures and names as the report words them."""

from __future__ import annotations

import math
from collections.abc import Sequence

from nfagent.lab.latency.samples import DataPath, RatePath, Stage
from nfagent.lab.report.statistics import Estimate

PATH_NAMES: dict[DataPath, str] = {"nftables": "nftables", "ebpf": "eBPF"}
RATE_PATH_NAMES: dict[RatePath, str] = {"nftables": "nftables", "ebpf": "eBPF", "none": "no policies"}
STAGE_NAMES: dict[Stage, str] = {
    "source": "source",
    "decode": "decode",
    "compile": "compile",
    "commit": "commit",
    "first_packet": "first packet",
}
UNATTRIBUTED = "outside the trace"
"""The name of what a try took beyond its stages."""


def milliseconds(microseconds: float) -> str:
    """Return a time in milliseconds, without the unit: three digits, and nothing below a microsecond."""
    if microseconds == math.inf:
        return "timed out"
    return significant(microseconds / 1000) if microseconds >= 1000 else f"{microseconds / 1000:.3f}"


def duration(microseconds: float) -> str:
    """Return a time with its unit: `1.23 ms`."""
    return milliseconds(microseconds) + (" ms" if microseconds != math.inf else "")


def significant(value: float) -> str:
    """Return a figure with three significant digits, large ones with thousands separators: 0.0123, 1.23, 12,300."""
    if value == 0 or not math.isfinite(value):
        return f"{value:g}"
    digits = 2 - math.floor(math.log10(abs(value)))
    rounded = round(value, digits)
    # Rounding can bring a digit more: 9.996 is 10.0.
    digits = 2 - math.floor(math.log10(abs(rounded)))
    return f"{rounded:,.{max(0, digits)}f}"


def plain(value: float) -> str:
    """Return the figure of a tick: 0.5, 2, 1,500."""
    return f"{value:,.0f}" if value >= 1000 else f"{value:.3g}"


def ratio_text(ratio: Estimate | None) -> str:
    """Return a ratio with its confidence interval: `1.31x (1.22 to 1.44)`."""
    if ratio is None:
        return "not known"
    if ratio.low == math.inf:
        return "unbounded"
    return f"{times(ratio.value)} ({_bound(ratio.low)} to {_bound(ratio.high)})"


def times(ratio: float) -> str:
    """Return a ratio: `1.31x`."""
    return "unbounded" if ratio == math.inf else f"{significant(ratio)}x"


def plural(count: int, one: str, many: str) -> str:
    """Return a count with its noun."""
    return f"{count:,} {one if count == 1 else many}"


def listed(words: Sequence[str]) -> str:
    """Return words as an enumeration: `a, b and c`."""
    return " and ".join(filter(None, (", ".join(words[:-1]), *words[-1:])))


def _bound(ratio: float) -> str:
    return "unbounded" if ratio == math.inf else significant(ratio)
