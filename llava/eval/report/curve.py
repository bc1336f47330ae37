"""Score against cost, as a figure for paper and READMEs; the page of a report draws its own."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence

from matplotlib.artist import Artist
from matplotlib.figure import Figure
from matplotlib.ticker import FixedLocator, NullLocator, ScalarFormatter

from .rows import REFERENCES, Row

# Okabe and Ito's colours, which stay apart for every kind of colour vision; black is the reference lines'.
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#8C6D31", "#6A3D9A")
LINES = 10  # more than these cannot be told apart
LETTERS = 12.5  # of a legend in an inch
MARKERS = ("o", "s", "^", "D", "v", "P", "X", "*")


def draw_curve(rows: Sequence[Row]) -> Figure:
    """Score against mean visual tokens per layer: a line a method with 95 % bars, full and blind as reference lines."""
    figure = Figure(figsize=(8, 5), dpi=160, layout="constrained")
    axes = figure.subplots()
    points = [row for row in rows if row.method not in REFERENCES and row.visual_tokens]
    methods = list(dict.fromkeys(row.method for row in points))
    if len(methods) > LINES:  # then those at one budget are no lines but a cloud around the others
        budgets = Counter(row.method for row in points)
        alone = [row for row in points if budgets[row.method] == 1]
        methods = [method for method in methods if budgets[method] > 1]
        label = f"{len(alone)} plans at one budget"
        style = {"color": "#bbbbbb", "marker": "o", "markersize": 4, "linestyle": "none", "label": label, "zorder": 2.5}
        axes.plot([row.visual_tokens for row in alone], [row.score for row in alone], **style)
    for number, method in enumerate(methods):
        line = sorted((row for row in points if row.method == method), key=lambda row: row.visual_tokens)
        # Methods at one budget would hide each other's bars: set them a hair apart.
        apart = 1.012 ** (number - (len(methods) - 1) / 2)
        again = number >= len(COLOURS)  # of those already used; dashed and hollow
        colour = COLOURS[number % len(COLOURS)]
        axes.errorbar(
            [row.visual_tokens * apart for row in line],
            [row.score for row in line],
            yerr=list(zip(*((row.score - row.score_interval[0], row.score_interval[1] - row.score) for row in line))),
            color=colour,
            linestyle="--" if again else "-",
            markerfacecolor="white" if again else colour,
            marker=MARKERS[number % len(MARKERS)],
            markersize=6,
            linewidth=1.8,
            elinewidth=1,
            capsize=3,
            label=method,
            zorder=3,
        )
    for row in rows:
        if row.method in REFERENCES:
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
    axes.set_xscale("log", base=2)
    if points:
        low, high = (choose(row.visual_tokens for row in points) for choose in (min, max))
        axes.set_xlim(low / 1.25, high * 1.25)
        exponents = range(math.floor(math.log2(low)) - 1, math.ceil(math.log2(high)) + 2)
        steps = (1, 1.5) if high / low < 8 else (1,)
        axes.xaxis.set_major_locator(FixedLocator([2**power * step for power in exponents for step in steps]))
    axes.xaxis.set_major_formatter(ScalarFormatter())
    axes.xaxis.set_minor_locator(NullLocator())
    axes.set_xlabel("visual tokens, mean over decoder layers (log scale)")
    axes.set_ylabel(f"{rows[0].task.upper()} score (of {rows[0].max_score:g})")
    axes.set_title(
        f"{rows[0].model}: what visual tokens buy on {rows[0].task.upper()}", loc="left", fontsize=12, pad=12
    )
    axes.grid(color="#dddddd", linewidth=0.7)
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)
    if methods:
        add_legend(figure, *axes.get_legend_handles_labels())
    return figure


def add_legend(figure: Figure, handles: Sequence[Artist], labels: Sequence[str]) -> None:
    """A legend below a figure, in as many columns as have room there."""
    room = LETTERS * figure.get_figwidth() / (max(map(len, labels)) + 7)
    columns = max(1, min(len(labels), int(room)))
    figure.legend(handles, labels, loc="outside lower center", ncols=columns, frameon=False)
