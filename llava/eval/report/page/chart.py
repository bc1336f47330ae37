"""The geometry of a score-against-cost chart, in pixels; the template turns it into SVG.

The page draws its own charts, so that they follow the reader's light or dark scheme and are small: an SVG of
matplotlib is a few hundred kilobytes with the colours inside.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from ..rows import REFERENCES, Row
from .plot import Axis, Plot, make_plot

LABEL = 15  # pixels between the baselines of two labels that do not touch


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
    """One method's runs from cheapest to most expensive; its number decides colour and marker."""

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
class Chart(Plot):
    """Everything the template draws."""

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
    shown = [*(row for _, row in costs), *(row for row in rows if row.method in REFERENCES)]
    ends = [bound for row in shown for bound in (*row.score_interval, row.score)]
    plot = make_plot(axis, size, width, height, [cost for cost, _ in costs], ends)
    names = methods_of(rows)
    series = []
    for number, name in enumerate(names):
        # Runs at one cost would hide each other's intervals, so methods are shifted a little.
        shift = 2.5 * (number - (len(names) - 1) / 2) if len(names) < 9 else 0
        runs = sorted(((cost, row) for cost, row in costs if row.method == name), key=lambda run: run[0])
        points = [
            Point(
                plot.across(cost) + shift, plot.up(row.score), plot.up(least), plot.up(most), _tooltip(row, cost, axis)
            )
            for cost, row in runs
            for least, most in [row.score_interval]
        ]
        if points:
            series.append(Series(number, name, points))
    references = _references([row for row in rows if row.method in REFERENCES], plot.up)
    return Chart(**vars(plot), series=series, references=references)


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
