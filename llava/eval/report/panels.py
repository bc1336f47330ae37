"""Curves side by side: panels with intervals, the control in grey, references as lines."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from .curve import COLOURS, MARKERS, add_legend

GREY, INK = "#7A7A7A", "#333333"
DASHES = {"full": "--", "blind": ":"}
APART = 0.08  # layers between the bars of two curves, which would hide each other

Point = tuple[float, Sequence[float]]  # a value and its interval [low, high]


@dataclass(frozen=True)
class Panel:
    """One drawing: the label of its y axis, curves by name with a point per layer, and a point per reference line.

    Names alike up to a comma ("fps" and "fps, cognition") share a colour; the one with a comma is drawn hollow and
    dashed.
    """

    label: str
    curves: Mapping[str, Mapping[int, Point]]
    references: Mapping[str, Point] = field(default_factory=dict)


def draw(panels: Sequence[Panel], title: str, x_label: str) -> Figure:
    """The panels side by side under one title with one legend; bars are 95 % intervals, bands those of the references."""
    figure = Figure(figsize=(2.4 + 4.9 * len(panels), 4.8), dpi=150, layout="constrained")
    figure.suptitle(title, x=0.01, ha="left", fontsize=12)
    names = list(dict.fromkeys(name.partition(",")[0] for panel in panels for name in panel.curves))
    for axes, panel in zip(figure.subplots(1, len(panels), squeeze=False)[0], panels):
        for name, point in panel.references.items():
            _draw_reference(axes, name, point)
        for name, points in panel.curves.items():
            place = names.index(name.partition(",")[0])
            _draw_curve(axes, name, points, place, APART * (place - (len(names) - 1) / 2))
        axes.set_xlabel(x_label)
        axes.set_ylabel(panel.label)
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        axes.grid(color="#dddddd", linewidth=0.7)
        axes.set_axisbelow(True)
        axes.spines[["top", "right"]].set_visible(False)
    handles = [axes.get_legend_handles_labels() for axes in figure.axes]
    entries = {label: handle for pair in handles for handle, label in zip(*pair, strict=True)}
    add_legend(figure, list(entries.values()), list(entries))
    return figure


def _draw_curve(axes: Axes, name: str, points: Mapping[int, Point], place: int, apart: float) -> None:
    """One line with its bars; the control is grey."""
    main, _, second = name.partition(",")
    colour = GREY if main == "random" else COLOURS[place % len(COLOURS)]
    values = [value for value, _ in points.values()]
    bars = [(max(0.0, value - low), max(0.0, high - value)) for value, (low, high) in points.values()]
    axes.errorbar(
        [layer + apart for layer in points],
        values,
        yerr=list(zip(*bars)),
        color=colour,
        marker=MARKERS[place % len(MARKERS)],
        markerfacecolor="white" if second else colour,
        linestyle="--" if second else "-",
        linewidth=1.6,
        markersize=5.5,
        elinewidth=0.9,
        capsize=2.5,
        label=None if second else name,
        zorder=2.5 if main == "random" else 3,
    )


def _draw_reference(axes: Axes, name: str, point: Point) -> None:
    """A horizontal line with its interval as a band."""
    value, interval = point
    main, _, second = name.partition(",")
    axes.axhspan(*interval, color=INK, alpha=0.06, linewidth=0)
    label = None if second else main
    axes.axhline(
        value, color=INK, linestyle=DASHES.get(main, "-"), linewidth=0.8 if second else 1.2, label=label, zorder=2
    )
