"""Which heads look at the picture: how much by head, which one most, how often, and how different the samples are.

    python -m llava.analysis.heads --model-path playground/checkpoints/llava-shapes-v1 --task scienceqa \
        --question-file playground/data/eval/scienceqa-shapes --output-dir heads

writes ``statistics.json``, ``records.json`` (one entry per sample), ``heads.png`` (layers by heads), ``histogram.png``
(how the values are spread, by layer) and ``max_heads.png``. T2V is the share of a head's attention that the words after
the picture pay to the picture, V2T the share that the picture's rows pay to words, without BOS; both are means over the
rows. Where the picture stands before its question, V2T can only go to the system prompt.
"""

from __future__ import annotations

import argparse
import math
import sys
from collections.abc import Sequence

import numpy as np
from matplotlib.figure import Figure
from scipy.stats import entropy

from llava.cli.console import launch
from llava.eval.report.curve import COLOURS
from llava.files import write_json

from .command import add_plan_flag, analysis_settings, common_parser
from .figures import draw_table
from .flow import shares
from .numbers import by_category, rounded
from .observe import GROUPS, LayerAttention, Observer
from .session import AnalysisSettings, Session

WIDTH = 0.05  # of one bin of a histogram from 0 to 1
TEXT, SYSTEM, VISUAL = (GROUPS.index(name) for name in ("text", "system", "visual"))


def measure(attention: LayerAttention) -> tuple[np.ndarray, np.ndarray, int]:
    """T2V and V2T of every head (H,) each, and the head with the largest single entry of the text-to-picture block.

    The last is -1 where no picture token is left.
    """
    table = shares(attention)
    block = attention.block("text", "visual")
    strongest = int(block.amax((1, 2)).argmax()) if block.numel() else -1
    return table[TEXT, VISUAL], table[VISUAL, SYSTEM] + table[VISUAL, TEXT], strongest


def head_statistics(strongest: np.ndarray, heads: int, top: int = 5) -> dict:
    """Counts of the strongest head (n, L) and what they say, under the documents' names.

    ``layer_head_counts`` (L, H) samples in which that head is the layer's strongest; ``head_frequency_total`` (H,) over all
    layers; ``top_k_heads_per_layer``; ``layer_diversity`` how many heads are ever strongest, and the entropy of the counts in bits (0:
    always the same head, log2 H: all alike).
    """
    counts = np.array([np.bincount(layer[layer >= 0], minlength=heads) for layer in strongest.T])
    order = np.argsort(-counts, axis=1, kind="stable")[:, :top]
    spread = np.nan_to_num(entropy(counts, base=2, axis=1))
    return {
        "layer_head_counts": counts,
        "head_frequency_total": counts.sum(0),
        "top_k_heads_per_layer": [
            [{"head": int(head), "count": int(layer[head])} for head in heads_of if layer[head]]
            for layer, heads_of in zip(counts, order)
        ],
        "layer_diversity": [
            {"unique_heads": int((layer > 0).sum()), "entropy_bits": float(bits)} for layer, bits in zip(counts, spread)
        ],
    }


def draw_histograms(values: dict[str, np.ndarray]) -> Figure:
    """One small histogram per layer of (n, L, H) values, those of each name stacked."""
    layers = next(iter(values.values())).shape[1]
    columns = min(5, layers)
    rows = math.ceil(layers / columns)
    figure = Figure(figsize=(2.3 * columns + 0.6, 1.9 * rows + 1.0), dpi=150, layout="constrained")
    places = np.atleast_1d(figure.subplots(rows, columns, sharex=True, sharey=True)).ravel()
    bins = np.linspace(0, 1, round(1 / WIDTH) + 1)
    for layer, axes in enumerate(places[:layers]):
        drawn = [np.clip(group[:, layer].ravel(), 0, 1) for group in values.values()]
        weights = [np.full(len(group), 1 / len(group)) for group in drawn]
        for number, (name, group, weight) in enumerate(zip(values, drawn, weights)):
            axes.hist(group, bins, weights=weight, color=COLOURS[number], alpha=0.65, label=name)
        axes.set_title(f"layer {layer}", fontsize=8, loc="left")
        axes.spines[["top", "right"]].set_visible(False)
        axes.tick_params(labelsize=8)
    for axes in places[layers:]:
        axes.set_axis_off()
    figure.suptitle("How much single heads look across, all samples", fontsize=11, x=0.01, ha="left")
    figure.supxlabel("share of a head's attention", fontsize=10)
    figure.supylabel("share of heads and samples", fontsize=10)
    handles, labels = places[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside upper right", ncols=len(labels), frameon=False)
    return figure


def run(settings: AnalysisSettings) -> None:
    """Measure every question's heads and write files."""
    session = Session(settings)
    lines, layers = session.measure(Observer(session.subject, measure))
    to_picture, to_words, strongest = (
        np.array([[layer[part] for layer in sample] for sample in layers]) for part in range(3)
    )
    heads = to_picture.shape[-1]
    statistics = head_statistics(strongest, heads)
    counts = statistics["layer_head_counts"]
    figures = {
        "heads": draw_table(
            to_picture.mean(0),
            "T2V: words to picture, mean over samples",
            "head",
            "decoder layer",
            "share of attention",
        ),
        "max_heads": draw_table(
            counts / max(1, len(lines)),
            "The head with the strongest look at the picture",
            "head",
            "decoder layer",
            "share of the samples",
        ),
        "histogram": draw_histograms({"T2V, words to picture": to_picture, "V2T, picture to words": to_words}),
    }
    content = {
        "num_samples": len(lines),
        "num_heads": heads,
        **statistics,
        "t2v": to_picture.mean(0),
        "v2t": to_words.mean(0),
        "t2v_by_category": {name: group.mean((0, 2)) for name, group in by_category(lines, to_picture).items()},
    }
    records = [{**line, "max_head_per_layer": heads_of_layers} for line, heads_of_layers in zip(lines, strongest)]
    write_json(settings.output_dir / "records.json", rounded(records))
    session.save("statistics", content, figures)


def parser() -> argparse.ArgumentParser:
    """The command line."""
    flags = common_parser("heads", "Which heads look at the picture.", "attention_head_analysis")
    add_plan_flag(flags)
    return flags


def work(options: argparse.Namespace) -> None:
    """Run what a command line asks for."""
    run(analysis_settings(options))


def main(arguments: Sequence[str] | None = None) -> int:
    """The command line; returns 0, or 2 for bad input."""
    return launch(parser(), work, arguments, stopped=None)


if __name__ == "__main__":
    sys.exit(main())
