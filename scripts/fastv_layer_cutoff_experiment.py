"""Until which layer ScienceQA needs the picture: all visual tokens are taken away from layer 2 on, from layer 3 on, and so on.

    python scripts/fastv_layer_cutoff_experiment.py --model-path playground/checkpoints/llava-shapes-v1 \
        --question-file playground/data/eval/ScienceQA-shapes/himap-inference-MCQ.json

This is FastV with a rank of 0. At the model's depth nothing is taken away. The control has as many visual tokens on the mean
of the layers, but the same ones in every layer: a random share of the picture.
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
    cut,
    draw,
    flat_table,
    launch,
    save,
)
from llava.experiments import parser as common


def parser() -> argparse.ArgumentParser:
    """The common flags and the two ends of the sweep."""
    flags = common(__doc__, "fastv_layer_cutoff_results.json", "fastv_layer_cutoff_plot.png")
    add_layer_flags(flags, 2)
    return flags


def run(given: argparse.Namespace) -> None:
    """Evaluate, write JSON and figure."""
    experiment = Experiment("fastv_layer_cutoff", "scienceqa", given)
    sweep = experiment.sweep({"cut-off": experiment.over_layers(lambda layer: cut([], layer, experiment.layers))})
    title = f"ScienceQA, {experiment.about}: no picture from a layer on"
    label = "first layer without visual tokens\n(random: as many tokens on the mean of the layers)"
    content = {**flat_table(sweep, accuracy_table), **baseline(sweep)}
    save(given, content, draw([accuracy_panel(sweep)], title, label))


def main(arguments: Sequence[str] | None = None) -> int:
    """The command line; returns 0, or 2 for bad input."""
    return launch(parser(), run, arguments)


if __name__ == "__main__":
    sys.exit(main())
