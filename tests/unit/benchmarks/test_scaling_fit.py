"""Slopes of known powers, and a plot with all points."""

from __future__ import annotations

import re
from pathlib import Path
from xml.etree import ElementTree as ET

import pytest

from benchmarks.scaling_fit import Growth, Line, fit, plot

SIZES = (1_000, 15_000, 150_000)


@pytest.mark.parametrize("power", [0.0, 0.5, 1.0, 2.0], ids="size to the power of {}".format)
def test_the_slope_is_the_power(power: float) -> None:
    found = fit({size: 3 * size**power for size in SIZES})
    assert found.slope == pytest.approx(power)
    assert found.ratio == pytest.approx(150**power)


def test_growth_reads_as_a_slope_and_a_factor() -> None:
    assert str(Growth(0.018, 1.094)) == "slope 0.02, x1.1"


@pytest.mark.parametrize("points", [{}, {1_000: 1.0}, {1_000: 1.0, 15_000: 0.0}])
def test_less_than_two_points_above_zero_have_no_slope(points: dict[int, float]) -> None:
    with pytest.raises(ValueError, match="two points"):
        fit(points)


def test_a_plot_has_a_line_for_each_and_higher_figures_further_up(tmp_path: Path) -> None:
    lines = [Line("nfagent <ours>", dict.fromkeys(SIZES, 0.5)), Line("full compile", {1_000: 20.0, 150_000: 4_000.0})]
    plot(tmp_path / "event.svg", "One event", "ms", lines)
    text = (tmp_path / "event.svg").read_text("utf-8")
    drawn = [
        [tuple(map(float, point.split(","))) for point in found.split()]
        for found in re.findall(r'points="([^"]+)"', text)
    ]
    assert [len(points) for points in drawn] == [3, 2]
    assert {y for _x, y in drawn[0]} == {drawn[0][0][1]}
    assert drawn[1][1][1] < drawn[1][0][1] < drawn[0][0][1]
    labels = [part.text for part in ET.fromstring(text).iter() if part.text and part.text.strip()]  # noqa: S314 - ours
    assert {"One event", "nfagent <ours>", "full compile", "1,000", "150,000", "1000 ms"} <= set(labels)


def test_a_flat_plot_of_one_size_can_be_drawn(tmp_path: Path) -> None:
    plot(tmp_path / "one.svg", "One", "MiB", [Line("steady", {1_000: 100.0})])
    assert "<circle" in (tmp_path / "one.svg").read_text("utf-8")


def test_a_plot_without_points_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="points above zero"):
        plot(tmp_path / "none.svg", "None", "ms", [])
