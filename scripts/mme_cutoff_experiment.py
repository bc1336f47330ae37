"""Until which layer MME needs the picture: all visual tokens are taken away from layer 2 on, from layer 3 on, and so on.

    python scripts/mme_cutoff_experiment.py --model-path playground/checkpoints/llava-shapes-v1 \
        --question-file playground/data/eval/MME-shapes

This is FastV with a rank of 0. At the model's depth nothing is taken away. The control has as many visual tokens on the mean
of the layers, but the same ones in every layer: a random share of the picture.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence

from llava.experiments import (
    Experiment,
    add_layer_flags,
    cut,
    draw,
    flat_table,
    halves_panel,
    launch,
    mme_table,
    save,
    total_panel,
)
from llava.experiments import parser as common


def parser() -> argparse.ArgumentParser:
    """The common flags and the two ends of the sweep."""
    flags = common(__doc__, "mme_layer_cutoff_results.json", "mme_layer_cutoff_plot.png")
    add_layer_flags(flags, 2)
    return flags


def run(given: argparse.Namespace) -> None:
    """Evaluate, write JSON and figure."""
    experiment = Experiment("mme_cutoff", "mme", given)
    sweep = experiment.sweep({"cut-off": experiment.over_layers(lambda layer: cut([], layer, experiment.layers))})
    title = f"MME, {experiment.about}: no picture from a layer on"
    label = "first layer without visual tokens\n(random: as many tokens on the mean of the layers)"
    save(given, flat_table(sweep, mme_table), draw([total_panel(sweep), halves_panel(sweep)], title, label))


def main(arguments: Sequence[str] | None = None) -> int:
    """The command line; returns 0, or 2 for bad input."""
    return launch(parser(), run, arguments)


if __name__ == "__main__":
    sys.exit(main())
