"""How few tokens are enough, and from where: FastV keeps 8 of them from layer 2 on, from layer 3 on, and so on.

    python scripts/fastv_sparse_layer_experiment.py --model-path playground/checkpoints/llava-shapes-v1 \
        --question-file playground/data/eval/ScienceQA-shapes/himap-inference-MCQ.json --kept-tokens 8

The tokens are chosen by the attention of the layer before, out of all of the picture's. At the model's depth nothing is
taken away.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence

from llava.experiments import (
    Experiment,
    accuracy_panel,
    accuracy_table,
    add_layer_flags,
    baseline,
    draw,
    flat_table,
    launch,
    save,
)
from llava.experiments import parser as common
from llava.reduction import make_stage


def parser() -> argparse.ArgumentParser:
    """The common flags, the two ends of the sweep, and the number of tokens."""
    flags = common(__doc__, "fastv_sparse_layer_results.json", "fastv_sparse_layer_plot.png")
    add_layer_flags(flags, 2)
    flags.add_argument("--kept-tokens", "--kept_tokens", type=int, default=8, help="tokens kept (default: 8)")
    return flags


def run(given: argparse.Namespace) -> None:
    """Evaluate, write JSON and figure."""
    experiment, kept = Experiment("fastv_sparse_layer", "scienceqa", given, budget="kept_tokens"), given.kept_tokens
    curve = experiment.over_layers(lambda layer: [make_stage("fastv", layer=layer, keep=kept)])
    sweep = experiment.sweep({"fastv": curve})
    content = {"kept_tokens": kept, **flat_table(sweep, accuracy_table), **baseline(sweep)}
    title = f"ScienceQA, {experiment.about}: {kept} visual tokens from a layer on"
    save(given, content, draw([accuracy_panel(sweep)], title, "layer from which on the tokens are reduced"))


def main(arguments: Sequence[str] | None = None) -> int:
    """The command line; returns 0, or 2 for bad input."""
    return launch(parser(), run, arguments)


if __name__ == "__main__":
    sys.exit(main())
