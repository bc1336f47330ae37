"""How spread the attention to the picture is: 0 when it lies on one token, ln N when it lies evenly on N.

    python -m llava.analysis.entropy --model-path playground/checkpoints/llava-shapes-v1 --task mme \
        --question-file playground/data/eval/MME-shapes --output-dir entropy

writes ``entropy.json``, ``entropy.png`` and ``entropy_by_category.png``. Rows are those that see the picture, the words after it;
each head's row is taken by itself, in float32. (The documents' programs also average rows before the picture, which see none of it,
and in float16 their entropies are not numbers.)
"""

from __future__ import annotations

import argparse
import math
import sys
from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from .command import Session, add_plan_flag, by_category, common_parser, launch
from .figures import draw_layers, draw_table
from .observe import Observer, Sight

READINGS = {
    "picture": "entropy over the picture, nats",
    "picture_of_mean_head": "entropy over the picture of the heads' mean, nats",
    "whole": "entropy over everything seen, nats",
}


def entropy(weights: Tensor) -> Tensor:
    """Entropy in nats of weights (..., N), scaled to sum to 1: (...); NaN where all are zero."""
    share = weights / weights.sum(-1, keepdim=True)
    return torch.special.entr(share).sum(-1)


def measure(sight: Sight) -> dict[str, float]:
    """The three readings of one layer, mean over the rows of the words after the picture (and over the heads).

    ``picture``: of a row's attention to the picture, scaled to sum to 1; ``picture_of_mean_head``: of the heads' mean row, high
    also where every head looks at one token but each at another; ``whole``: of all that a row sees. ``even``: ln N, the largest that
    the first two can be. NaN where no picture token is left.
    """
    parts = {name: [] for name in READINGS}
    for rows in sight.chunks("text"):  # (H, r, S)
        to_picture = rows[..., sight.columns["visual"]]
        parts["picture"].append(entropy(to_picture).mean(0))
        parts["picture_of_mean_head"].append(entropy(to_picture.mean(0)))
        parts["whole"].append(entropy(rows).mean(0))
    tokens = len(sight.columns["visual"])
    found = {name: float(torch.cat(values).mean()) for name, values in parts.items()}
    if not tokens:
        found |= {"picture": math.nan, "picture_of_mean_head": math.nan}
    return {**found, "even": math.log(tokens) if tokens else math.nan}


def run(given: argparse.Namespace) -> None:
    """Measure the entropy of every question and write files."""
    session = Session(given)
    lines, found = session.measure(Observer(session.subject, measure))
    values = {name: np.array([[layer[name] for layer in one] for one in found]) for name in found[0][0]}
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
        **{name: one.mean(0) for name, one in values.items()},
        "by_category": {name: group.mean(0) for name, group in categories.items()},
        "per_sample": [{**line, "picture": one} for line, one in zip(lines, values["picture"])],
    }
    session.save("entropy", content, figures)


def parser() -> argparse.ArgumentParser:
    """The command line."""
    found = common_parser("entropy", "How spread the attention to the picture is.", "observation_results")
    add_plan_flag(found)
    return found


def main(arguments: Sequence[str] | None = None) -> int:
    """The command line; returns 0, or 2 for bad input."""
    return launch(parser(), run, arguments)


if __name__ == "__main__":
    sys.exit(main())
