"""Score against cost, as a figure for papers and READMEs; the page of a report draws its own."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence

from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FixedLocator, NullLocator, ScalarFormatter

from llava.reduction.plan import with_short_paths

from .rows import REFERENCES, Row

# Okabe and Ito's colours, which differ for every kind of colour vision; black is the reference lines'.
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#8C6D31", "#6A3D9A")
LINES = 10  # more than these cannot be told apart
LETTERS = 12.5  # of a legend per inch
ROW = 0.23  # inches of a legend's line
MARKERS = ("o", "s", "^", "D", "v", "P", "X", "*")


def draw_curve(rows: Sequence[Row]) -> Figure:
    """Score against mean visual tokens per layer: a line for each method with 95 % bars, full and blind as reference lines."""
    figure = Figure(figsize=(8, 5), dpi=160, layout="constrained")
    axes = figure.subplots()
    points = [(row.visual_tokens, row) for row in rows if row.method not in REFERENCES and row.visual_tokens]
    methods = list(dict.fromkeys(row.method for _, row in points))
    if len(methods) > LINES:
        methods = _draw_cloud(axes, points, methods)
    for index, (method, label) in enumerate(zip(methods, _labels(methods), strict=True)):
        line = sorted(((tokens, row) for tokens, row in points if row.method == method), key=lambda point: point[0])
        # Methods at one budget would hide each other's bars, so they are shifted a little.
        shift = 1.012 ** (index - (len(methods) - 1) / 2)
        _draw_line(axes, [(tokens * shift, row) for tokens, row in line], label, index)
    for row in rows:
        if row.method in REFERENCES:
            _draw_reference(axes, row)
    _token_axis(axes, [tokens for tokens, _ in points])
    task, model = rows[0].task.upper(), rows[0].model
    axes.set_ylabel(f"{task} score (of {rows[0].max_score:g})")
    axes.set_title(f"{model}: what visual tokens buy on {task}", loc="left", fontsize=12, pad=12, parse_math=False)
    axes.grid(color="#dddddd", linewidth=0.7)
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)
    if methods:
        add_legend(figure, *axes.get_legend_handles_labels())
    return figure


def add_legend(figure: Figure, handles: Sequence[Artist], labels: Sequence[str]) -> None:
    """A legend below a figure, in as many columns as have room there; the figure grows by what has more than one line."""
    room = LETTERS * figure.get_figwidth() / (max(map(len, labels)) + 7)
    columns = max(1, min(len(labels), int(room)))
    figure.set_figheight(figure.get_figheight() + ROW * (math.ceil(len(labels) / columns) - 1))
    figure.legend(handles, labels, loc="outside lower center", ncols=columns, frameon=False)


def _labels(methods: Sequence[str]) -> Sequence[str]:
    """The methods with the folders of their weights by name alone, where that tells them apart."""
    short = list(map(with_short_paths, methods))
    return short if len(set(short)) == len(short) else methods


def _draw_cloud(axes: Axes, points: Sequence[tuple[float, Row]], methods: Sequence[str]) -> list[str]:
    """The methods that have one budget only, as grey dots around the others, which are returned."""
    budgets = Counter(row.method for _, row in points)
    dots = [(tokens, row.score) for tokens, row in points if budgets[row.method] == 1]
    label = f"{len(dots)} plans at one budget"
    axes.plot(
        *zip(*dots, strict=True), color="#bbbbbb", marker="o", markersize=4, linestyle="none", label=label, zorder=2.5
    )
    return [method for method in methods if budgets[method] > 1]


def _draw_line(axes: Axes, points: Sequence[tuple[float, Row]], label: str, index: int) -> None:
    """One method, from cheapest to most expensive."""
    hollow = index >= len(COLOURS)  # the colour is in use; dashed and hollow tells them apart
    colour = COLOURS[index % len(COLOURS)]
    below = [row.score - row.score_interval[0] for _, row in points]
    above = [row.score_interval[1] - row.score for _, row in points]
    axes.errorbar(
        [tokens for tokens, _ in points],
        [row.score for _, row in points],
        yerr=[below, above],
        color=colour,
        linestyle="--" if hollow else "-",
        markerfacecolor="white" if hollow else colour,
        marker=MARKERS[index % len(MARKERS)],
        markersize=6,
        linewidth=1.8,
        elinewidth=1,
        capsize=3,
        label=label,
        zorder=3,
    )


def _draw_reference(axes: Axes, row: Row) -> None:
    """A level that needs no cost, with its interval as a band and its name at the right."""
    axes.axhspan(*row.score_interval, color="black", alpha=0.05, linewidth=0)
    axes.axhline(row.score, color="#333333", linestyle=REFERENCES[row.method], linewidth=1.2, zorder=2)
    axes.annotate(
        f"{row.method}\n{row.score:.0f}",
        (1.01, row.score),
        xycoords=("axes fraction", "data"),
        va="center",
        color="#333333",
        fontsize=9,
        annotation_clip=False,
    )


def _token_axis(axes: Axes, tokens: Sequence[float]) -> None:
    """A logarithmic axis with whole numbers of tokens."""
    axes.set_xscale("log", base=2)
    if tokens:
        low, high = min(tokens), max(tokens)
        axes.set_xlim(low / 1.25, high * 1.25)
        exponents = range(math.floor(math.log2(low)) - 1, math.ceil(math.log2(high)) + 2)
        steps = (1, 1.5) if high / low < 8 else (1,)
        axes.xaxis.set_major_locator(FixedLocator([2**power * step for power in exponents for step in steps]))
    axes.xaxis.set_major_formatter(ScalarFormatter())
    axes.xaxis.set_minor_locator(NullLocator())
    axes.set_xlabel("visual tokens, mean over decoder layers (log scale)")
