"""Fits how a figure grows with the size of the cluster: a slope on logarithmic axes, and a plot of it (SVG).

A slope of 0 is flat, 1 is linear, 2 is quadratic.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Mapping, Sequence
from pathlib import Path
from xml.sax.saxutils import escape

import msgspec

_WIDTH, _HEIGHT = 720, 420
_LEFT, _RIGHT, _TOP, _BOTTOM = 80, 200, 40, 60
_COLOURS = ("#1b6ca8", "#c8553d", "#3c8d53", "#7a4ea3", "#b8860b", "#555555")


class Growth(msgspec.Struct, frozen=True):
    """A fitted growth; slope: exponent of the power; ratio: the largest size's figure by the smallest size's."""

    slope: float
    ratio: float

    def __str__(self) -> str:
        """Return for example `slope 0.02, x1.1`."""
        return f"slope {self.slope:.2f}, x{self.ratio:.2g}"


class Line(msgspec.Struct, frozen=True):
    """One line of a plot: its name, and size -> figure."""

    name: str
    points: Mapping[int, float]


def fit(points: Mapping[int, float]) -> Growth:
    """Fit figure = c * size ** slope to two or more points above zero. Raises ValueError for fewer."""
    if len(points) < 2 or min(*points.keys(), *points.values()) <= 0:
        raise ValueError("a slope needs two points, all above zero")
    sizes = [math.log(size) for size in points]
    figures = [math.log(figure) for figure in points.values()]
    return Growth(statistics.linear_regression(sizes, figures).slope, points[max(points)] / points[min(points)])


def plot(path: Path, title: str, unit: str, lines: Sequence[Line]) -> None:
    """Write a plot of the lines over the size, both axes logarithmic, as SVG. Raises ValueError without points."""
    sizes = [size for line in lines for size in line.points]
    figures = [figure for line in lines for figure in line.points.values()]
    if not sizes or min(figures) <= 0:
        raise ValueError("a plot on logarithmic axes needs points above zero")
    across = _Axis(min(sizes), max(sizes), _LEFT, _WIDTH - _RIGHT)
    up = _Axis(min(figures), max(figures), _HEIGHT - _BOTTOM, _TOP, whole_decades=True)
    body = [
        f'<text x="{_LEFT}" y="22" font-size="15" font-weight="bold">{escape(title)}</text>',
        *_grid(across, up, sorted(set(sizes)), unit),
        *(part for place, line in enumerate(lines) for part in _drawn(line, place, across, up)),
    ]
    head = f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {_WIDTH} {_HEIGHT}" font-family="sans-serif">'
    ground = f'<rect width="{_WIDTH}" height="{_HEIGHT}" fill="white"/>'
    path.write_text("\n".join([head, ground, *body, "</svg>", ""]), "utf-8")


class _Axis:
    """A logarithmic axis: maps values to coordinates."""

    def __init__(self, low: float, high: float, start: int, end: int, *, whole_decades: bool = False) -> None:
        first, last = math.log10(low), math.log10(high)
        if whole_decades or first == last:
            first, last = math.floor(first), math.floor(last) + 1
        self.decades = range(math.ceil(first), math.floor(last) + 1)
        self._first, self._span, self._start, self._length = first, last - first, start, end - start

    def at(self, value: float) -> float:
        return round(self._start + (math.log10(value) - self._first) / self._span * self._length, 1)


def _grid(across: _Axis, up: _Axis, sizes: Sequence[int], unit: str) -> list[str]:
    right, bottom = _WIDTH - _RIGHT, _HEIGHT - _BOTTOM
    parts = []
    for decade in up.decades:
        y = up.at(10.0**decade)
        parts.append(f'<line x1="{_LEFT}" x2="{right}" y1="{y}" y2="{y}" stroke="#dddddd"/>')
        parts.append(_label(_LEFT - 8, y + 4, f"{10.0**decade:g} {unit}", "end"))
    for size in sizes:
        x = across.at(size)
        parts.append(f'<line x1="{x}" x2="{x}" y1="{_TOP}" y2="{bottom}" stroke="#eeeeee"/>')
        parts.append(_label(x, bottom + 20, f"{size:,}", "middle"))
    return [*parts, _label((_LEFT + right) / 2, bottom + 44, "Pods in the cluster", "middle")]


def _drawn(line: Line, place: int, across: _Axis, up: _Axis) -> list[str]:
    colour = _COLOURS[place % len(_COLOURS)]
    places = [(across.at(size), up.at(figure)) for size, figure in sorted(line.points.items())]
    path = " ".join(f"{x},{y}" for x, y in places)
    dots = [f'<circle cx="{x}" cy="{y}" r="3.5" fill="{colour}"/>' for x, y in places]
    x, y = places[-1]
    name = f'<text x="{x + 10}" y="{y + 4}" font-size="12" fill="{colour}">{escape(line.name)}</text>'
    return [f'<polyline points="{path}" fill="none" stroke="{colour}" stroke-width="2"/>', *dots, name]


def _label(x: float, y: float, words: str, anchor: str) -> str:
    return f'<text x="{x}" y="{y}" font-size="12" fill="#444444" text-anchor="{anchor}">{escape(words)}</text>'
