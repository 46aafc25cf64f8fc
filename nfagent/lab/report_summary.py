"""The verdict of a run in words: what stands at the top of the report."""

from __future__ import annotations

from collections.abc import Sequence

import msgspec

from nfagent.lab.report_verdict import AIM, Judgement, PairVerdict, judge, paired, worst
from nfagent.lab.report_words import PATH_NAMES, listed, plural, size_text
from nfagent.lab.samples import SCENARIOS, LabSamples, Series

_NOT_WITHIN: tuple[Judgement, ...] = ("not within", "not decided", "not known")


class Finding(msgspec.Struct, frozen=True):
    """What keeps a scenario from being within the aim, at one size."""

    judgement: Judgement
    text: str


class Summary(msgspec.Struct, frozen=True):
    """The top of a report.

    headline: one sentence
    findings: what is not within, not decided or not known, in this order
    gaps:     what the run lacks: tries, paths, scenarios; empty for a complete run
    verdicts: of each scenario and size
    """

    headline: str
    findings: tuple[Finding, ...]
    gaps: tuple[str, ...]
    verdicts: tuple[PairVerdict, ...]


def summarize(samples: LabSamples) -> Summary:
    """Return the verdict of a run."""
    verdicts = tuple(map(judge, paired(samples)))
    findings = tuple(
        Finding(judgement, _finding(verdict))
        for judgement in _NOT_WITHIN
        for verdict in verdicts
        if verdict.judgement == judgement
    )
    return Summary(_headline(verdicts), findings, tuple(_gaps(samples)), verdicts)


def _headline(verdicts: Sequence[PairVerdict]) -> str:
    if not verdicts:
        return "Nothing was measured, so nothing is known about netfilter and eBPF."
    of_scenario: dict[str, Judgement] = {}
    for scenario in SCENARIOS:
        found = [verdict.judgement for verdict in verdicts if verdict.pair.scenario == scenario]
        of_scenario[scenario] = worst(found)
    counts = {
        judgement: sum(1 for found in of_scenario.values() if found == judgement)
        for judgement in ("within", *_NOT_WITHIN)
    }
    whole = len(SCENARIOS)
    if counts["within"] == whole:
        return f"Netfilter is within {AIM:g}x of eBPF in all {whole} scenarios: p50 and p99, at every size measured."
    others = listed([f"{judgement} in {counts[judgement]}" for judgement in _NOT_WITHIN if counts[judgement]])
    return (
        f"Netfilter is within {AIM:g}x of eBPF (p50 and p99, at every size measured) "
        f"in {counts['within']} of {whole} scenarios; {others}."
    )


def _finding(verdict: PairVerdict) -> str:
    pair = verdict.pair
    causes = "; ".join(str(quantile) for quantile in verdict.quantiles if quantile.judgement != "within")
    return f"{pair.scenario}, {size_text(pair.policies, pair.pods)}: {causes}."


def _gaps(samples: LabSamples) -> list[str]:
    """Return what the run lacks, as sentences."""
    found = [f"The run ended before its last try: {samples.incomplete}."] if samples.incomplete else []
    measured = {series.scenario for series in samples.series if series.tries}
    if missing := [scenario for scenario in SCENARIOS if scenario not in measured]:
        found.append(f"Not measured: {listed(missing)}.")
    for pair in paired(samples):
        where = f"{pair.scenario}, {size_text(pair.policies, pair.pods)}"
        found += [
            f"{where}: only one path was measured, and not {name}."
            for path, name in PATH_NAMES.items()
            if pair.scenario in measured and not pair.tries(path)
        ]
    return [*found, *filter(None, (_shortfall(series, samples.settings.tries) for series in samples.series))]


def _shortfall(series: Series, wanted: int) -> str:
    """Return what a series lacks, '' where it lacks nothing."""
    late = sum(1 for one in series.tries if one.latency_us is None)
    lacks = []
    if 0 < len(series.tries) < wanted:
        lacks.append(f"only {len(series.tries):,} of {plural(wanted, 'try', 'tries')}")
    if late:
        lacks.append(f"{late:,} of {plural(len(series.tries), 'try', 'tries')} timed out")
    size = size_text(series.policies, series.pods)
    return f"{series.scenario}, {size}, {PATH_NAMES[series.path]}: {listed(lacks)}." if lacks else ""
