"""Pruning by diversity on MME: a few tokens, chosen by how they differ and left as they are, from layer 1 on, 2 on, ...

    python scripts/mme_diversity_pruning_experiment.py --model-path playground/checkpoints/llava-shapes-v1 \
        --question-file playground/data/eval/MME-shapes --methods fps,tome --keep-tokens 8

``fps`` takes tokens far apart from each other, ``tome`` the hearts of clusters. Only the picture's tokens are chosen among;
they keep their order and positions. At the model's depth nothing is taken away.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence

import torch
from torch import Tensor

from llava.experiments import (
    Experiment,
    add_layer_flags,
    draw,
    halves_panel,
    launch,
    mme_table,
    save,
    tables,
    total_panel,
)
from llava.experiments import parser as common
from llava.reduction import Evidence, Stage, did_you_mean
from llava.reduction.centres import STRATEGIES, Centres
from llava.reduction.score import similarity

METHODS = ("fps", "tome")


class Diversity(Centres):
    """Keep k tokens that stand for the others, unmixed; alike is what has a high cosine or ("l2") a short distance.

    tokens (G, N, D) -> kept (G, k).
    """

    name = "diversity"
    merges = False

    def __init__(self, strategy: str = "fps", metric: str = "cosine"):
        super().__init__(strategy, start=None, cover=None, least=1, semantic=0.0)
        self.metric = metric

    def select(self, tokens: Tensor, evidence: Evidence, k: int) -> Tensor:
        tokens = tokens.float()
        alike = similarity(tokens) if self.metric == "cosine" else -torch.cdist(tokens, tokens)
        return STRATEGIES[self.strategy](alike, k, None)

    def flops(self, rows: int, tokens: int, kept: int, width: int) -> float:
        return 2 * tokens * tokens * width


def parser() -> argparse.ArgumentParser:
    """The common flags, the methods, and the two ends of the sweep."""
    flags = common(__doc__, "mme_diversity_pruning_results.json", "mme_diversity_pruning_plot.png")
    add_layer_flags(flags, 1, names=("layer_start", "layer_end"))
    add = flags.add_argument_group("selection").add_argument
    add("--keep-tokens", "--keep_tokens", type=int, default=8, help="tokens kept (default: 8)")
    add("--methods", default=",".join(METHODS), help=f"of {', '.join(METHODS)}, with commas (default: all)")
    add("--metric", choices=("cosine", "l2"), default="cosine", help="of likeness (default: cosine)")
    return flags


def run(given: argparse.Namespace) -> None:
    """Evaluate, write JSON and figure."""
    methods = list(dict.fromkeys(given.methods.split(",")))
    for name in methods:
        if name not in METHODS:
            raise ValueError(
                f"--methods {name!r} is unknown{did_you_mean(name, METHODS)}; choose of {', '.join(METHODS)}"
            )
    experiment = Experiment("mme_diversity_pruning", "mme", given, budget="keep_tokens")
    curves = {
        name: experiment.over_layers(
            lambda layer, name=name: [Stage(Diversity(name, given.metric), "layer", layer, given.keep_tokens)]
        )
        for name in methods
    }
    sweep = experiment.sweep(curves)
    title = f"MME, {experiment.about}: {given.keep_tokens} visual tokens from a layer on"
    label = "layer from which on the tokens are reduced"
    save(given, tables(sweep, mme_table), draw([total_panel(sweep), halves_panel(sweep)], title, label))


def main(arguments: Sequence[str] | None = None) -> int:
    """The command line; returns 0, or 2 for bad input."""
    return launch(parser(), run, arguments)


if __name__ == "__main__":
    sys.exit(main())
