"""Two runs next to each other."""

from __future__ import annotations

from collections.abc import Sequence

import msgspec
import pytest

from nfagent.lab.latency.samples import LabSamples, Series, Try
from nfagent.lab.report.comparison import Change, compare
from tests.support.latency_samples import even_tries, latency_samples, whole_run


def run(tries: Sequence[Try] | None) -> LabSamples:
    """Return a run with these tries as its only series, or without any."""
    return latency_samples([] if tries is None else [Series("policy-created", 0, 10, "nftables", list(tries))])


@pytest.mark.parametrize(
    ("a", "b", "p50", "p99"),
    [
        (even_tries(1000), even_tries(900), "shorter", "shorter"),
        (even_tries(1000), even_tries(1100), "longer", "longer"),
        (even_tries(1000), even_tries(1000), "no difference shown", "no difference shown"),
        (even_tries(1000, spread_us=900), even_tries(1010, spread_us=900), *["no difference shown"] * 2),
        (even_tries(1010, spread_us=900), even_tries(1000, spread_us=900), *["no difference shown"] * 2),
        (even_tries(1000), even_tries(1100, 99), "longer", "not known"),
        (even_tries(1000), even_tries(1100, 19), "not known", "not known"),
        (even_tries(1000), [*even_tries(1100, 199), Try(None, {})], "not known", "not known"),
        ([*even_tries(1000, 199), Try(None, {})], even_tries(900), "not known", "not known"),
        (even_tries(1000), None, "not known", "not known"),
        (None, even_tries(1000), "not known", "not known"),
        (even_tries(0, spread_us=0), even_tries(1000), "not known", "not known"),
    ],
    ids=[
        "shorter by a tenth",
        "longer by a tenth",
        "equal",
        "longer by less than chance",
        "shorter by less than chance",
        "too few tries in B for p99",
        "too few tries in B",
        "a try that timed out in B",
        "a try that timed out in A",
        "not measured in B",
        "not measured in A",
        "no time at all in A",
    ],
)
def test_each_quantile_is_compared(a: Sequence[Try] | None, b: Sequence[Try] | None, p50: Change, p99: Change) -> None:
    (change,) = compare(run(a), run(b)).changes
    assert [quantile.change for quantile in change.quantiles] == [p50, p99]
    for quantile in change.quantiles:
        assert bool(quantile.reason) == (quantile.change == "not known")
        assert (quantile.ratio is None) == (quantile.change == "not known")


def test_every_series_of_either_run_is_in_the_comparison() -> None:
    a = whole_run(scenarios=("policy-created", "pod-relabelled"), sizes=(0,))
    b = whole_run(scenarios=("policy-created", "ip-block-10000"), sizes=(0,))
    found = [(change.scenario, change.path) for change in compare(a, b).changes]
    assert found == [
        (scenario, path)
        for scenario in ("policy-created", "pod-relabelled", "ip-block-10000")
        for path in ("nftables", "ebpf")
    ]


def test_runs_of_other_scenarios_are_not_compared_row_by_row() -> None:
    a, b = whole_run(scenarios=("policy-created",), sizes=(0,)), whole_run(scenarios=("pod-relabelled",), sizes=(0,))
    found = compare(a, b)
    assert (found.headline, found.changes) == ("The runs have no scenario and size in common.", ())


def test_the_headline_counts_by_path() -> None:
    a, b = (whole_run(scenarios=("policy-created",), sizes=(0,), slower=slower) for slower in (1, 30))
    headline = compare(a, b).headline
    assert "nftables: longer in 2 of 2" in headline
    assert "eBPF: longer in 2 of 2" in headline


def test_what_else_differs_is_said() -> None:
    a = run(None)
    b = msgspec.structs.replace(
        a,
        machine=msgspec.structs.replace(a.machine, kernel="6.12.0", virtualization=""),
        versions={"nfagent": "0.1", "nft": "1.0.6", "python": "3.11.2", "clang": "14.0.6"},
        settings=msgspec.structs.replace(a.settings, attachment="bridge"),
    )
    assert compare(a, b).differences == (
        "kernel: 6.1.0-invented in A, 6.12.0 in B",
        "virtualization: kvm in A, not known in B",
        "version of nfagent: 0.0 in A, 0.1 in B",
        "version of libbpf: 1.1.0 in A, not known in B",
        "attachment: routed in A, bridge in B",
    )
    assert compare(a, a).differences == ()


def test_an_incomplete_run_is_named() -> None:
    whole, part = latency_samples([]), latency_samples([], incomplete="interrupted")
    assert compare(whole, part).gaps == ("B ended before its last try: interrupted.",)
    assert compare(whole, part).headline == "Neither run measured anything."
