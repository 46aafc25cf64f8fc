"""Whether a change takes effect by netfilter within twice the time that it takes by eBPF.

What isn't known is never counted as within: too few tries, a missing path, a deadline that passed.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from typing import Literal, TypeAlias

import msgspec

from nfagent.lab.latency.quantiles import latencies, quantile
from nfagent.lab.latency.samples import SCENARIOS, STAGES, DataPath, LabSamples, ScenarioName, Series, Try
from nfagent.lab.report.statistics import Estimate, ratio_estimate
from nfagent.lab.report.words import PATH_NAMES, STAGE_NAMES, UNATTRIBUTED, milliseconds, plural, ratio_text

AIM = 2.0
"""A ratio up to this is within the aim."""

LEAST_TRIES = {50: 20, 99: 100}
"""Percent -> tries of a path from which on the quantile says anything: one of a hundred is the 99th percentile."""

_SLOWEST = 20
"""The stage that costs p99 is looked for in the slowest twentieth of the tries, of at least this many."""

Outcome: TypeAlias = Literal["within", "not within", "not decided", "not known"]
"""`not decided`: the confidence interval has the aim inside."""


class Pair(msgspec.Struct, frozen=True, kw_only=True):
    """One scenario at one size: the tries of both paths, none where the path wasn't measured."""

    scenario: ScenarioName
    policies: int
    pods: int
    nftables: Sequence[Try] = ()
    ebpf: Sequence[Try] = ()

    def tries(self, path: DataPath) -> Sequence[Try]:
        """Return the tries of a path."""
        return self.nftables if path == "nftables" else self.ebpf

    def latencies(self, path: DataPath) -> list[float]:
        """Return the latencies of a path in microseconds, in ascending order; infinity for a deadline that passed."""
        return latencies(one.latency_us for one in self.tries(path))


class RatioVerdict(msgspec.Struct, frozen=True, kw_only=True):
    """The verdict about one quantile.

    ratio:    netfilter's quantile by eBPF's; None where it isn't known
    reason:   why it isn't known, or isn't decided
    stage:    where it isn't within: the stage whose median is longest beyond eBPF's, '' where the trace doesn't show it
    stage_us: by how much
    """

    percent: int
    outcome: Outcome
    ratio: Estimate | None = None
    reason: str = ""
    stage: str = ""
    stage_us: float = 0.0

    @property
    def words(self) -> str:
        """The verdict in words: `3.10x (2.50 to 3.90), costliest stage: commit, 1.20 ms longer`."""
        parts = [ratio_text(self.ratio)]
        if self.ratio is not None and self.ratio.low == math.inf:
            parts.append("its tries timed out")
        if self.reason:
            parts.append(self.reason)
        if self.stage:
            parts.append(f"costliest stage: {self.stage}, {milliseconds(self.stage_us)} ms longer")
        elif self.outcome == "not within":
            parts.append("the trace doesn't show which stage costs it")
        return ", ".join(parts)


class PairVerdict(msgspec.Struct, frozen=True):
    """The verdict about one scenario at one size."""

    pair: Pair
    quantiles: tuple[RatioVerdict, ...]

    @property
    def outcome(self) -> Outcome:
        """The verdict about all quantiles: the worst of them."""
        return worst(verdict.outcome for verdict in self.quantiles)

    def of(self, percent: int) -> RatioVerdict:
        """Return the verdict about one of the quantiles."""
        return next(verdict for verdict in self.quantiles if verdict.percent == percent)


def paired(samples: LabSamples) -> list[Pair]:
    """Return what was measured, by scenario and size."""
    found: dict[tuple[int, int, int], dict[DataPath, Series]] = {}
    for series in samples.series:
        key = (SCENARIOS.index(series.scenario), series.pods, series.policies)
        found.setdefault(key, {})[series.path] = series
    return [
        Pair(
            scenario=SCENARIOS[scenario],
            policies=policies,
            pods=pods,
            **{path: tuple(series.tries) for path, series in paths.items()},
        )
        for (scenario, pods, policies), paths in sorted(found.items())
    ]


def judge(pair: Pair) -> PairVerdict:
    """Return the verdict about a pair: of its p50 and its p99."""
    return PairVerdict(pair, tuple(_judge(pair, percent) for percent in LEAST_TRIES))


def worst(outcomes: Iterable[Outcome]) -> Outcome:
    """Return what holds for all of them together; `not known` where there are none."""
    found = set(outcomes)
    order: tuple[Outcome, ...] = ("not within", "not known", "not decided", "within")
    return next((outcome for outcome in order if outcome in found), "not known")


def stage_medians(tries: Iterable[Try]) -> dict[str, float]:
    """Return the median of each stage that any of the tries has, in microseconds, in the stages' order.

    Last stands what tries took beyond their stages, if they have stages at all. Tries without a latency don't count.
    """
    finished = [one for one in tries if one.latency_us is not None]
    found = {
        STAGE_NAMES[stage]: [one.stages_us[stage] for one in finished if stage in one.stages_us] for stage in STAGES
    }
    found[UNATTRIBUTED] = [
        max(0.0, one.latency_us - sum(one.stages_us.values()))
        for one in finished
        if one.latency_us is not None and one.stages_us
    ]
    return {stage: quantile(sorted(values), 50) for stage, values in found.items() if values}


def _judge(pair: Pair, percent: int) -> RatioVerdict:
    ours, theirs = pair.latencies("nftables"), pair.latencies("ebpf")
    if reason := _unknown(ours, theirs, percent):
        return RatioVerdict(percent=percent, outcome="not known", reason=reason)
    ratio = ratio_estimate(ours, theirs, percent)
    if ratio is None:
        return RatioVerdict(percent=percent, outcome="not known", reason="eBPF's quantile is 0")
    stage, longer = _costly_stage(pair, percent)
    if ratio.low > AIM:
        return RatioVerdict(percent=percent, outcome="not within", ratio=ratio, stage=stage, stage_us=longer)
    # A ratio below the aim says nothing while some changes took effect too late to be seen.
    if late := _late(ours):
        return RatioVerdict(percent=percent, outcome="not known", ratio=ratio, reason=f"{late} on nftables")
    if ratio.high <= AIM:
        return RatioVerdict(percent=percent, outcome="within", ratio=ratio)
    reason = f"{AIM:g}x is inside the confidence interval"
    return RatioVerdict(
        percent=percent, outcome="not decided", ratio=ratio, reason=reason, stage=stage, stage_us=longer
    )


def _unknown(ours: Sequence[float], theirs: Sequence[float], percent: int) -> str:
    """Return why nothing can be said about a quantile, '' where something can."""
    for name, found in ((PATH_NAMES["nftables"], ours), (PATH_NAMES["ebpf"], theirs)):
        if not found:
            return f"{name} was not measured"
        if len(found) < LEAST_TRIES[percent]:
            return f"only {plural(len(found), 'try', 'tries')} on {name}, {LEAST_TRIES[percent]} are needed"
    return f"{late} on eBPF" if (late := _late(theirs)) else ""


def _late(found: Sequence[float]) -> str:
    count = sum(1 for latency in found if latency == math.inf)
    return f"{count} of {plural(len(found), 'try', 'tries')} timed out" if count else ""


def _costly_stage(pair: Pair, percent: int) -> tuple[str, float]:
    """Return the stage whose median is longest beyond eBPF's, and by how much; '' where none is."""
    ours, theirs = (stage_medians(_deciding(pair.tries(path), percent)) for path in ("nftables", "ebpf"))
    if not ours or not theirs:
        return "", 0.0
    # A stage that only one trace has is part of what the other one has outside its stages.
    longer = {stage: ours.get(stage, 0.0) - theirs.get(stage, 0.0) for stage in {**ours, **theirs}}
    stage = max(longer, key=lambda stage: longer[stage])
    return (stage, longer[stage]) if longer[stage] > 0 else ("", 0.0)


def _deciding(tries: Sequence[Try], percent: int) -> Sequence[Try]:
    """Return the tries that decide a quantile: all for the median, the slowest for p99."""
    finished = sorted(
        (one for one in tries if one.latency_us is not None), key=lambda one: one.latency_us or 0.0, reverse=True
    )
    return finished if percent == 50 else finished[: max(_SLOWEST, len(finished) // 20)]
