"""The record of a merger's training: one line per step, and their drawing."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

from matplotlib.figure import Figure


def read_metrics(file: Path) -> list[dict]:
    """The lines of ``metrics.jsonl``; half a line of a killed run is left out."""
    whole = file.read_text(encoding="utf-8").rpartition("\n")[0]
    return [json.loads(line) for line in whole.split("\n") if line]


def add_metrics(file: Path, line: dict) -> None:
    """Add a step's line."""
    with open(file, "a", encoding="utf-8") as stream:
        stream.write(json.dumps(line) + "\n")


def keep_metrics_before(file: Path, step: int) -> None:
    """Leave out the lines of steps that are done again."""
    if file.is_file():
        lines = [line for line in read_metrics(file) if line["step"] < step]
        file.write_text("".join(json.dumps(line) + "\n" for line in lines), encoding="utf-8")


def draw_loss(lines: Sequence[dict], title: str) -> Figure:
    """Every step's loss by budget as points, with a running mean for each budget."""
    figure = Figure(figsize=(8, 4.5), dpi=150, layout="constrained")
    axes = figure.subplots()
    for number, budget in enumerate(sorted({line["budget"] for line in lines}, reverse=True)):
        steps = [line["step"] for line in lines if line["budget"] == budget]
        values = [line["loss"] for line in lines if line["budget"] == budget]
        axes.plot(steps, values, ".", markersize=2, alpha=0.25, color=f"C{number}")
        means = running_means(values, max(1, len(values) // 20))
        axes.plot(steps, means, color=f"C{number}", label=f"{budget} tokens")
    axes.set(xlabel="step", ylabel="loss", title=title)
    axes.set_ylim(bottom=0)
    axes.grid(color="#dddddd", linewidth=0.7)
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(frameon=False)
    return figure


def running_means(values: Sequence[float], width: int) -> list[float]:
    """The mean of every value with up to ``width`` values before it."""
    windows = [values[max(0, end - width) : end + 1] for end in range(len(values))]
    return [sum(window) / len(window) for window in windows]
