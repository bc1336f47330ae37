"""The plot of a chart, in pixels: costs across on a logarithmic scale, scores up, and the ticks of both."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

from matplotlib.ticker import LogLocator, MaxNLocator

from ..rows import Row

MARGIN = 1.15  # factor on the costs, at both ends
ROOM = 38  # pixels that a tick across needs


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
class Tick:
    """A position on an axis and the text there."""

    at: float
    text: str


@dataclass(frozen=True)
class Plot:
    """The rectangle from (left, top) to (right, bottom) in a picture of width x height pixels, and what lies in it.

    size: a word for the style sheet. costs: the lowest and the highest that are drawn. scores: the vertical ticks, from
    the lowest to the highest.
    """

    axis: Axis
    size: str
    width: int
    height: int
    costs: tuple[float, float]
    scores: tuple[float, ...]

    left = 50
    top = 12

    @property
    def right(self) -> int:
        return self.width - 56

    @property
    def bottom(self) -> int:
        return self.height - 46

    def across(self, cost: float) -> float:
        """Where a cost lies."""
        low, high = self.costs
        return round(self.left + (self.right - self.left) * math.log(cost / low) / math.log(high / low), 1)

    def up(self, score: float) -> float:
        """Where a score lies."""
        low, high = self.scores[0], self.scores[-1]
        return round(self.bottom - (self.bottom - self.top) * (score - low) / (high - low), 1)

    @property
    def x_ticks(self) -> list[Tick]:
        ticks = [Tick(self.across(cost), f"{cost:g}") for cost in cost_ticks(*self.costs, self.axis.base)]
        return thinned(ticks, ROOM)

    @property
    def y_ticks(self) -> list[Tick]:
        return [Tick(self.up(score), f"{score:g}") for score in self.scores]


def make_plot(axis: Axis, size: str, width: int, height: int, costs: Sequence[float], scores: Iterable[float]) -> Plot:
    """The plot that holds all these costs and scores."""
    shown = [*scores]
    values = MaxNLocator(6, steps=[1, 2, 2.5, 5, 10]).tick_values(min(shown), max(shown))
    return Plot(axis, size, width, height, (min(costs) / MARGIN, max(costs) * MARGIN), tuple(map(float, values)))


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
