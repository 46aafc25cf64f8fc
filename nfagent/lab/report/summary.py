"""The verdict of a run in words: what stands at the top of the report."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import msgspec

from nfagent.lab.latency.samples import SCENARIOS, LabSamples, Try
from nfagent.lab.report.places import Place, PlacesByText
from nfagent.lab.report.verdict import AIM, Outcome, Pair, PairVerdict, judge, paired, worst
from nfagent.lab.report.words import PATH_NAMES, listed, plural

_NOT_WITHIN: tuple[Outcome, ...] = ("not within", "not decided", "not known")


class Finding(msgspec.Struct, frozen=True):
    """What keeps scenarios from being within the aim, at some of the sizes."""

    outcome: Outcome
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
        Finding(outcome, f"{text}.")
        for outcome in _NOT_WITHIN
        for text in _causes([verdict for verdict in verdicts if verdict.outcome == outcome])
    )
    return Summary(_headline(verdicts), findings, tuple(_gaps(samples)), verdicts)


def _causes(verdicts: Sequence[PairVerdict]) -> list[str]:
    """Return what keeps verdicts from being within the aim, each cause once."""
    causes = _places_by_text([verdict.pair for verdict in verdicts])
    for verdict in verdicts:
        causes.add(_cause(verdict), _place(verdict.pair))
    return causes.lines()


def _cause(verdict: PairVerdict) -> str:
    percents: dict[str, list[str]] = {}
    for quantile in verdict.quantiles:
        if quantile.outcome != "within":
            percents.setdefault(quantile.words, []).append(f"p{quantile.percent}")
    return "; ".join(f"{listed(names)} {words}" for words, names in percents.items())


def _headline(verdicts: Sequence[PairVerdict]) -> str:
    if not verdicts:
        return "Nothing was measured, so nothing is known about netfilter and eBPF."
    of_scenario: dict[str, Outcome] = {}
    for scenario in SCENARIOS:
        found = [verdict.outcome for verdict in verdicts if verdict.pair.scenario == scenario]
        of_scenario[scenario] = worst(found)
    counts = {
        outcome: sum(1 for found in of_scenario.values() if found == outcome) for outcome in ("within", *_NOT_WITHIN)
    }
    whole = len(SCENARIOS)
    if counts["within"] == whole:
        return f"Netfilter is within {AIM:g}x of eBPF in all {whole} scenarios: p50 and p99, at every size measured."
    others = listed([f"{outcome} in {counts[outcome]}" for outcome in _NOT_WITHIN if counts[outcome]])
    return (
        f"Netfilter is within {AIM:g}x of eBPF (p50 and p99, at every size measured) "
        f"in {counts['within']} of {whole} scenarios; {others}."
    )


def _gaps(samples: LabSamples) -> list[str]:
    """Return what the run lacks, as sentences."""
    found = [f"The run ended before its last try: {samples.incomplete}."] if samples.incomplete else []
    measured = {series.scenario for series in samples.series if series.tries}
    if missing := [scenario for scenario in SCENARIOS if scenario not in measured]:
        found.append(f"Not measured: {listed(missing)}.")
    pairs = [pair for pair in paired(samples) if pair.scenario in measured]
    lacks = _places_by_text(pairs)
    for pair in pairs:
        for path, name in PATH_NAMES.items():
            for lack in _lacks(pair.tries(path), samples.settings.tries):
                lacks.add(f"{lack} on {name}", _place(pair))
    return [*found, *(f"{line}." for line in lacks.lines())]


def _lacks(tries: Sequence[Try], wanted: int) -> Iterator[str]:
    """Return what the tries of a path lack, if anything."""
    if not tries:
        yield "nothing was measured"
    elif len(tries) < wanted:
        yield f"only {len(tries):,} of {plural(wanted, 'try', 'tries')}"
    if late := sum(1 for one in tries if one.latency_us is None):
        yield f"{late:,} of {plural(len(tries), 'try', 'tries')} timed out"


def _places_by_text(pairs: Sequence[Pair]) -> PlacesByText:
    return PlacesByText(several_pods=len({pair.pods for pair in pairs}) > 1)


def _place(pair: Pair) -> Place:
    return Place(pair.scenario, pair.policies, pair.pods)
