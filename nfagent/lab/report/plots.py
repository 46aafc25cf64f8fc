"""The plots of a report, drawn with matplotlib, which is in the extra `report`.

The same path has the same colour everywhere: blue and orange, which people with any colour vision can tell apart, and
another marker or line style. Text in the plots is ours: names from the samples' files are only in the page.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import groupby
from typing import TYPE_CHECKING, Any

from nfagent.lab.latency.quantiles import quantile
from nfagent.lab.latency.samples import DataPath
from nfagent.lab.report.drawing import FAINT, INK, PATH_COLOURS, PATH_DASHES, PATH_MARKERS, SURFACE, Plot, rendered
from nfagent.lab.report.statistics import Estimate, quantile_estimate
from nfagent.lab.report.verdict import AIM, LEAST_TRIES, Pair, PairVerdict, stage_medians
from nfagent.lab.report.words import PATH_NAMES, STAGE_NAMES, UNATTRIBUTED, duration, milliseconds, plain, plural

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.axis import Axis
    from matplotlib.transforms import Transform


_MARGIN = 1.1
"""How far an axis goes beyond its values, as a factor."""
_SHOWN_US = 1.0
"""What is shorter outside the trace is rounding, and not shown."""


def cdf_plot(pair: Pair, beside: Sequence[Pair] = ()) -> Plot | None:
    """Return the cumulative distribution of both paths' latencies; tries that timed out keep it below 100 %.

    None where no try has a latency to show.

    beside: the pairs whose plots stand beside this one, with the same scale
    """
    if not any(value for path in PATH_NAMES for value in _seen(pair, path)):
        return None

    def draw(axes: Axes) -> None:
        for path, name in PATH_NAMES.items():
            if seen := _seen(pair, path):
                shares = [100 * number / len(pair.tries(path)) for number in range(len(seen) + 1)]
                axes.step(
                    [seen[0], *seen],
                    shares,
                    where="post",
                    label=name,
                    color=PATH_COLOURS[path],
                    dashes=PATH_DASHES[path],
                )
        axes.set_xscale("log")
        all_seen = [value for one in (pair, *beside) for path in PATH_NAMES for value in _seen(one, path) if value]
        axes.set_xlim(min(all_seen) / _MARGIN, max(all_seen) * _MARGIN)
        _number_ticks(axes.xaxis)
        axes.set_xlabel("change to first packet [ms, log]")
        axes.set_ylabel("tries [%]")
        axes.set_ylim(0, 101)
        axes.set_yticks([0, 25, 50, 75, 100])
        _legend(axes)

    shown = "; ".join(
        f"{name}: p50 {duration(quantile(found, 50))}, p99 {duration(quantile(found, 99))}"
        for path, name in PATH_NAMES.items()
        if (found := pair.latencies(path))
    )
    description = f"Cumulative distribution of latencies, {_title(pair)}. {shown}."
    return rendered(f"cdf-{_slug(pair)}", description, draw, title=_title(pair))


def stage_plot(pair: Pair, beside: Sequence[Pair] = ()) -> Plot | None:
    """Return the median of each stage, both paths next to each other; None where no try has a trace.

    beside: as of `cdf_plot`
    """
    medians = {path: found for path in PATH_NAMES if (found := stage_medians(pair.tries(path)))}
    stages = [stage for stage in STAGE_NAMES.values() if any(stage in found for found in medians.values())]
    if any(found[UNATTRIBUTED] >= _SHOWN_US for found in medians.values()):
        stages.append(UNATTRIBUTED)
    if not stages:
        return None

    def draw(axes: Axes) -> None:
        thick = 0.38
        for offset, (path, found) in zip((-thick / 2, thick / 2), medians.items(), strict=False):
            places = [number + offset for number in range(len(stages))]
            values = [found.get(stage, 0.0) / 1000 for stage in stages]
            axes.barh(places, values, height=thick, label=PATH_NAMES[path], color=PATH_COLOURS[path])
            for place, value, stage in zip(places, values, stages, strict=True):
                words = milliseconds(1000 * value) if stage in found else "not traced"
                axes.annotate(words, (value, place), xytext=(3, 0), va="center", **_BESIDE)
        axes.set_yticks(range(len(stages)), stages)
        axes.invert_yaxis()
        axes.grid(visible=False, axis="y")
        longest = max(
            (
                value
                for one in (pair, *beside)
                for path in PATH_NAMES
                for value in stage_medians(one.tries(path)).values()
            ),
            default=0.0,
        )
        # Beside the longest bar there is its figure.
        axes.set_xlim(0, 1.2 * longest / 1000 or 1)
        axes.set_xlabel("median [ms]")
        _legend(axes)

    shown = "; ".join(
        f"{name}: {_enumerated(medians.get(path, {})) or 'no trace'}" for path, name in PATH_NAMES.items()
    )
    description = f"Median of each stage, {_title(pair)}. {shown}."
    return rendered(f"stages-{_slug(pair)}", description, draw, title=_title(pair))


def growth_plot(pairs: Sequence[Pair]) -> Plot | None:
    """Return p50 and p99 of both paths over the background policies; None for a single size, or without latencies.

    All pairs have the same scenario and Pods.
    """
    sizes = sorted({pair.policies for pair in pairs})
    lines = {
        (path, percent): [
            (pair.policies, estimate)
            for pair in pairs
            if (estimate := _quantile(pair, path, percent)) and estimate.low > 0 and estimate.high < math.inf
        ]
        for path in PATH_NAMES
        for percent in LEAST_TRIES
    }
    if len(sizes) < 2 or not any(lines.values()):
        return None

    def draw(axes: Axes) -> None:
        for (path, percent), found in lines.items():
            if not found:
                continue
            below = [(estimate.value - estimate.low) / 1000 for _, estimate in found]
            above = [(estimate.high - estimate.value) / 1000 for _, estimate in found]
            axes.errorbar(
                [policies for policies, _ in found],
                [estimate.value / 1000 for _, estimate in found],
                yerr=(below, above),
                label=f"{PATH_NAMES[path]} p{percent}",
                color=PATH_COLOURS[path],
                marker=PATH_MARKERS[path],
                markerfacecolor=PATH_COLOURS[path] if percent == 50 else "none",
                linestyle="-" if percent == 50 else ":",
                elinewidth=0.9,
            )
        axes.set_yscale("log")
        _number_ticks(axes.yaxis)
        axes.set_xscale("symlog", linthresh=next(size for size in sizes if size), linscale=1)
        axes.set_xticks(sizes, [f"{size:,}" for size in sizes])
        axes.minorticks_off()
        axes.margins(x=0.1)
        axes.set_xlabel("background policies [log]")
        axes.set_ylabel("latency [ms, log]")
        _legend(axes)

    first = pairs[0]
    title = f"{first.scenario}, {plural(first.pods, 'Pod', 'Pods')}"
    description = f"Latency over background policies, {title}; bars are 95 % confidence intervals."
    return rendered(f"growth-{first.scenario}-{first.pods}-pods", description, draw, title=title)


def ratio_plot(verdicts: Sequence[PairVerdict], percent: int) -> Plot | None:
    """Return nftables' quantile by eBPF's, with confidence intervals, of each scenario and size; None without any.

    A filled mark is within the aim, an open one isn't.
    """
    rows: list[str | PairVerdict] = []
    for scenario, verdicts_of_it in groupby(verdicts, key=lambda verdict: verdict.pair.scenario):
        rows += [scenario, *verdicts_of_it]
    found = {place: row.of(percent) for place, row in enumerate(rows) if isinstance(row, PairVerdict)}
    finite = {place: one for place, one in found.items() if one.ratio and one.ratio.high != math.inf}
    if not finite:
        return None

    def draw(axes: Axes) -> None:
        axes.set_xscale("log")
        axes.axvline(1, color=FAINT, linewidth=0.8)
        axes.axvline(AIM, color=INK, linewidth=1, linestyle="--")
        above: dict[str, Any] = {"xycoords": _across_figure(axes, axes.transAxes), "xytext": (0, 2)}
        axes.annotate("scenario, background policies", (0.01, 1), **above, **_BESIDE)
        for place, one in found.items():
            ratio = one.ratio
            if place not in finite or ratio is None:
                axes.annotate(one.outcome, (1, place), xytext=(4, 0), va="center", bbox=_BEHIND, **_BESIDE)
                continue
            axes.errorbar(
                ratio.value,
                place,
                xerr=[[ratio.value - ratio.low], [ratio.high - ratio.value]],
                color=INK,
                marker="o",
                markerfacecolor=INK if one.outcome == "within" else "none",
                elinewidth=1.2,
            )
        for place, row in enumerate(rows):
            if isinstance(row, str):
                axes.text(0.01, place, row, transform=_across_figure(axes, axes.transData), **_HEADING)
        axes.set_yticks(list(found), [f"{row.pair.policies:,}" for row in rows if isinstance(row, PairVerdict)])
        axes.tick_params(axis="y", length=0)
        axes.spines["left"].set_visible(False)
        axes.grid(visible=False, axis="y")
        axes.set_ylim(len(rows) - 0.4, -0.6)
        lowest = min(1.0, *(one.ratio.low for one in finite.values() if one.ratio))
        highest = max(AIM, *(one.ratio.high for one in finite.values() if one.ratio))
        axes.set_xlim(lowest / 1.15, highest * 1.15)
        axes.set_xticks(ticks := _ratio_ticks(lowest, highest), list(map(plain, ticks)))
        axes.minorticks_off()
        axes.set_xlabel(f"times as long as by eBPF [log]; dashed: {AIM:g}x")

    description = (
        f"Ratio of p{percent}, nftables by eBPF, of each scenario and number of background policies, "
        "with confidence intervals of 95 %."
    )
    title = f"p{percent}, nftables relative to eBPF"
    return rendered(f"ratio-p{percent}", description, draw, title=title, rows=len(rows))


def _seen(pair: Pair, path: DataPath) -> list[float]:
    """Return the latencies of a path in milliseconds, in ascending order, without those that aren't known."""
    return [latency / 1000 for latency in pair.latencies(path) if latency != math.inf]


def _quantile(pair: Pair, path: DataPath, percent: int) -> Estimate | None:
    found = pair.latencies(path)
    return quantile_estimate(found, percent) if len(found) >= LEAST_TRIES[percent] else None


def _enumerated(medians: dict[str, float]) -> str:
    return ", ".join(f"{stage} {duration(median)}" for stage, median in medians.items())


def _title(pair: Pair) -> str:
    return f"{pair.scenario}, {plural(pair.policies, 'policy', 'policies')}, {plural(pair.pods, 'Pod', 'Pods')}"


def _slug(pair: Pair) -> str:
    return f"{pair.scenario}-{pair.policies}-policies-{pair.pods}-pods"


def _ratio_ticks(lowest: float, highest: float) -> list[float]:
    """Return the ticks of a logarithmic axis of ratios, 1 and the aim among them."""
    exponents = range(math.floor(math.log10(lowest)), math.ceil(math.log10(highest)) + 1)
    spread = highest / lowest
    steps = (1, 1.5, 2, 3, 5, 7) if spread < 6 else (1, 2, 5) if spread < 200 else (1,)
    ticks = {AIM, *(step * 10.0**exponent for exponent in exponents for step in steps)}
    return sorted(tick for tick in ticks if lowest / _MARGIN <= tick <= highest * _MARGIN)


_BESIDE: dict[str, Any] = {"textcoords": "offset points", "fontsize": 8}
"""Of words beside a mark."""
_BEHIND = {"facecolor": SURFACE, "edgecolor": "none", "pad": 1.5}
"""Of words that cross lines of the grid."""
_HEADING: dict[str, Any] = {
    "va": "center",
    "fontsize": 9,
    "fontweight": "bold",
    "bbox": _BEHIND,
}
"""Of a heading."""


def _across_figure(axes: Axes, upward: Transform) -> Transform:
    """Return coordinates with x as a share of the figure's width, and y as `upward` has it."""
    from matplotlib.transforms import blended_transform_factory  # noqa: PLC0415

    return blended_transform_factory(axes.figure.transFigure, upward)


def _legend(axes: Axes) -> None:
    axes.legend(loc="lower left", bbox_to_anchor=(-0.02, 0.98), ncols=2, borderaxespad=0, handlelength=2.2)


def _number_ticks(axis: Axis) -> None:
    """Write the ticks of a logarithmic axis as plain numbers: 0.5, 1, 2, 5; at most about six of them."""
    from matplotlib.ticker import FuncFormatter, LogLocator, MaxNLocator, NullFormatter, NullLocator  # noqa: PLC0415

    low, high = axis.get_view_interval()
    decades = math.log10(high / low)
    if decades < 0.7:
        axis.set_major_locator(MaxNLocator(5))
    else:
        axis.set_major_locator(LogLocator(subs=(1, 2, 5) if decades < 2.2 else (1,)))
    axis.set_major_formatter(FuncFormatter(lambda value, _place: plain(value)))
    axis.set_minor_locator(NullLocator())
    axis.set_minor_formatter(NullFormatter())
