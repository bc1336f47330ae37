"""How attention is shared out between words and picture: layer by layer, sample by sample, subtask by subtask.

    python -m llava.analysis.flow --model-path playground/checkpoints/llava-shapes-v1 --task mme \
        --question-file playground/data/eval/MME-shapes --samples-per-category 8 --output-dir flow

writes ``flow.json``, ``flow.png`` (who looks where), ``flow_by_category.png`` and ``flow_samples.png`` (how the words look at
the picture). A share is the attention that the rows of one group pay to the columns of another, mean over rows and heads; for
every group of rows the shares sum to 1. Groups are those of ``observe.token_groups``: unlike in the documents'
programs, BOS is a group of its own and the words before the picture do not count as text. With one picture
``visual_to_text`` is therefore 0, as is ``system_to_visual``: nothing looks ahead.
"""

from __future__ import annotations

import argparse
import math
import re
import sys
from collections.abc import Sequence

import numpy as np
import torch
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from llava.cli.console import launch
from llava.eval.report.curve import COLOURS
from llava.eval.tasks.base import Line

from .command import add_plan_flag, analysis_settings, common_parser
from .figures import draw_layers, draw_table
from .numbers import by_category
from .observe import GROUPS, LayerAttention, Observer
from .session import AnalysisSettings, Session

# the documents' eight, and what goes to BOS
SHARES = tuple(
    f"{queries}_to_{keys}"
    for queries, keys in (
        ("text", "text"),
        ("text", "visual"),
        ("visual", "text"),
        ("visual", "visual"),
        ("system", "text"),
        ("system", "visual"),
        ("text", "system"),
        ("visual", "system"),
        ("text", "bos"),
        ("visual", "bos"),
    )
)
ROWS = {"text": "words after the picture", "visual": "picture"}


def shares(attention: LayerAttention) -> np.ndarray:
    """Shares (4, 4, H) of attention, from the rows of each group of ``GROUPS`` to the columns of each, by head.

    A group without rows has zeros, one with rows sums to 1 over the second axis.
    """
    totals = []
    for queries in GROUPS:
        total, rows = 0, max(1, len(attention.columns[queries]))
        for chunk in attention.chunks(queries):
            seen = [chunk[..., attention.columns[keys]].sum((-1, -2)) for keys in GROUPS]
            total = total + torch.stack(seen) / rows
        totals.append(total)
    heads = next(one for one in totals if isinstance(one, torch.Tensor))
    return (
        torch.stack([one if isinstance(one, torch.Tensor) else torch.zeros_like(heads) for one in totals]).cpu().numpy()
    )


def named(table: np.ndarray) -> dict[str, np.ndarray]:
    """Those shares (n, L, 4, 4) that have a name, (n, L) each."""
    places = {name: tuple(map(GROUPS.index, name.split("_to_"))) for name in SHARES}
    return {name: table[..., queries, keys] for name, (queries, keys) in places.items()}


def draw_flow(table: np.ndarray, lines: Sequence[Line], title: str) -> Figure:
    """Where the words and where the picture look, layer by layer, with 95 % intervals."""
    panels = {
        f"share of attention, rows: {label}": {
            f"to {keys}": table[..., GROUPS.index(queries), place] for place, keys in enumerate(GROUPS)
        }
        for queries, label in ROWS.items()
    }
    return draw_layers(panels, lines, title)


def draw_samples(values: np.ndarray, lines: Sequence[Line]) -> Figure:
    """One line per sample of (n, L) values, one small drawing per category, with the category's mean."""
    groups = by_category(lines, values)
    columns = min(4, len(groups))
    rows = math.ceil(len(groups) / columns)
    figure = Figure(figsize=(2.8 * columns + 0.6, 2.3 * rows + 0.6), dpi=150, layout="constrained")
    places = np.atleast_1d(figure.subplots(rows, columns, sharex=True, sharey=True)).ravel()
    for axes, (name, group) in zip(places, groups.items()):
        axes.plot(group.T, color=COLOURS[0], alpha=0.35, linewidth=0.8)
        axes.plot(group.mean(0), color="black", linewidth=1.8)
        axes.set_title(f"{name} ({len(group)})", fontsize=9, loc="left")
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        axes.grid(color="#dddddd", linewidth=0.6)
        axes.spines[["top", "right"]].set_visible(False)
    for axes in places[len(groups) :]:
        axes.set_axis_off()
    figure.suptitle("Words to picture, one line per sample, black the mean", fontsize=11, x=0.01, ha="left")
    figure.supxlabel("decoder layer", fontsize=10)
    figure.supylabel("share of the words' attention", fontsize=10)
    return figure


def run(settings: AnalysisSettings, each_sample: bool = False) -> None:
    """Measure the shares of every question and write files."""
    session = Session(settings)
    lines, layers = session.measure(Observer(session.subject, lambda attention: shares(attention).mean(-1)))
    table = np.array(layers)  # (n, L, 4, 4)
    by_name = named(table)
    to_picture = by_name["text_to_visual"]
    categories = by_category(lines, to_picture)
    figures = {
        "flow": draw_flow(table, lines, f"Who looks where: mean of {len(lines)} samples"),
        "flow_by_category": draw_table(
            np.array([group.mean(0) for group in categories.values()]),
            "Words to picture, by category",
            "decoder layer",
            "",
            "share of the words' attention",
            list(categories),
        ),
        "flow_samples": draw_samples(to_picture, lines),
    }
    if each_sample:
        for number, line in enumerate(lines):
            stem = "sample_" + re.sub(r"\W+", "_", line["key"])
            figures[stem] = draw_flow(table[number : number + 1], [line], f"{line['key']}: {line['answer']}")
    content = {
        "samples": len(lines),
        "groups": "bos, system (before the picture), visual, text (after it)",
        "shares": {name: values.mean(0) for name, values in by_name.items()},
        "by_category": {
            name: {share: values.mean(0) for share, values in named(group).items()}
            for name, group in by_category(lines, table).items()
        },
        "per_sample": [
            {**line, "text_to_visual": values, "mean_text_to_visual": values.mean()}
            for line, values in zip(lines, to_picture)
        ],
    }
    session.save("flow", content, figures)


def parser() -> argparse.ArgumentParser:
    """The command line."""
    flags = common_parser("flow", "How attention is shared out between words and picture.", "mme_attention_observation")
    add_plan_flag(flags)
    flags.add_argument(
        "--plot-individual", "--plot_individual", action="store_true", help="also draw a figure of every sample"
    )
    return flags


def work(options: argparse.Namespace) -> None:
    """Run what a command line asks for."""
    run(analysis_settings(options), options.plot_individual)


def main(arguments: Sequence[str] | None = None) -> int:
    """The command line; returns 0, or 2 for bad input."""
    return launch(parser(), work, arguments, stopped=None)


if __name__ == "__main__":
    sys.exit(main())
