"""Condensation against hard pruning on MME: as many tokens from every layer of a range on, three ways and at random.

    python scripts/mme_condensation_experiment.py --model-path playground/checkpoints/llava-shapes-v1 \
        --question-file playground/data/eval/MME-shapes --run-all --target-tokens 100

Hard pruning keeps the tokens that the text attends to most (HiMAP's first stage, which condensation was proposed to
replace; ``--hard-pruning-method fastv``: the last token alone). The JSON has total, perception, cognition and subtask scores
of every method at every layer; the figure the totals, the two halves, and the improvement over hard pruning in per cent.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence

from llava.experiments import (
    Experiment,
    Panel,
    Sweep,
    add_layer_flags,
    draw,
    half_score,
    halves_panel,
    launch,
    mme_table,
    save,
    spelled,
    tables,
    total_panel,
)
from llava.experiments import parser as common
from llava.reduction import make_stage

METHODS = ("hard_pruning", "condensation_fps", "condensation_connectivity")


def parser() -> argparse.ArgumentParser:
    """The common flags, which methods to run, and the number of tokens."""
    flags = common(__doc__, "mme_condensation_results.json", "mme_condensation_comparison.png")
    add_layer_flags(flags, 5, 15)
    group = flags.add_argument_group("methods")
    group.add_argument("--run-all", "--run_all", action="store_true", help="all three")
    for name in METHODS:
        group.add_argument(spelled(f"run_{name}"), f"--run_{name}", action="store_true")
    group.add_argument("--hard-pruning-method", "--hard_pruning_method", choices=("himap", "fastv"), default="himap")
    group.add_argument("--target-tokens", "--target_tokens", type=int, default=100, help="tokens kept (default: 100)")
    return flags


def run(given: argparse.Namespace) -> None:
    """Evaluate, write JSON and figure."""
    wanted = [name for name in METHODS if given.run_all or getattr(given, f"run_{name}")]
    if not wanted:
        choices = ", ".join(spelled(f"run_{name}") for name in METHODS)
        raise ValueError(f"nothing to run; give --run-all, or of {choices} those wanted")
    experiment = Experiment("mme_condensation", "mme", given, budget="target_tokens")
    stages = {
        "hard_pruning": {"method": given.hard_pruning_method},
        "condensation_fps": {"method": "condensation", "strategy": "fps"},
        "condensation_connectivity": {"method": "condensation", "strategy": "connectivity"},
    }
    sweep = experiment.sweep(
        {
            name: experiment.over_layers(
                lambda layer, name=name: [make_stage(**stages[name], layer=layer, keep=given.target_tokens)]
            )
            for name in wanted
        }
    )
    panels = [total_panel(sweep), halves_panel(sweep)]
    if "hard_pruning" in wanted and len(sweep.curves) > 1:
        panels.append(improvement_panel(sweep))
    title = f"MME, {experiment.about}: {given.target_tokens} visual tokens kept"
    save(given, tables(sweep, mme_table), draw(panels, title, "layer from which on the tokens are reduced"))


def improvement_panel(sweep: Sweep) -> Panel:
    """The total of every other method less that of hard pruning at the layer, in per cent of the latter."""
    hard, curves = sweep.curves["hard_pruning"], {}
    for name, curve in sweep.curves.items():
        if name != "hard_pruning":
            curves[name] = {}
            for layer, outcome in curve.items():
                if worth := hard[layer].metrics["score"]:
                    gain, interval = half_score(outcome, "total", against=hard[layer])
                    curves[name][layer] = (100 * gain / worth, [100 * bound / worth for bound in interval])
    return Panel("total score over hard pruning's, %", curves, {"_hard pruning": (0.0, [0.0, 0.0])})


def main(arguments: Sequence[str] | None = None) -> int:
    """The command line; returns 0, or 2 for bad input."""
    return launch(parser(), run, arguments)


if __name__ == "__main__":
    sys.exit(main())
