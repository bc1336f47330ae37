"""Trained mergers against methods that need no training, at the same numbers of tokens: ``llava.eval.run`` with those plans.

    python -m llava.experiments.evaluate_merger --weights playground/checkpoints/merger-shapes-v3 --budgets 144,64,16 \\
        --model-path playground/checkpoints/llava-shapes-v1 --task mme --data playground/data/eval/MME-shapes

For every budget M: each trained folder, and at the same site average pooling, a grid, random tokens (three seeds), condensation by
farthest points and cosine attention; and FastV and cosine attention inside the decoder with the same average number of
tokens per layer, where they can have that few. Every other flag is that of ``llava.eval.run``; plans of ``--reduction``
come on top.
"""

from __future__ import annotations

import argparse
import logging
import sys
from collections.abc import Sequence

from llava.cli.console import launch
from llava.cli.settings import EvalSettings, PlanSpec
from llava.eval import run as evaluation
from llava.eval.ask.controls import SEEDS
from llava.eval.ask.opening import tokens_of_picture
from llava.eval.ask.pricing import Pricing, matched
from llava.model.builder import read_config
from llava.model.checkpoint import find_folder
from llava.reduction import plan_from
from llava.reduction.learned.trained import trained_plan

logger = logging.getLogger(__name__)

RIVALS = ("pool:{0}", "grid:{0}", "condensation@features:{0},strategy=fps", "custom_selection@features:{0}")
INSIDE = ("fastv", "custom_selection")
LAYERS = (2, 1)  # the published one, and the first one, which allows fewer tokens


def plans(folders: Sequence[str], budgets: Sequence[int], pricing: Pricing) -> list[str]:
    """Every plan of the comparison, in short spelling."""
    specs = ["full", "blind"]
    for keep in budgets:
        specs += [trained_plan(folder, keep) for folder in folders]
        specs += [rival.format(keep) for rival in RIVALS]
        specs += [f"random@features:{keep},seed={seed}" if seed else f"random@features:{keep}" for seed in SEEDS]
        specs += [plan for method in INSIDE for plan in inside(method, keep, pricing)]
    return list(dict.fromkeys(specs))


def inside(method: str, keep: int, pricing: Pricing) -> list[str]:
    """A method of the decoder with ``keep`` tokens on average per layer; none where its first layers alone have more."""
    for layer in LAYERS:
        try:
            return ["+".join(map(str, matched(plan_from(f"{method}@{layer}", keep=1.0), pricing, "tokens", keep)))]
        except ValueError:
            continue
    logger.info("%s cannot have %d tokens on average per layer and is left out there", method, keep)
    return []


def parser() -> argparse.ArgumentParser:
    """The flags of ``llava.eval.run``, the folders and the budgets."""
    flags = evaluation.parser()
    flags.prog = "python -m llava.experiments.evaluate_merger"
    flags.description = "Compare trained mergers with training-free methods at the same numbers of tokens."
    flags.add_argument(
        "--weights", action="append", required=True, metavar="FOLDER", help="a trained merger; repeatable"
    )
    flags.add_argument(
        "--budgets", default="288,144,64,16", help="numbers of tokens, with commas (default: %(default)s)"
    )
    return flags


def run(settings: EvalSettings, folders: Sequence[str], budgets: Sequence[int], further: Sequence[str] = ()) -> None:
    """Compare trained folders with their rivals at these budgets, and with ``further`` plans.

    Raises ValueError for budgets that the model does not have, and for one whose pictures differ in their tokens.
    """
    folder = find_folder(settings.model.path, "model")
    config = read_config(folder)
    tokens = tokens_of_picture(folder, config)
    if tokens is None:
        raise ValueError(
            f"{settings.model.path} cuts pictures into crops of different number; compare with llava.eval.run"
        )
    if not all(1 <= keep <= tokens for keep in budgets):
        shown = ",".join(map(str, budgets))
        raise ValueError(f"--budgets {shown} must lie between 1 and the {tokens} tokens of a picture")
    specs = plans(folders, budgets, Pricing(config, tokens))
    evaluation.run(settings, PlanSpec((*specs, *further), controls=False))


def work(options: argparse.Namespace) -> None:
    """Run what a command line asks for."""
    try:
        budgets = [int(part) for part in options.budgets.split(",")]
    except ValueError:
        raise ValueError(f"--budgets {options.budgets} must be whole numbers with commas between, 64,16") from None
    run(evaluation.eval_settings(options), options.weights, budgets, options.reduction or ())


def main(arguments: Sequence[str] | None = None) -> int:
    """The command line; returns 0, 2 for bad input, 130 when stopped by Ctrl-C."""
    return launch(parser(), work, arguments)


if __name__ == "__main__":
    sys.exit(main())
