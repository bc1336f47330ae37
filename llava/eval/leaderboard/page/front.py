"""The geometry of a leaderboard's chart, in pixels: every run as a point, and the Pareto front through the best of them."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from ...report.page.plot import AXES, Axis, Plot, Tick, make_plot
from ..board import Entry

CHART_AXES = (
    *AXES[:2],
    Axis("KV MB", "MB of keys and values that the prompt leaves", 10, lambda row: row.kv_mb),
    AXES[2],
)
APART = {"before": -7.0, "control": 0.0, "inside": 7.0}  # pixels from a run's cost at which its kind is drawn


@dataclass(frozen=True)
class Dot:
    """One run: where its cost and its score lie, its interval's ends, its cell's number, and the text when it is pointed at.

    ``drawn``: where on the cost axis it is drawn, since kinds at one cost would hide one another.
    """

    x: float
    drawn: float
    y: float
    low: float
    high: float
    number: int
    entry: Entry
    text: str


@dataclass(frozen=True)
class FrontChart(Plot):
    """Everything the template draws. ``front`` is a path of steps; ``levels`` are full and blind with their heights."""

    dots: list[Dot]
    levels: list[Tick]
    front: str


def make_front(
    entries: Sequence[tuple[int, Entry]], axis: Axis, size: str, width: int, height: int
) -> FrontChart | None:
    """The chart of one model and task, its entries numbered; None where fewer than two runs at a mean have that cost."""
    costs = [(cost, number, entry) for number, entry in entries if entry.competes and (cost := _cost(entry, axis))]
    if len(costs) < 2:
        return None
    rows = [entry.row for _, entry in entries if entry.row and (entry.competes or entry.mean is None)]
    plot = make_plot(axis, size, width, height, [cost for cost, *_ in costs], [row.score for row in rows])
    dots = []
    for cost, number, entry in costs:
        row = entry.row
        if row is not None:
            least, most = (min(plot.bottom, max(plot.top, plot.up(bound))) for bound in row.score_interval)
            at = plot.across(cost)
            text = f"{entry.name} at {entry.mean}: {row.score:.1f} at {cost:.4g} {axis.name}"
            dots.append(Dot(at, at + APART[entry.kind], plot.up(row.score), least, most, number, entry, text))
    return FrontChart(
        **vars(plot),
        dots=dots,
        levels=[Tick(plot.up(entry.row.score), entry.name) for _, entry in entries if entry.row and entry.mean is None],
        front=steps([(dot.x, dot.y) for dot in dots], plot.right),
    )


def steps(points: Sequence[tuple[float, float]], right: float) -> str:
    """The SVG path of the Pareto front: from the cheapest point in steps up to each that is higher, on to the right edge."""
    path, best = "", math.inf
    for x, y in sorted(points):
        if y < best:
            path += f"H{x}V{y}" if path else f"M{x} {y}"
            best = y
    return f"{path}H{right}" if path else ""


def _cost(entry: Entry, axis: Axis) -> float | None:
    return axis.value(entry.row) if entry.row else None
