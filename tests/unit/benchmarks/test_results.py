"""Figures of rows: percentiles, ratios, targets."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from benchmarks.results import Row, TargetResult, at_least, at_most, percentile, summarise

FIGURES = st.lists(st.floats(0.001, 1e6), min_size=1, max_size=50)


def test_percentiles_are_measured_values() -> None:
    hundred = list(range(1, 101))
    assert [percentile(hundred, share) for share in (0, 0.25, 0.5, 0.99, 1)] == [1, 25, 50, 99, 100]
    assert percentile([7.0], 0.99) == 7.0


@given(FIGURES, st.floats(0, 1))
def test_a_percentile_covers_its_share_of_the_values(values: list[float], share: float) -> None:
    found = percentile(values, share)
    assert found in values
    assert sum(value <= found for value in values) >= share * len(values)


@given(FIGURES)
def test_figures_are_in_order(values: list[float]) -> None:
    summary = summarise(Row(name="a", unit="ms", values=values))
    assert summary.min <= summary.p50 <= summary.p99 <= summary.max == summary.worst


def test_the_worst_value_is_the_lowest_where_higher_is_better() -> None:
    assert summarise(Row(name="a", unit="1/s", values=[3.0, 1.0, 2.0], better="higher")).worst == 1.0


def test_paired_rounds_are_compared_round_by_round() -> None:
    row = Row(name="a", unit="1/s", values=[90, 9, 900, 95], reference=[100, 10, 1000, 100], paired=True)
    summary = summarise(row)
    assert summary.ratio == pytest.approx(0.9)
    assert summary.ratio_p25 == pytest.approx(0.9)
    assert summary.ratio_p75 == pytest.approx(0.9)


def test_unpaired_values_are_compared_by_their_medians() -> None:
    summary = summarise(Row(name="a", unit="ms", values=[1, 2, 90], reference=[4], reference_name="json"))
    assert (summary.ratio, summary.ratio_p25, summary.reference_p50, summary.reference_name) == (0.5, None, 4, "json")


def test_a_reference_of_zero_has_no_ratio() -> None:
    paired = Row(name="a", unit="1/s", values=[1], reference=[0], paired=True)
    assert [summarise(row).ratio for row in (paired, Row(name="a", unit="1/s", values=[1], reference=[0]))] == [
        None
    ] * 2


@pytest.mark.parametrize(
    ("row", "judged"),
    [
        pytest.param(
            Row(name="a", unit="ms", values=[1.0] * 99 + [9.0], targets=(at_most("p50", 1), at_most("max", 5))),
            (TargetResult("p50 <= 1", 1.0, met=True), TargetResult("max <= 5", 9.0, met=False)),
            id="at most a limit, the limit included",
        ),
        pytest.param(
            Row(name="a", unit="1/s", values=[96.0], reference=[100.0], targets=(at_least("ratio", 0.97),)),
            (TargetResult("ratio >= 0.97", 0.96, met=False),),
            id="at least a share of the reference",
        ),
        pytest.param(
            Row(name="a", unit="s", values=[8.0], rss_mib=200, targets=(at_most("rss_mib", 350),)),
            (TargetResult("rss_mib <= 350", 200, met=True),),
            id="an additional figure",
        ),
        pytest.param(
            Row(name="a", unit="s", values=[8.0], targets=(at_most("cpu_seconds", 1),)),
            (TargetResult("cpu_seconds <= 1", None, met=False),),
            id="a target without its figure isn't met",
        ),
    ],
)
def test_targets(row: Row, judged: tuple[TargetResult, ...]) -> None:
    assert summarise(row).targets == judged


def test_a_row_without_values_is_an_error() -> None:
    with pytest.raises(ValueError, match="row 'a' has no values"):
        Row(name="a", unit="ms", values=[])


def test_paired_rounds_must_be_equal_in_number() -> None:
    with pytest.raises(ValueError, match="differ in number"):
        Row(name="a", unit="ms", values=[1.0], reference=[1.0, 2.0], paired=True)
