"""Charts as geometry, which the page draws in SVG: lines against steps, and differences with their intervals."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import NamedTuple

WIDTH, HEIGHT = 360, 200
_LEFT, _RIGHT, _TOP, _BOTTOM = 58, 14, 10, 28
_MOST_POINTS = 400  # of a line; more cannot be told apart
_MOST_TICKS = 5
_ROW = 30  # height of a row of intervals


class Tick(NamedTuple):
    """A tick of an axis: where, in pixels of the drawing, and its label."""

    place: float
    label: str


class Line(NamedTuple):
    """A line of a chart: its name, ``x,y x,y`` in pixels, and its points (x, y, step, value)."""

    name: str
    path: str
    points: Sequence[tuple[float, float, int, str]]


@dataclass(frozen=True)
class LineChart:
    """Values against training steps.

    Attributes:
        title: what the values are.
        lines: at most eight.
        x_ticks, y_ticks: of the axes.
        summary: first, last and extreme values in words, for those who do not see the drawing.
    """

    title: str
    lines: Sequence[Line]
    x_ticks: Sequence[Tick]
    y_ticks: Sequence[Tick]
    summary: str
    width: int = WIDTH
    height: int = HEIGHT
    left: int = _LEFT
    right: int = WIDTH - _RIGHT
    top: int = _TOP
    bottom: int = HEIGHT - _BOTTOM


def line_chart(title: str, series: Mapping[str, Mapping[int, float]]) -> LineChart:
    """Return the chart of some series: name -> step -> value; values that are not finite are left out.

    >>> chart = line_chart("psnr", {"val": {0: 20.0, 100: 30.0}})
    >>> [tick.label for tick in chart.y_ticks]
    ['20', '22', '24', '26', '28', '30']
    >>> chart.lines[0].points[1]
    (346.0, 10.0, 100, '30')
    """
    finite = {name: {x: y for x, y in of.items() if math.isfinite(y)} for name, of in series.items()}
    steps = [x for of in finite.values() for x in of] or [0]
    values = [y for of in finite.values() for y in of.values()] or [0.0]
    xs, ys = nice_ticks(min(steps), max(steps), whole=True), nice_ticks(min(values), max(values))
    x_low, x_high = min(steps), max(*steps, min(steps) + 1)
    y_low, y_high = min(ys[0], *values), max(ys[-1], *values)

    def x_place(step: float) -> float:
        return round(_LEFT + (step - x_low) / (x_high - x_low) * (WIDTH - _LEFT - _RIGHT), 1)

    def y_place(value: float) -> float:
        return round(HEIGHT - _BOTTOM - (value - y_low) / (y_high - y_low) * (HEIGHT - _TOP - _BOTTOM), 1)

    lines = []
    for name, of in finite.items():
        chosen = thinned(sorted(of.items()), _MOST_POINTS)
        points = [(x_place(step), y_place(value), step, f"{value:.6g}") for step, value in chosen]
        lines.append(Line(name, " ".join(f"{x},{y}" for x, y, *_ in points), points))
    told = "; ".join(_summary(name, sorted(of.items())) for name, of in finite.items() if of)
    return LineChart(
        title,
        lines,
        [Tick(x_place(x), f"{x:,.0f}") for x in xs if x_low <= x <= x_high],
        [Tick(y_place(y), label) for y, label in zip(ys, labels(ys), strict=True)],
        told or "no values",
    )


@dataclass(frozen=True)
class IntervalChart:
    """Differences from a baseline with their 95 % intervals, a row each.

    Attributes:
        title: what differs, with its unit.
        rows: (name, y, x of the low end, of the value and of the high end, text).
        zero: x of no difference.
        x_ticks: of the axis.
    """

    title: str
    rows: Sequence[tuple[str, float, float, float, float, str]]
    zero: float
    x_ticks: Sequence[Tick]
    height: int
    width: int = WIDTH
    left: int = 12
    right: int = WIDTH - _RIGHT


def interval_chart(title: str, rows: Sequence[tuple[str, float, float, float]], digits: int) -> IntervalChart:
    """Return the chart of (name, value, low, high)."""
    ends = [0.0, *(end for _, *numbers in rows for end in numbers)]
    low, high = min(ends), max(ends)
    margin = 0.08 * ((high - low) or 1)
    low, high = low - margin, high + margin

    def place(value: float) -> float:
        return round(12 + (value - low) / (high - low) * (WIDTH - _RIGHT - 12), 1)

    drawn = [
        (name, 22.0 + _ROW * number, place(least), place(value), place(most),
         f"{value:+.{digits}f} [{least:+.{digits}f}, {most:+.{digits}f}]")
        for number, (name, value, least, most) in enumerate(rows)
    ]  # fmt: skip
    ticks = [tick for tick in nice_ticks(low, high) if low <= tick <= high]
    marks = [Tick(place(tick), label) for tick, label in zip(ticks, labels(ticks), strict=True)]
    return IntervalChart(title, drawn, place(0.0), marks, 10 + _ROW * len(rows) + _BOTTOM)


def nice_ticks(low: float, high: float, whole: bool = False) -> list[float]:
    """Return round numbers, at most seven, whose first and last enclose a range.

    >>> nice_ticks(0.12, 0.47)
    [0.1, 0.2, 0.3, 0.4, 0.5]
    """
    if high <= low:
        half = abs(low) * 0.05 or 0.5
        low, high = low - half, high + half
    raw = (high - low) / _MOST_TICKS
    power = 10.0 ** math.floor(math.log10(raw))
    step = next(power * factor for factor in (1, 2, 5, 10) if raw <= power * factor * (1 + 1e-9))
    step = max(step, 1.0) if whole else step
    first, last = math.floor(low / step + 1e-9), math.ceil(high / step - 1e-9)
    digits = max(0, 2 - math.floor(math.log10(step)))
    return [round(number * step, digits) for number in range(first, last + 1)]


def labels(ticks: Sequence[float]) -> list[str]:
    """Return the labels of ticks: as many digits as tell them apart, powers of ten where numbers are long."""
    if not ticks:
        return []
    largest = max(abs(tick) for tick in ticks)
    step = min((b - a for a, b in pairwise(ticks)), default=largest or 1)
    if largest and (largest >= 1e5 or largest < 1e-3):
        return [f"{tick:.3g}" for tick in ticks]
    return [f"{tick:.{max(0, -math.floor(math.log10(step) + 1e-9))}f}" for tick in ticks]


def thinned(points: Sequence[tuple[int, float]], most: int) -> Sequence[tuple[int, float]]:
    """Return at most ``most`` points, evenly spread, with the first and the last."""
    if len(points) <= most:
        return points
    return [points[round(place * (len(points) - 1) / (most - 1))] for place in range(most)]


def _summary(name: str, points: Sequence[tuple[int, float]]) -> str:
    (first, start), (last, end) = points[0], points[-1]
    values = [value for _, value in points]
    return (
        f"{name}: {start:.4g} at step {first:,}, {end:.4g} at step {last:,}, between {min(values):.4g} and "
        f"{max(values):.4g}"
    )
