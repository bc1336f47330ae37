"""Drawings that several analyses use: a table of numbers as colours, and curves over layers with their intervals."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from matplotlib.figure import Figure

from llava.eval.report.panels import Panel, draw
from llava.eval.tasks.base import Line
from llava.eval.tasks.statistics import bootstrap

COLOUR_MAP = "viridis"  # even in lightness: readable for every kind of colour vision, and in grey


def layer_curve(values: np.ndarray, lines: Sequence[Line]) -> dict[int, tuple[float, list[float]]]:
    """Mean over the samples of (n, L) values, layer by layer, with the 95 % bootstrap interval over their pictures."""
    pictures = [line["picture"] for line in lines]
    member = np.array(list(dict.fromkeys(pictures)))[:, None] == np.array(pictures)  # (pictures, n)
    sums, sizes = member @ values, member.sum(1)
    return {
        layer: (float(values[:, layer].mean()), bootstrap(sums[:, layer], sizes)) for layer in range(values.shape[1])
    }


def draw_layers(panels: Mapping[str, Mapping[str, np.ndarray]], lines: Sequence[Line], title: str) -> Figure:
    """One panel per label of a y axis, each with curves by name, of (n, L) values over the layers."""
    drawn = [
        Panel(label, {name: layer_curve(values, lines) for name, values in curves.items()})
        for label, curves in panels.items()
    ]
    return draw(drawn, title, "decoder layer")


def draw_table(
    values: np.ndarray,
    title: str,
    x_label: str,
    y_label: str,
    scale: str,
    rows: Sequence[str] | None = None,
    limits: tuple[float | None, float | None] = (0, None),
) -> Figure:
    """Values (R, C) as colours with a scale; ``rows`` names the rows, columns and unnamed rows are numbered."""
    height, width = values.shape
    figure = Figure(figsize=(max(5.0, 2.6 + 0.34 * width), max(2.8, 1.5 + 0.3 * height)), dpi=150, layout="constrained")
    axes = figure.subplots()
    shown = axes.imshow(values, cmap=COLOUR_MAP, aspect="auto", vmin=limits[0], vmax=limits[1], interpolation="nearest")
    axes.set_title(title, loc="left", fontsize=11)
    axes.set_xlabel(x_label)
    axes.set_ylabel(y_label)
    axes.set_xticks(range(0, width, max(1, width // 16)))
    step = 1 if rows else max(1, height // 16)
    axes.set_yticks(range(0, height, step), rows or [str(number) for number in range(0, height, step)])
    figure.colorbar(shown, label=scale)
    return figure
