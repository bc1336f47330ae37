"""Custom selection on ScienceQA: a few centres, each mixed with what is like it, take the place of the picture's tokens.

    python scripts/custom_selection_inference.py --model-path playground/checkpoints/llava-shapes-v1 \
        --question-file playground/data/eval/ScienceQA-shapes/himap-inference-MCQ.json \
        --custom-kept-tokens 8 --custom-selection-method fps --custom-agg-layer 2 --custom-temperature 0.1

As documented the other tokens become zeros, which saves nothing; ``--custom-placement drop`` really shortens. The full model,
no picture, and as many tokens at random stand under ``controls`` in the JSON; ``--baseline`` asks the full model alone.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from llava.experiments import Experiment, add_plan_flags, answer_table, compare, launch, one_plan, save
from llava.experiments import parser as common
from llava.model.language_model.knobs import SPANS

KNOBS = {
    "kept_tokens": "custom_kept_tokens",
    "agg_layer": "custom_agg_layer",
    "selection_method": "custom_selection_method",
    "temperature": "custom_temperature",
    "placement": "custom_placement",
}


def parser() -> argparse.ArgumentParser:
    """The common flags and those of the selection."""
    flags = common(__doc__, "results_METHOD.json", lengths=SPANS["use_custom_selection"])
    add_plan_flags(flags)
    flags.set_defaults(output_file=None, use_custom_selection=True)
    flags.add_argument("--baseline", action="store_true", help="the full model alone")
    return flags


def run(given: argparse.Namespace) -> None:
    """Evaluate and write the JSON."""
    given.use_custom_selection = given.use_custom_selection and not given.baseline
    experiment = Experiment("custom_selection", "scienceqa", given)
    plan, config = one_plan(given, experiment.config), experiment.config
    method = config.custom_selection_method if plan else "baseline"
    given.output_file = given.output_file or Path(f"results_{method}.json")
    outcome, others = compare(experiment, plan)
    place, length = experiment.span()
    content = {
        **answer_table(outcome),
        "model_config": {
            "use_custom_selection": config.use_custom_selection,
            "sys_length": place,
            "img_length": length,
            **{name: getattr(config, knob) for name, knob in KNOBS.items()},
        },
        "controls": {name: answer_table(other) for name, other in others.items()},
    }
    save(given, content)


def main(arguments: Sequence[str] | None = None) -> int:
    """The command line; returns 0, or 2 for bad input."""
    return launch(parser(), run, arguments)


if __name__ == "__main__":
    sys.exit(main())
