"""What a trained model tells about new pictures of one, two and four things: ``llava things measure --model-path MODEL``.

A description names the things that are there, and yes/no questions about them come in pairs of opposite answers, so that what the words
alone give is known: the names in the description of another picture, and one half. It takes minutes, and shows early how far
a training has come; benchmarks, with up to eight things in a picture, show it late.
"""

from __future__ import annotations

import argparse
import re
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from rich.progress import track
from rich.table import Table

from llava.cli.console import launch, terminal
from llava.cli.flags import add_model_flags, model_spec
from llava.cli.tables import print_table
from llava.constants import SHORT_ANSWER
from llava.eval.ask.opening import open_checkpoint
from llava.eval.ask.subject import Generation, Subject
from llava.files import write_json
from llava.reduction import Stage, check_plan, plan_from
from llava.worlds.files import YES_NO

from .build import TRAINED
from .parts import CACHE, DEBIAN
from .world import Questions, Scene, World, load_world
from .world.names import plural
from .world.questions import DESCRIBE

SEED = 51  # first number of the scenes' seeds; neither training nor a benchmark draws from it
NUMBERS = (1, 2, 4)  # things in a picture
BATCH = 8  # pictures
WORDS = 40  # most new tokens of a description


def measure(
    subject: Subject, world: World, things: int, scenes: int, plan: Sequence[Stage] = (), progress: bool = False
) -> dict[str, float]:
    """Figures of ``scenes`` pictures with ``things`` things each, answered about under a plan.

    named: share of the names that are there which the description has; by_chance: the same with the description of the
    next picture. yes_no: share of right answers to two questions about each picture whether something is there. Raises
    ValueError for fewer than two pictures.
    """
    if scenes < 2:
        raise ValueError(f"scenes={scenes} must be 2 or more: a description is held against the next picture too")
    questions = Questions(world)
    drawn = [world.scene(SEED, things, number, least=things, most=things) for number in range(scenes)]
    told: list[str] = []
    right = 0
    for start in track(range(0, scenes, BATCH), f"pictures of {things}", disable=not progress):
        here = drawn[start : start + BATCH]
        features = subject.encode([world.render(scene) for scene in here], plan)
        told += [
            reply.text for reply in subject.answer([DESCRIBE] * len(here), features, list(plan), Generation(WORDS))
        ]
        pairs = [questions.pairs.existence(scene, np.random.default_rng(scene.seed)) for scene in here]
        for asked, answer in zip(zip(*pairs), YES_NO):
            texts = [f"{question}\n{SHORT_ANSWER}" for question in asked]
            replies = subject.answer(texts, features, list(plan), Generation(2))
            right += sum(reply.text.lower().startswith(answer.lower()) for reply in replies)
    return {
        "things": things,
        "scenes": scenes,
        "named": _named(drawn, told),
        "by_chance": _named(drawn, told[1:] + told[:1]),
        "yes_no": right / (2 * scenes),
    }


def _named(scenes: Sequence[Scene], told: Sequence[str]) -> float:
    found = []
    for scene, words in zip(scenes, told, strict=True):
        for name in {item.name for item in scene.items}:
            found.append(re.search(rf"\b(?:{name}|{plural(name)})\b", words, re.IGNORECASE) is not None)
    return sum(found) / len(found)


def parser() -> argparse.ArgumentParser:
    """The model, how many pictures, and where packages come from."""
    flags = argparse.ArgumentParser(
        prog="llava things measure", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add_model_flags(flags, str(TRAINED))
    flags.add_argument("--reduction", metavar="PLAN", help="such as pool:144 (default: every token)")
    flags.add_argument(
        "--scenes", type=int, default=60, help="pictures of each number of things (default: %(default)s)"
    )
    flags.add_argument("--json", type=Path, help="write the figures into this file")
    flags.add_argument("--cache", type=Path, default=CACHE, help=f"where packages are kept (default {CACHE})")
    flags.add_argument("--mirror", default=DEBIAN, help=f"Debian mirror (default {DEBIAN})")
    return flags


def main(arguments: Sequence[str] | None = None) -> int:
    """The command line; returns 0, or 2 for bad input."""

    def work(options: argparse.Namespace) -> None:
        checkpoint = open_checkpoint(model_spec(options))
        plan = plan_from(options.reduction)
        check_plan(plan, checkpoint.layers)
        world = load_world(options.cache, options.mirror)
        subject = checkpoint.subject()
        figures = [measure(subject, world, things, options.scenes, plan, progress=True) for things in NUMBERS]
        table = Table("things", "pictures", "named", "by chance", "yes/no")
        for row in figures:
            shares = (f"{row[share]:.1%}" for share in ("named", "by_chance", "yes_no"))
            table.add_row(str(row["things"]), str(row["scenes"]), *shares)
        print_table(table, terminal())
        if options.json:
            write_json(options.json, figures)

    return launch(parser(), work, arguments, bad=(ValueError, OSError, ImportError), stopped="stopped")


if __name__ == "__main__":
    sys.exit(main())
