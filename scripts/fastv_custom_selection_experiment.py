"""Custom selection from layer 2 on, from layer 3 on, and so on: a few centres, each mixed with what is like it.

    python scripts/fastv_custom_selection_experiment.py --model-path playground/checkpoints/llava-shapes-v1 \
        --question-file playground/data/eval/ScienceQA-shapes/himap-inference-MCQ.json --kept-tokens 8 --selection-method fps

The other tokens are dropped; ``--custom-placement zero_fill`` puts zeros in their place, as the documents' scripts do, which
saves nothing. At the model's depth nothing is taken away.
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
    """The common flags, the two ends of the sweep, and how tokens are selected."""
    flags = common(__doc__, "custom_selection_results.json", "custom_selection_plot.png")
    add_layer_flags(flags, 2)
    add = flags.add_argument_group("selection").add_argument
    add("--kept-tokens", "--kept_tokens", type=int, default=8, help="tokens kept (default: 8)")
    add("--selection-method", "--selection_method", choices=("fps", "tome"), default="fps")
    add("--custom-temperature", "--custom_temperature", type=float, default=0.1, help="of the mixture (default: 0.1)")
    add("--custom-placement", "--custom_placement", choices=("drop", "zero_fill"), default="drop")
    return flags


def run(given: argparse.Namespace) -> None:
    """Evaluate, write JSON and figure."""
    experiment, kept = Experiment("fastv_custom_selection", "scienceqa", given, budget="kept_tokens"), given.kept_tokens
    options = {"strategy": given.selection_method, "temperature": given.custom_temperature}
    curve = experiment.over_layers(
        lambda layer: [make_stage("custom_selection", layer=layer, keep=kept, place=given.custom_placement, **options)]
    )
    sweep = experiment.sweep({given.selection_method: curve})
    content = {
        "kept_tokens": kept,
        "selection_method": given.selection_method,
        **flat_table(sweep, accuracy_table),
        **baseline(sweep),
    }
    title = f"ScienceQA, {experiment.about}: {kept} mixed visual tokens from a layer on"
    save(given, content, draw([accuracy_panel(sweep)], title, "layer from which on the tokens are reduced"))


def main(arguments: Sequence[str] | None = None) -> int:
    """The command line; returns 0, or 2 for bad input."""
    return launch(parser(), run, arguments)


if __name__ == "__main__":
    sys.exit(main())
