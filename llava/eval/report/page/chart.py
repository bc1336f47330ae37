"""The geometry of a score-against-cost chart, in pixels; the template turns it into SVG.

The page draws its own charts, so that they follow the reader's light or dark scheme and are small: an SVG of
matplotlib is a few hundred kilobytes with the colours inside.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from matplotlib.ticker import LogLocator, MaxNLocator

from ..rows import REFERENCES, Row

LABEL = 15  # pixels between the baselines of two labels that do not touch


@dataclass(frozen=True)
class Axis:
    """A cost axis: a short name, the heading, the base of its ticks, and a row's cost."""

    name: str
    title: str
    base: int  # of the logarithmic ticks
    value: Callable[[Row], float | None]


AXES = (
    Axis("visual tokens", "visual tokens, mean over decoder layers", 2, lambda row: row.visual_tokens),
    Axis("GFLOPs", "GFLOPs of the prompt, with tower", 10, lambda row: row.gflops),
    Axis("ms", "milliseconds per question, without tower", 10, lambda row: row.ms),
)


@dataclass(frozen=True)
class Point:
    """One run: its middle, the ends of its interval, and the text shown when it is pointed at."""

    x: float
    y: float
    low: float
    high: float
    text: str


@dataclass(frozen=True)
class Series:
    """One method's runs from cheap to dear; its number decides colour and marker."""

    number: int
    name: str
    points: list[Point]


@dataclass(frozen=True)
class Reference:
    """A level without a cost: full, blind. ``label`` is the height at which its name is clear of the others."""

    name: str
    score: str
    y: float
    low: float
    high: float
    label: float


@dataclass(frozen=True)
class Tick:
    """A position on an axis and the text there."""

    at: float
    text: str


@dataclass(frozen=True)
class Chart:
    """Everything the template draws. The plot is the rectangle from (left, top) to (right, bottom)."""

    axis: Axis
    size: str
    width: int
    height: int
    left: int
    right: int
    top: int
    bottom: int
    x_ticks: list[Tick]
    y_ticks: list[Tick]
    series: list[Series]
    references: list[Reference]


def methods_of(rows: Sequence[Row]) -> list[str]:
    """The methods that are lines of a chart, in the table's order."""
    return list(dict.fromkeys(row.method for row in rows if row.method not in REFERENCES))


def make_chart(rows: Sequence[Row], axis: Axis, size: str, width: int, height: int) -> Chart | None:
    """The chart of one board; None where fewer than two runs have that cost. Costs are on a logarithmic scale."""
    costs = [(cost, row) for row in rows if row.method not in REFERENCES and (cost := axis.value(row))]
    if len(costs) < 2:
        return None
    left, right, top, bottom = 50, width - 56, 12, height - 46
    low, high = min(cost for cost, _ in costs) / 1.15, max(cost for cost, _ in costs) * 1.15
    shown = [*(row for _, row in costs), *(row for row in rows if row.method in REFERENCES)]
    ends = [bound for row in shown for bound in (*row.score_interval, row.score)]
    y_values = MaxNLocator(6, steps=[1, 2, 2.5, 5, 10]).tick_values(min(ends), max(ends))

    def across(cost: float) -> float:
        return round(left + (right - left) * math.log(cost / low) / math.log(high / low), 1)

    def up(score: float) -> float:
        return round(bottom - (bottom - top) * (score - y_values[0]) / (y_values[-1] - y_values[0]), 1)

    names = methods_of(rows)
    series = []
    for number, name in enumerate(names):
        # Runs at one cost would hide each other's intervals, so methods are shifted a little.
        shift = 2.5 * (number - (len(names) - 1) / 2) if len(names) < 9 else 0
        runs = sorted(((cost, row) for cost, row in costs if row.method == name), key=lambda run: run[0])
        points = [
            Point(across(cost) + shift, up(row.score), up(least), up(most), _tooltip(row, cost, axis))
            for cost, row in runs
            for least, most in [row.score_interval]
        ]
        if points:
            series.append(Series(number, name, points))
    return Chart(
        axis=axis,
        size=size,
        width=width,
        height=height,
        left=left,
        right=right,
        top=top,
        bottom=bottom,
        x_ticks=thinned([Tick(across(cost), f"{cost:g}") for cost in cost_ticks(low, high, axis.base)], 38),
        y_ticks=[Tick(up(score), f"{score:g}") for score in y_values],
        series=series,
        references=_references([row for row in rows if row.method in REFERENCES], up),
    )


def cost_ticks(low: float, high: float, base: int) -> list[float]:
    """Powers of two, or 1, 2, 5 times powers of ten; evenly spaced ones where the range is too short for three of them."""
    ticks = LogLocator(base, subs=[1] if base == 2 else [1, 2, 5], numticks=40).tick_values(low, high)
    inside = [float(tick) for tick in ticks if low <= tick <= high]
    if len(inside) < 3:
        inside = [float(tick) for tick in MaxNLocator(5).tick_values(low, high) if low <= tick <= high]
    return inside


def thinned(ticks: Sequence[Tick], room: float) -> list[Tick]:
    """As many of the ticks, from the left, as have ``room`` pixels each."""
    kept: list[Tick] = []
    for tick in ticks:
        if not kept or tick.at - kept[-1].at >= room:
            kept.append(tick)
    return kept


def _references(rows: Sequence[Row], up: Callable[[float], float]) -> list[Reference]:
    """The levels from top to bottom, their labels (two lines each) pushed apart where they would touch."""
    references: list[Reference] = []
    for row in sorted(rows, key=lambda row: -row.score):
        y, (low, high) = up(row.score), map(up, row.score_interval)
        label = max(y, references[-1].label + 2 * LABEL) if references else y
        references.append(Reference(row.method, f"{row.score:.0f}", y, low, high, label))
    return references


def _tooltip(row: Row, cost: float, axis: Axis) -> str:
    low, high = row.score_interval
    return f"{row.plan}: {row.score:.1f} [{low:.1f}, {high:.1f}] at {cost:.4g} {axis.name}"
