"""A trained merger beside what needs no training, at the same numbers of tokens: ``llava.eval.run`` with those plans.

    python -m llava.train.evaluate_merger --weights playground/checkpoints/merger-shapes-v3 --budgets 144,64,16 \\
        --model-path playground/checkpoints/llava-shapes-v1 --task mme --data playground/data/eval/MME-shapes

For every budget M: each trained folder, and at the same site average pooling, a grid, random tokens (three seeds), condensation by
farthest points and cosine attention; and FastV and cosine attention inside the decoder with as many tokens on the mean of the layers,
where they can have so few. Every other flag is that of ``llava.eval.run``; plans of ``--reduction`` come on top.
"""

from __future__ import annotations

import argparse
import logging
import sys
from collections.abc import Sequence

from llava.cli.console import launch
from llava.cli.settings import PlanSpec
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
LAYERS = (2, 1)  # the published one, and the first, where fewer tokens are possible


def plans(folders: Sequence[str], budgets: Sequence[int], pricing: Pricing) -> list[str]:
    """Every plan of the comparison, in short spelling."""
    found = ["full", "blind"]
    for keep in budgets:
        found += [trained_plan(folder, keep) for folder in folders]
        found += [rival.format(keep) for rival in RIVALS]
        found += [f"random@features:{keep},seed={seed}" if seed else f"random@features:{keep}" for seed in SEEDS]
        found += [plan for method in INSIDE for plan in inside(method, keep, pricing)]
    return list(dict.fromkeys(found))


def inside(method: str, keep: int, pricing: Pricing) -> list[str]:
    """A method of the decoder with ``keep`` tokens on the mean of the layers; none where its first layers alone have more."""
    for layer in LAYERS:
        try:
            return ["+".join(map(str, matched(plan_from(f"{method}@{layer}", keep=1.0), pricing, "tokens", keep)))]
        except ValueError:
            continue
    logger.info("%s cannot have %d tokens on the mean of the layers and is left out there", method, keep)
    return []


def parser() -> argparse.ArgumentParser:
    """The flags of ``llava.eval.run``, the folders and the budgets."""
    flags = evaluation.parser()
    flags.prog = "python -m llava.train.evaluate_merger"
    flags.description = "Compare trained mergers with training-free methods at the same numbers of tokens."
    flags.add_argument(
        "--weights", action="append", required=True, metavar="FOLDER", help="a trained merger; repeatable"
    )
    flags.add_argument(
        "--budgets", default="288,144,64,16", help="numbers of tokens, with commas (default: %(default)s)"
    )
    return flags


def run(given: argparse.Namespace) -> None:
    """Spell the plans and hand them to ``llava.eval.run``."""
    try:
        budgets = [int(part) for part in given.budgets.split(",")]
    except ValueError:
        raise ValueError(f"--budgets {given.budgets} must be whole numbers with commas between, 64,16") from None
    folder = find_folder(given.model_path, "model")
    config = read_config(folder)
    tokens = tokens_of_picture(folder, config)
    if tokens is None:
        raise ValueError(
            f"{given.model_path} cuts pictures into crops of different number; compare with llava.eval.run"
        )
    if not all(1 <= keep <= tokens for keep in budgets):
        raise ValueError(f"--budgets {given.budgets} must lie between 1 and the {tokens} tokens of a picture")
    specs = plans(given.weights, budgets, Pricing(config, tokens))
    compared = PlanSpec((*specs, *(given.reduction or [])), controls=False)
    evaluation.run(evaluation.eval_settings(given), compared)


def main(arguments: Sequence[str] | None = None) -> int:
    """The command line; returns 0, 2 for bad input, 130 when stopped by Ctrl-C."""
    return launch(parser(), run, arguments)


if __name__ == "__main__":
    sys.exit(main())
