"""Two runs next to each other: another version, another machine, another kernel."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Literal, TypeAlias

import msgspec

from nfagent.lab.latency.quantiles import latencies
from nfagent.lab.latency.samples import SCENARIOS, DataPath, LabSamples, ScenarioName, Series
from nfagent.lab.report.rates import RateChange, rate_changes
from nfagent.lab.report.statistics import Estimate, ratio_estimate
from nfagent.lab.report.verdict import LEAST_TRIES
from nfagent.lab.report.words import PATH_NAMES, listed, plural, ratio_text

Change: TypeAlias = Literal["shorter", "longer", "no difference shown", "not known"]
"""What B's latency is, next to A's; a difference is shown where the confidence interval leaves out 1."""


class QuantileChange(msgspec.Struct, frozen=True):
    """A quantile of B by the same one of A; `reason` says why it isn't known."""

    percent: int
    change: Change
    ratio: Estimate | None = None
    reason: str = ""

    def __str__(self) -> str:
        """Return it in words: `0.81x (0.77 to 0.86), shorter`."""
        return f"not known: {self.reason}" if self.ratio is None else f"{ratio_text(self.ratio)}, {self.change}"


class SeriesChange(msgspec.Struct, frozen=True):
    """The changes of one scenario, size and path: of its p50 and its p99."""

    scenario: ScenarioName
    policies: int
    pods: int
    path: DataPath
    quantiles: tuple[QuantileChange, ...]


class Comparison(msgspec.Struct, frozen=True):
    """Two runs, A and B.

    headline:    one sentence
    differences: what else differs between the runs: machine, kernel, versions, settings
    gaps:        why a run is incomplete
    """

    headline: str
    differences: tuple[str, ...]
    gaps: tuple[str, ...]
    changes: tuple[SeriesChange, ...]
    rates: tuple[RateChange, ...] = ()


def compare(a: LabSamples, b: LabSamples) -> Comparison:
    """Return how long changes take in B, by how long they take in A."""
    before, after = _by_key(a), _by_key(b)
    # Two runs of other scenarios have no row to show, and what differs tells why.
    disjoint = bool(before and after) and not before.keys() & after.keys()
    keys = {} if disjoint else {**before, **after}
    changes = tuple(
        SeriesChange(
            SCENARIOS[key[0]],
            policies=key[2],
            pods=key[1],
            path=key[3],
            quantiles=tuple(_change(before.get(key), after.get(key), percent) for percent in LEAST_TRIES),
        )
        for key in sorted(keys, key=lambda key: (*key[:3], list(PATH_NAMES).index(key[3])))
    )
    gaps = tuple(f"{name} ended before its last try: {run.incomplete}." for name, run in _named(a, b) if run.incomplete)
    headline = "The runs have no scenario and size in common." if disjoint else _headline(changes)
    return Comparison(headline, tuple(_differences(a, b)), gaps, changes, rate_changes(a.rates, b.rates))


_Key: TypeAlias = tuple[int, int, int, DataPath]


def _named(a: LabSamples, b: LabSamples) -> tuple[tuple[str, LabSamples], tuple[str, LabSamples]]:
    return ("A", a), ("B", b)


def _by_key(samples: LabSamples) -> dict[_Key, Series]:
    return {
        (SCENARIOS.index(series.scenario), series.pods, series.policies, series.path): series
        for series in samples.series
    }


def _change(before: Series | None, after: Series | None, percent: int) -> QuantileChange:
    found: list[list[float]] = []
    for name, series in (("A", before), ("B", after)):
        ascending = latencies(one.latency_us for one in series.tries) if series else []
        late = sum(1 for latency in ascending if latency == math.inf)
        reason = ""
        if not ascending:
            reason = f"not measured in {name}"
        elif len(ascending) < LEAST_TRIES[percent]:
            reason = f"only {plural(len(ascending), 'try', 'tries')} in {name}"
        elif late:
            reason = f"{late} of {plural(len(ascending), 'try', 'tries')} in {name} timed out"
        if reason:
            return QuantileChange(percent, "not known", reason=reason)
        found.append(ascending)
    ratio = ratio_estimate(found[1], found[0], percent)
    if ratio is None:
        return QuantileChange(percent, "not known", reason="A's quantile is 0")
    if ratio.high < 1:
        return QuantileChange(percent, "shorter", ratio)
    return QuantileChange(percent, "longer" if ratio.low > 1 else "no difference shown", ratio)


def _headline(changes: Sequence[SeriesChange]) -> str:
    if not changes:
        return "Neither run measured anything."
    words = []
    for path, name in PATH_NAMES.items():
        found = [quantile.change for change in changes if change.path == path for quantile in change.quantiles]
        kinds: tuple[Change, ...] = ("shorter", "longer", "no difference shown", "not known")
        counted = listed([f"{kind} in {found.count(kind)}" for kind in kinds if kind in found])
        if found:
            words.append(f"{name}: {counted} of {len(found)}")
    return f"Latencies of B next to A, of p50 and p99 of each scenario and size. {'; '.join(words)}."


def _differences(a: LabSamples, b: LabSamples) -> list[str]:
    """Return what else differs, one `what: A's value, B's value` each."""
    ours, theirs = _circumstances(a), _circumstances(b)
    return [
        f"{what}: {ours.get(what) or 'not known'} in A, {theirs.get(what) or 'not known'} in B"
        for what in {**ours, **theirs}
        if ours.get(what) != theirs.get(what)
    ]


def _circumstances(samples: LabSamples) -> dict[str, str]:
    machine = {name.replace("_", " "): str(value) for name, value in msgspec.structs.asdict(samples.machine).items()}
    settings = {name.replace("_", " "): str(value) for name, value in msgspec.structs.asdict(samples.settings).items()}
    versions = {f"version of {name}": version for name, version in samples.versions.items()}
    return {"driver": samples.driver, **machine, **versions, **settings}
