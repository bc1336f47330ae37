"""How spread the attention to the picture is: 0 when it lies on one token, ln N when it lies evenly on N.

    python -m llava.analysis.entropy --model-path playground/checkpoints/llava-shapes-v1 --task mme \
        --question-file playground/data/eval/MME-shapes --output-dir entropy

writes ``entropy.json``, ``entropy.png`` and ``entropy_by_category.png``. Rows are the words after the picture, which
see it; each head's row is taken separately, in float32. (The documents' programs also average rows before the picture,
which see none of it, and in float16 their entropies are not numbers.)
"""

from __future__ import annotations

import argparse
import math
import sys
from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from llava.cli.console import launch

from .command import add_plan_flag, analysis_settings, common_parser
from .figures import draw_layers, draw_table
from .numbers import by_category
from .observe import LayerAttention, Observer
from .session import AnalysisSettings, Session

READINGS = {
    "picture": "entropy over the picture, nats",
    "picture_of_mean_head": "entropy over the picture of the heads' mean, nats",
    "whole": "entropy over everything seen, nats",
}


def entropy(weights: Tensor) -> Tensor:
    """Entropy in nats of weights (..., N), scaled to sum to 1: (...); NaN where all are zero."""
    share = weights / weights.sum(-1, keepdim=True)
    return torch.special.entr(share).sum(-1)


def measure(attention: LayerAttention) -> dict[str, float]:
    """The three readings of one layer, mean over the rows of the words after the picture (and over the heads).

    ``picture``: of a row's attention to the picture, scaled to sum to 1; ``picture_of_mean_head``: that of the heads'
    mean row, which is high even where every head looks at one token but each at a different one; ``whole``: that of all
    that a row sees. ``even``: ln N, the largest that the first two can be. NaN where no picture token is left.
    """
    parts = {name: [] for name in READINGS}
    for rows in attention.chunks("text"):  # (H, r, S)
        to_picture = rows[..., attention.columns["visual"]]
        parts["picture"].append(entropy(to_picture).mean(0))
        parts["picture_of_mean_head"].append(entropy(to_picture.mean(0)))
        parts["whole"].append(entropy(rows).mean(0))
    tokens = len(attention.columns["visual"])
    means = {name: float(torch.cat(values).mean()) for name, values in parts.items()}
    if not tokens:
        means |= {"picture": math.nan, "picture_of_mean_head": math.nan}
    return {**means, "even": math.log(tokens) if tokens else math.nan}


def run(settings: AnalysisSettings) -> None:
    """Measure the entropy of every question and write files."""
    session = Session(settings)
    lines, layers = session.measure(Observer(session.subject, measure))
    values = {name: np.array([[layer[name] for layer in sample] for sample in layers]) for name in layers[0][0]}
    categories = by_category(lines, values["picture"])
    curves = {
        "each head": values["picture"],
        "heads' mean": values["picture_of_mean_head"],
        "even (ln N)": values["even"],
    }
    figures = {
        "entropy": draw_layers(
            {"entropy over the picture, nats": curves, READINGS["whole"]: {"each head": values["whole"]}},
            lines,
            f"How spread the words' attention is: mean of {len(lines)} samples",
        ),
        "entropy_by_category": draw_table(
            np.array([group.mean(0) for group in categories.values()]),
            "Entropy over the picture, by category",
            "decoder layer",
            "",
            "nats",
            list(categories),
            limits=(None, None),
        ),
    }
    content = {
        "samples": len(lines),
        **{name: value.mean(0) for name, value in values.items()},
        "by_category": {name: group.mean(0) for name, group in categories.items()},
        "per_sample": [{**line, "picture": value} for line, value in zip(lines, values["picture"])],
    }
    session.save("entropy", content, figures)


def parser() -> argparse.ArgumentParser:
    """The command line."""
    flags = common_parser("entropy", "How spread the attention to the picture is.", "observation_results")
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
