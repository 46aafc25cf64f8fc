"""The verdict of a latency run, in values and in words."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nfagent.lab.latency.samples import SCENARIOS, DataPath, LabSamples, Series, Try
from nfagent.lab.report.summary import summarize
from nfagent.lab.report.verdict import Outcome, Pair, judge, stage_medians, worst
from tests.support.latency_samples import even_tries, latency_samples, whole_run

LATE = Try(None, {})


def pair(nftables: Sequence[Try], ebpf: Sequence[Try]) -> Pair:
    return Pair(scenario="policy-created", policies=1000, pods=15000, nftables=nftables, ebpf=ebpf)


def series(path: DataPath, tries: Sequence[Try], policies: int = 0) -> Series:
    return Series("policy-created", policies, 15000, path, list(tries))


@pytest.mark.parametrize(
    ("nftables", "ebpf", "p50", "p99"),
    [
        (even_tries(1500), even_tries(1000), "within", "within"),
        (even_tries(500), even_tries(1000), "within", "within"),
        (even_tries(2500), even_tries(1000), "not within", "not within"),
        (even_tries(1500, 180) + even_tries(9000, 20), even_tries(1000), "within", "not within"),
        (even_tries(1500, spread_us=1000), even_tries(750, spread_us=500), "not decided", "not decided"),
        (even_tries(1500, 99), even_tries(1000, 200), "within", "not known"),
        (even_tries(1500, 200), even_tries(1000, 99), "within", "not known"),
        (even_tries(1500, 19), even_tries(1000), "not known", "not known"),
        ([], even_tries(1000), "not known", "not known"),
        (even_tries(1000), [], "not known", "not known"),
        ([], [], "not known", "not known"),
        ([*even_tries(1500, 199), LATE], even_tries(1000), "not known", "not known"),
        (even_tries(1000), [*even_tries(1000, 199), LATE], "not known", "not known"),
        ([LATE] * 200, even_tries(1000), "not within", "not within"),
        ([LATE] * 200, [LATE] * 200, "not known", "not known"),
        (even_tries(1500, 190) + [LATE] * 10, even_tries(1000), "not known", "not within"),
        ([*even_tries(2500, 199), LATE], even_tries(1000), "not within", "not within"),
        (even_tries(1000), even_tries(0, spread_us=0), "not known", "not known"),
    ],
    ids=[
        "half as long again is within",
        "shorter is within",
        "two and a half times as long is not within",
        "a long tail is not within at p99 only",
        "twice as long, and spread wide, is not decided",
        "too few tries on nftables for p99",
        "too few tries on eBPF for p99",
        "too few tries for both",
        "nftables was not measured",
        "eBPF was not measured",
        "nothing was measured",
        "one try that timed out on nftables",
        "one try that timed out on eBPF",
        "all tries timed out on nftables",
        "all tries timed out",
        "every twentieth try timed out on nftables",
        "longer, and one try timed out",
        "eBPF took no time at all",
    ],
)
def test_each_quantile_has_its_verdict(nftables: list[Try], ebpf: list[Try], p50: Outcome, p99: Outcome) -> None:
    verdict = judge(pair(nftables, ebpf))
    assert (verdict.of(50).outcome, verdict.of(99).outcome) == (p50, p99)


@pytest.mark.parametrize(
    ("nftables", "ebpf", "reason"),
    [
        (even_tries(1500, 99), even_tries(1000), "only 99 tries on nftables, 100 are needed"),
        (even_tries(1500), even_tries(1000, 1), "only 1 try on eBPF, 100 are needed"),
        (even_tries(1500), [], "eBPF was not measured"),
        ([*even_tries(1500, 199), LATE], even_tries(1000), "1 of 200 tries timed out on nftables"),
        (even_tries(1500), [*even_tries(1000, 198), LATE, LATE], "2 of 200 tries timed out on eBPF"),
        (even_tries(1500), even_tries(0, spread_us=0), "eBPF's quantile is 0"),
        (even_tries(2000, spread_us=2000), even_tries(1000, spread_us=1000), "2x is inside the confidence interval"),
    ],
)
def test_what_is_not_known_or_not_decided_has_its_reason(nftables: list[Try], ebpf: list[Try], reason: str) -> None:
    assert judge(pair(nftables, ebpf)).of(99).reason == reason


_TRIES = st.lists(st.one_of(st.just(LATE), st.builds(Try, st.floats(0, 1e6), st.just({}))), max_size=130)


@given(_TRIES, _TRIES)
def test_within_is_said_only_of_enough_tries_that_all_ended(nftables: list[Try], ebpf: list[Try]) -> None:
    for quantile in judge(pair(nftables, ebpf)).quantiles:
        if quantile.outcome == "within":
            assert min(len(nftables), len(ebpf)) >= {50: 20, 99: 100}[quantile.percent]
            assert LATE not in (*nftables, *ebpf)
            assert quantile.ratio is not None
            assert quantile.ratio.high <= 2
        if quantile.outcome == "not known":
            assert quantile.reason


@pytest.mark.parametrize(
    ("outcomes", "expected"),
    [
        (["within", "within"], "within"),
        (["within", "not decided"], "not decided"),
        (["not decided", "not known"], "not known"),
        (["not known", "not within"], "not within"),
        ([], "not known"),
    ],
)
def test_all_together_are_as_good_as_the_worst(outcomes: list[Outcome], expected: Outcome) -> None:
    assert worst(outcomes) == expected


@pytest.mark.parametrize(
    ("nftables", "ebpf", "words"),
    [
        (
            even_tries(3000, commit=2500, source=400),
            even_tries(1000, commit=500, source=400),
            "costliest stage: commit, 2.00 ms longer",
        ),
        (
            even_tries(3000, source=2500, commit=400),
            even_tries(1000, source=500, commit=400),
            "costliest stage: source, 2.00 ms longer",
        ),
        (
            even_tries(3000, commit=400),
            even_tries(1000, commit=400),
            "costliest stage: outside the trace, 2.00 ms longer",
        ),
        (
            even_tries(3000, compile=2500),
            even_tries(1000, commit=400),
            "costliest stage: compile, 2.50 ms longer",
        ),
        (even_tries(3000), even_tries(1000, commit=400), "the trace doesn't show which stage costs it"),
        (even_tries(3000, commit=400), even_tries(1000), "the trace doesn't show which stage costs it"),
    ],
    ids=[
        "commit",
        "source",
        "what is outside of all stages",
        "a stage that eBPF hasn't got",
        "no trace on nftables",
        "no trace on eBPF",
    ],
)
def test_the_stage_that_costs_it_is_named(nftables: list[Try], ebpf: list[Try], words: str) -> None:
    verdict = judge(pair(nftables, ebpf))
    assert verdict.outcome == "not within"
    assert words in verdict.of(50).words


def test_the_stage_that_costs_p99_is_that_of_the_slowest_tries() -> None:
    usual = even_tries(1500, 180, source=900, commit=500)
    slow = even_tries(9000, 20, source=900, commit=8000)
    verdict = judge(pair(usual + slow, even_tries(1000, source=500, commit=500)))
    assert verdict.of(50).outcome == "within"
    assert verdict.of(99).stage == "commit"


def test_medians_of_stages_leave_out_tries_that_timed_out() -> None:
    tries = [Try(10.0, {"commit": 4.0}), Try(None, {"commit": 900.0}), Try(12.0, {"commit": 6.0, "source": 5.0})]
    assert stage_medians(tries) == {"source": 5.0, "commit": 4.0, "outside the trace": 1.0}


def test_a_run_that_is_within_everywhere_says_so_in_one_sentence() -> None:
    summary = summarize(whole_run(scenarios=SCENARIOS[:6], sizes=(0,)))
    assert summary.headline.endswith("in 6 of 7 scenarios; not known in 1.")
    draws = [
        Series(scenario, 0, 10, path, even_tries(1000 if path == "ebpf" else 1500))
        for scenario in SCENARIOS
        for path in ("nftables", "ebpf")
    ]
    whole = summarize(latency_samples(draws))
    assert whole.headline == "Netfilter is within 2x of eBPF in all 7 scenarios: p50 and p99, at every size measured."
    assert whole.findings == ()
    assert whole.gaps == ()


def test_one_size_that_is_not_within_keeps_its_scenario_from_being_so() -> None:
    summary = summarize(
        latency_samples(
            [
                series("nftables", even_tries(1000), 0),
                series("ebpf", even_tries(1000), 0),
                series("nftables", even_tries(4000, commit=3500), 10000),
                series("ebpf", even_tries(1000, commit=500), 10000),
            ]
        )
    )
    assert "in 0 of 7 scenarios; not within in 1 and not known in 6." in summary.headline
    assert [finding.outcome for finding in summary.findings] == ["not within"]
    assert summary.findings[0].text.startswith("policy-created, with 10,000 background policies: p50 and p99 4.00x")
    assert "costliest stage: commit, 3.00 ms longer" in summary.findings[0].text


def test_an_empty_run_knows_nothing() -> None:
    summary = summarize(latency_samples([]))
    assert summary.headline == "Nothing was measured, so nothing is known about netfilter and eBPF."
    assert summary.gaps == (f"Not measured: {', '.join(SCENARIOS[:-1])} and {SCENARIOS[-1]}.",)


@pytest.mark.parametrize(
    ("nftables", "ebpf", "words"),
    [
        (even_tries(1000), [], "p50 and p99 not known, eBPF was not measured."),
        ([LATE] * 200, even_tries(1000), "p50 and p99 unbounded, its tries timed out, the trace doesn't show"),
        (even_tries(1000, 50), even_tries(1000, 50), "p99 not known, only 50 tries on nftables, 100 are needed."),
    ],
)
def test_a_cause_is_said_once(nftables: list[Try], ebpf: list[Try], words: str) -> None:
    summary = summarize(latency_samples([series("nftables", nftables), series("ebpf", ebpf)]))
    (finding,) = summary.findings
    assert finding.text.startswith(f"policy-created, with 0 background policies: {words}")


@pytest.mark.parametrize(
    ("run", "gap"),
    [
        (
            latency_samples([], incomplete="interrupted with Ctrl-C"),
            "The run ended before its last try: interrupted with Ctrl-C.",
        ),
        (
            latency_samples([series("nftables", even_tries(1000, 150)), series("ebpf", even_tries(1000))]),
            "policy-created, with 0 background policies: only 150 of 200 tries on nftables.",
        ),
        (
            latency_samples([series("nftables", [*even_tries(1000, 197), *[LATE] * 3], size) for size in (0, 1, 1000)]),
            "policy-created, with 0, 1 and 1,000 background policies: 3 of 200 tries timed out on nftables.",
        ),
        (
            latency_samples([series("nftables", [LATE], 1)]),
            "policy-created, with 1 background policy: 1 of 1 try timed out on nftables.",
        ),
        (
            latency_samples([series("nftables", even_tries(1000))]),
            "policy-created, with 0 background policies: nothing was measured on eBPF.",
        ),
        (
            latency_samples([series("ebpf", even_tries(1000)), series("nftables", [])]),
            "policy-created, with 0 background policies: nothing was measured on nftables.",
        ),
        (
            latency_samples(
                [
                    Series(scenario, policies, pods, "ebpf", even_tries(1000))
                    for scenario in SCENARIOS[:2]
                    for policies, pods in ((0, 5), (7, 5), (0, 6))
                ]
            ),
            (
                "policy-created and policy-deleted, with 0 and 7 background policies and 5 Pods; "
                "policy-created and policy-deleted, with 0 background policies and 6 Pods: "
                "nothing was measured on nftables."
            ),
        ),
    ],
    ids=[
        "the reason why the run ended",
        "fewer tries than were asked for",
        "tries that timed out",
        "few tries that timed out",
        "no series of eBPF",
        "a series of nftables without tries",
        "scenarios and sizes that lack the same",
    ],
)
def test_what_a_run_lacks_is_said(run: LabSamples, gap: str) -> None:
    assert gap in summarize(run).gaps
