"""Until which layer a reduced model needs the picture: HiMAP, with all visual tokens gone from layer 0, 1, 2 ... on.

    python scripts/himap_cutoff_sweep.py --model-path playground/checkpoints/llava-shapes-v1 \
        --question-file playground/data/eval/ScienceQA-shapes/himap-inference-MCQ.json

Cut-off 0 is HiMAP alone, as documented. Without flags HiMAP is the published plan (288 tokens from layer 2 on, 72 from layer
8; layers are of 32, in proportion for another depth); --hmap-v-... changes it, --no-use-hmap-v sweeps the dense model, and
any other method's flags, or --reduction, that method. The control has the same budgets at the same layers, chosen at random.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from llava.experiments import (
    Experiment,
    accuracy_panel,
    accuracy_table,
    add_plan_flags,
    baseline,
    cut,
    draw,
    flat_table,
    launch,
    one_plan,
    save,
)
from llava.experiments import parser as common
from llava.mm_utils import get_model_name_from_path
from llava.model.language_model.himap_configuration_llama import METHOD_FLAGS
from llava.reduction import Stage

PUBLISHED = {"txt": (2, 288), "img": (8, 72)}
LAST = 12


def parser() -> argparse.ArgumentParser:
    """The common flags, every reduction flag, and the two ends of the sweep."""
    flags = common(__doc__, "himap_cutoff_sweep_TAG.json", "himap_cutoff_sweep_TAG.png")
    add_plan_flags(flags)
    flags.set_defaults(output_file=None, output_plot=None)
    add = flags.add_argument_group("sweep").add_argument
    add("--tag", help="in the names of the files (default: the model's name)")
    add("--output-dir", "--output_dir", type=Path, default=Path("."), help="where they are written (default: here)")
    add("--cutoff-start", "--cutoff_start", type=int, default=0, help="first cut-off (default: 0, which cuts nothing)")
    add("--cutoff-end", "--cutoff_end", type=int, help=f"last (default: {LAST} of 32 layers, in proportion otherwise)")
    return flags


def run(given: argparse.Namespace) -> None:
    """Evaluate, write JSON and figure."""
    if given.cut_off_layer is not None:
        raise ValueError(
            f"--cut-off-layer {given.cut_off_layer} is what is swept; give --cutoff-start and --cutoff-end"
        )
    name = f"himap_cutoff_sweep_{given.tag or get_model_name_from_path(given.model_path)}"
    given.output_file = given.output_file or given.output_dir / f"{name}.json"
    given.output_plot = given.output_plot or given.output_dir / f"{name}.png"
    experiment = Experiment("himap_cutoff", "scienceqa", given)
    first, last = given.cutoff_start, given.cutoff_end
    last = experiment.scaled(LAST) if last is None else last
    if not 0 <= first <= last <= experiment.layers:
        raise ValueError(
            f"--cutoff-start {first} and --cutoff-end {last} must be 0 <= start <= end <= {experiment.layers}, the layers"
        )
    plan = base_plan(given, experiment)
    curve = {at: cut(plan, at, experiment.layers) if at else plan for at in range(first, last + 1)}
    method = "himap" if experiment.config.use_hmap_v else "cut-off"
    sweep = experiment.sweep({method: curve})
    content = {**flat_table(sweep, accuracy_table), **baseline(sweep)}
    title = f"ScienceQA, {experiment.about}: {method}, no picture from a layer on"
    label = "first layer without visual tokens (0: none is)"
    save(given, content, draw([accuracy_panel(sweep)], title, label))


def base_plan(given: argparse.Namespace, experiment: Experiment) -> list[Stage]:
    """The plan whose tokens are cut off: that of the flags, HiMAP's published one where they leave it open."""
    if given.use_hmap_v or not (given.reduction or any(getattr(given, flag) is not None for flag in METHOD_FLAGS)):
        given.use_hmap_v = True
        for which, (layer, rank) in PUBLISHED.items():
            names = f"hmap_v_attn_{which}_layer", f"hmap_v_attn_{which}_rank"
            for name, value in zip(names, (experiment.scaled(layer), rank)):
                if getattr(given, name) is None:
                    setattr(given, name, value)
    return one_plan(given, experiment.config)


def main(arguments: Sequence[str] | None = None) -> int:
    """The command line; returns 0, or 2 for bad input."""
    return launch(parser(), run, arguments)


if __name__ == "__main__":
    sys.exit(main())
