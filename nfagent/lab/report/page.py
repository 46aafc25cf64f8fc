"""The report as one HTML page that loads nothing: style and plots are in it."""

from __future__ import annotations

import math
import shlex
from collections.abc import Mapping, Sequence
from importlib.resources import files

from nfagent.lab.latency.quantiles import quantile
from nfagent.lab.latency.samples import LabSamples, Try
from nfagent.lab.report.comparison import Comparison
from nfagent.lab.report.drawing import Plot
from nfagent.lab.report.markup import Markup, element, facts, items, joined, table
from nfagent.lab.report.rates import RATE_CHANGE_HEADER, RATE_HEADER, rate_rows
from nfagent.lab.report.statistics import CONFIDENCE
from nfagent.lab.report.summary import Summary
from nfagent.lab.report.verdict import AIM, LEAST_TRIES, Pair, PairVerdict, RatioVerdict
from nfagent.lab.report.words import PATH_NAMES, milliseconds, plural, ratio_text

_PERCENTS = (50, 95, 99)
_RATE_CAPTION = "Median and range; more is better for throughput and connections, less for CPU time and memory"


def report_page(
    samples: LabSamples, summary: Summary, overview: Sequence[Plot], plots: Mapping[str, Sequence[Sequence[Plot]]]
) -> str:
    """Return the page of a run; `plots` are by scenario, in rows."""
    scenarios = list(dict.fromkeys(verdict.pair.scenario for verdict in summary.verdicts))
    pairs = [verdict.pair for verdict in summary.verdicts]
    about = (
        f"Lab {samples.lab}, driver {samples.driver}, started {samples.started}, {samples.seconds / 60:,.1f} minutes."
    )
    contents = [element("a", name, href=f"#{name}") for name in (*scenarios, "rates", "machine", "method")]
    return _page(
        "Change to first packet: nftables and eBPF",
        _headed("header", summary.headline, about, summary.gaps),
        _findings(summary),
        element("nav", items(contents), aria_label="Contents"),
        element("section", element("h2", "Ratios"), _ratio_table(summary.verdicts), _figures(overview)),
        *(
            element(
                "section",
                element("h2", scenario),
                _latency_table(scenario, [pair for pair in pairs if pair.scenario == scenario]),
                *map(_figures, plots.get(scenario, ())),
                id=scenario,
            )
            for scenario in scenarios
        ),
        element("section", element("h2", "Rates and memory"), _rates(samples), id="rates"),
        element("section", element("h2", "Machine, versions, settings"), *_circumstances(samples), id="machine"),
        element("section", element("h2", "Method"), *_method(), id="method"),
    )


def comparison_page(comparison: Comparison, runs: Sequence[tuple[str, str, LabSamples]]) -> str:
    """Return the page of a comparison; `runs` are A and B: letter, file and samples."""
    about = "; ".join(f"{letter}: {file}, started {samples.started}" for letter, file, samples in runs)
    rows = [
        (
            change.scenario,
            f"{change.policies:,}",
            f"{change.pods:,}",
            PATH_NAMES[change.path],
            *map(str, change.quantiles),
        )
        for change in comparison.changes
    ]
    header = ("scenario", "policies", "Pods", "path", *(f"p{percent}, B by A" for percent in LEAST_TRIES))
    differences = comparison.differences or (
        "Nothing that the samples tell: machine, versions and settings are equal.",
    )
    return _page(
        "Change to first packet: two runs",
        _headed("header", comparison.headline, about, comparison.gaps),
        element(
            "section",
            element("h2", "Latencies"),
            table("Ratio of B's latency to A's, with its confidence interval of 95 %", header, rows, names=4),
        ),
        element("section", element("h2", "Rates and memory"), _rate_changes(comparison)),
        element("section", element("h2", "What else differs"), items(differences)),
        *(
            element("section", element("h2", f"Run {letter}: {file}"), *_circumstances(samples))
            for letter, file, samples in runs
        ),
    )


def _page(title: str, *content: Markup) -> str:
    style = files("nfagent.lab.report").joinpath("style.css").read_text("utf-8")
    head = element(
        "head",
        Markup('<meta charset="utf-8"><meta name="viewport" content="width=device-width, initial-scale=1">'),
        element("title", title),
        element("style", Markup(style)),
    )
    body = element("body", element("main", *content))
    return f"<!doctype html>\n{element('html', head, body, lang='en')}\n"


def _headed(tag: str, headline: str, about: str, gaps: Sequence[str]) -> Markup:
    parts = [
        element("h1", "Change to first packet"),
        element("p", headline, class_="headline"),
        element("p", about, class_="about"),
    ]
    if gaps:
        parts.insert(1, element("section", element("h2", "This run is not complete"), items(gaps), class_="gaps"))
    return element(tag, *parts)


def _findings(summary: Summary) -> Markup:
    if not summary.findings:
        return Markup()
    entries = [joined([_judged(finding.outcome), ": ", finding.text]) for finding in summary.findings]
    return element(
        "section", element("h2", f"Not within {AIM:g}x, or not known to be"), items(entries), class_="findings"
    )


def _judged(outcome: str) -> Markup:
    return element("span", outcome, class_=outcome.replace(" ", "-"))


def _ratio_table(verdicts: Sequence[PairVerdict]) -> Markup:
    sizes = _Sizes([verdict.pair for verdict in verdicts])
    rows = [
        (verdict.pair.scenario, *sizes.cells(verdict.pair), *map(_ratio_cell, verdict.quantiles))
        for verdict in verdicts
    ]
    header = ("scenario", *sizes.header, *(f"p{percent}" for percent in LEAST_TRIES))
    caption = f"Latency by nftables as a multiple of that by eBPF, with its confidence interval of {CONFIDENCE:.0%}"
    return table(caption + sizes.remark, header, rows)


def _ratio_cell(verdict: RatioVerdict) -> Markup:
    """Return a ratio, its interval and the verdict; a narrow page breaks the line between them only."""
    judged = _judged(verdict.outcome)
    if verdict.ratio is None:
        return judged
    value, _, interval = ratio_text(verdict.ratio).partition(" ")
    return joined([element("span", value), " ", element("span", interval), " ", judged])


def _latency_table(scenario: str, pairs: Sequence[Pair]) -> Markup:
    sizes = _Sizes(pairs)
    by_apiserver = any(one.write_us is not None for pair in pairs for path in PATH_NAMES for one in pair.tries(path))
    rows = []
    for pair in pairs:
        for path, name in PATH_NAMES.items():
            found = pair.latencies(path)
            figures = [_latency_cell(found, percent) for percent in (*_PERCENTS, 100)]
            late = sum(1 for latency in found if latency == math.inf)
            named = element("span", name, class_=f"path-{path}")
            writes = [_write_cell(pair.tries(path))] if by_apiserver else []
            rows.append((*sizes.cells(pair), named, *figures, *writes, f"{len(found):,}", f"{late:,}"))
    quantiles = (*(f"p{percent}" for percent in _PERCENTS), "max")
    writes = ["API write p50"] if by_apiserver else []
    header = (*sizes.header, "path", *quantiles, *writes, "tries", "timed out")
    return table(f"{scenario}: latency in ms{sizes.remark}", header, rows, names=1 + len(sizes.header))


def _write_cell(tries: Sequence[Try]) -> str:
    """Return the median of the API server's part: from the request sent until its response was read."""
    found = sorted(one.write_us for one in tries if one.write_us is not None)
    return milliseconds(quantile(found, 50)) if found else "not known"


def _latency_cell(found: Sequence[float], percent: int) -> str:
    """Return a quantile, where there are so many tries that it isn't the maximum; 100 is the maximum."""
    if not found:
        return "not measured"
    if percent < 100 and len(found) * (100 - percent) < 100:
        return "too few"
    return milliseconds(quantile(found, percent))


class _Sizes:
    """The columns of sizes in a table; Pods have none where all rows have as many.

    remark: the Pods of all rows, for the caption
    """

    def __init__(self, pairs: Sequence[Pair]) -> None:
        pods = {pair.pods for pair in pairs}
        self._same_pods = len(pods) == 1
        self.header = ("policies",) if self._same_pods else ("policies", "Pods")
        self.remark = f"; {plural(pods.pop(), 'Pod', 'Pods')}" if self._same_pods else ""

    def cells(self, pair: Pair) -> tuple[str, ...]:
        """Return the sizes of a row."""
        return (f"{pair.policies:,}",) if self._same_pods else (f"{pair.policies:,}", f"{pair.pods:,}")


def _figures(plots: Sequence[Plot]) -> Markup:
    figures = [element("figure", Markup(plot.svg.replace("<svg ", f"<svg {_described(plot)} ", 1))) for plot in plots]
    return element("div", *figures, class_="plots") if figures else Markup()


def _described(plot: Plot) -> str:
    opening = element("i", role="img", aria_label=plot.description)
    return opening[len("<i ") : -len("></i>")]


def _rates(samples: LabSamples) -> Markup:
    if not samples.rates:
        return element("p", "Not measured in this run.")
    return table(_RATE_CAPTION, RATE_HEADER, rate_rows(samples.rates), names=3)


def _rate_changes(comparison: Comparison) -> Markup:
    if not comparison.rates:
        return element("p", "Not measured in either run.")
    return table(_RATE_CAPTION, RATE_CHANGE_HEADER, (change.row for change in comparison.rates), names=4)


def _circumstances(samples: LabSamples) -> tuple[Markup, ...]:
    machine, settings = samples.machine, samples.settings
    unknown = "not known"
    pairs = [
        ("CPU", f"{plural(machine.cores, 'core', 'cores')} of {machine.cpu or unknown}"),
        ("memory", f"{machine.memory_bytes / 2**30:,.1f} GiB"),
        ("kernel", machine.kernel or unknown),
        ("system", machine.os or unknown),
        ("virtualization", machine.virtualization or unknown),
        *((name, version or unknown) for name, version in samples.versions.items()),
        ("nodes", f"{settings.nodes:,}, with {plural(settings.pods_per_node, 'Pod', 'Pods')} each"),
        ("attachment", settings.attachment),
        ("source", settings.source),
        ("tries", f"{settings.tries:,} of each series, after {settings.warmup:,} to warm up"),
        ("probe", f"a packet each {settings.probe_interval_us:g} µs"),
        ("seed", str(settings.seed)),
    ]
    command = element("pre", element("code", shlex.join(samples.command)), tabindex="0")
    return facts(pairs), element("p", "The command that made the samples:"), command


def _method() -> tuple[Markup, ...]:
    stages = [
        ("source", "from the change sent (rename, API request) until the agent has received its event"),
        ("decode", "until the objects are decoded and applied"),
        ("compile", "until the commands for the kernel are computed"),
        ("commit", "until the kernel has taken them"),
        (
            "first packet",
            (
                "until the first packet with the new verdict was sent, so the probe's interval is part of it; "
                "0 where a packet met the new rules before the agent heard that the kernel has them"
            ),
        ),
        ("outside the trace", "what a try took beyond its stages"),
        (
            "API write",
            "from the request sent until the API server's response was read; the first packet may be earlier",
        ),
    ]
    confidence = (
        f"Confidence intervals are those of the bootstrap, at {CONFIDENCE:.0%}. The 99th percentile of 200 tries rests "
        "on the three slowest; its interval can't reach beyond the slowest one."
    )
    judged = (
        f"Within: the whole interval is at or below {AIM:g}x. Not within: all of it is above. Not decided: {AIM:g}x is "
        f"inside. Not known: fewer tries than {LEAST_TRIES[50]} for p50 or {LEAST_TRIES[99]} for p99, a path that was "
        "not measured, or a deadline that passed. A try that timed out counts as longer than every other one."
    )
    costly = (
        "The stage named is the one whose median is longest beyond eBPF's: of all tries for p50, of the slowest "
        "twentieth, but at least 20, for p99. Medians of stages don't add up to the median of their sum."
    )
    return (facts(stages), *(element("p", words) for words in (confidence, judged, costly)))
