"""Which patches a plan kept, drawn on the picture: one panel per plan, or one per stage where a plan has several.

    python -m llava.eval.visualize --model-path playground/checkpoints/llava-shapes-v1 --image picture.png \
        --question "What color is the star?" --reduction fastv@2:64 --reduction pool:64 --output kept.png

Instead of a picture and a question, ``--task mme --data DIR --example existence/0001.png#1`` takes those of a benchmark.
"""

from __future__ import annotations

import argparse
import logging
import math
import textwrap
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from matplotlib.figure import Figure
from PIL import Image

from llava.cli.console import launch
from llava.cli.flags import add_model_flags, model_spec
from llava.cli.settings import ModelSpec
from llava.mm_utils import load_image
from llava.reduction import Stage, check_plan, plan_from, plan_name

from ..ask.opening import open_checkpoint
from ..ask.record import left_after, merges, tower_view
from ..ask.subject import Generation, LlavaSubject
from ..tasks.base import get_task, list_tasks
from .fading import faded

logger = logging.getLogger(__name__)

COLUMNS = 4


@dataclass(frozen=True)
class Panel:
    """One drawing: a title, and which of the picture's patches (raster order) are kept; None draws the picture as it is.

    ``merged`` patches are the centres of cells that were averaged, so nothing of the picture is dropped. ``side``: how many
    patches along each edge.
    """

    title: str
    kept: np.ndarray | None = None
    merged: bool = False
    side: int = 24


def panels(subject: LlavaSubject, image: Image.Image, question: str, plans: Sequence[list[Stage]]) -> list[Panel]:
    """Ask a question under every plan and record what was kept; the first panel is the picture with the full answer.

    Raises ValueError for a picture that the model sees in several crops, whose tokens are no single grid.
    """
    drawn = []
    for plan in [[], *plans]:
        (feature,) = subject.encode([image], plan)
        if not feature.seen.plain:
            raise ValueError(
                f"the picture of size {image.size} is seen in several crops; give one that is, or a model with "
                "image_aspect_ratio 'pad'"
            )
        (reply,) = subject.answer([question], [feature], plan, Generation())
        patches, answer = feature.seen.patches, f": {_short(reply.text)}"
        if not plan:
            drawn.append(Panel(f"full\n{patches} patches{answer}"))
        stages = left_after(plan, subject.model.last_trace, patches)
        for number, (stage, left) in enumerate(stages, start=1):
            name = str(stage) if len(stages) == 1 else f"{number}. {stage}"
            title = f"{name}\n{len(left)} of {patches}{answer if number == len(stages) else ''}"
            drawn.append(Panel(title, left, merges(stage), math.isqrt(patches)))
    return drawn


def draw(picture: np.ndarray, drawn: Sequence[Panel], title: str = "") -> Figure:
    """The panels in a grid; patches that were dropped fade, centres of averaged cells are dotted.

    ``picture`` (H, W, 3) in [0, 1].
    """
    columns = min(COLUMNS, len(drawn))
    rows = math.ceil(len(drawn) / columns)
    heading = textwrap.fill(title, 26 * columns)
    figure = Figure(
        figsize=(2.7 * columns, 3.15 * rows + 0.35 * (heading.count("\n") + 1)), dpi=130, layout="constrained"
    )
    figure.suptitle(heading, fontsize=11, parse_math=False)
    axes = np.atleast_1d(figure.subplots(rows, columns)).ravel()
    height, width = picture.shape[:2]
    for axis, panel in zip(axes, drawn):
        shown, side = picture, panel.side
        if panel.kept is not None and not panel.merged:
            shown = faded(picture, panel.kept, (side, side))
        axis.imshow(shown, interpolation="nearest", extent=(0, width, height, 0))
        if panel.kept is not None and panel.merged:
            down, across = np.divmod(panel.kept, side)
            axis.scatter(
                (across + 0.5) * width / side, (down + 0.5) * height / side, s=7, c="white", edgecolors="black", lw=0.6
            )
        axis.set_title(panel.title, fontsize=9, parse_math=False)
    for axis in axes:
        axis.set_axis_off()
    return figure


def _short(text: str) -> str:
    """Words that fit a title, without characters that no font has."""
    shown = "".join(letter if letter.isprintable() and letter != "\ufffd" else " " for letter in text)
    return textwrap.shorten(shown, 24, placeholder="…") or "(nothing)"


def parser() -> argparse.ArgumentParser:
    """A model, a picture with a question, and plans."""
    flags = argparse.ArgumentParser(
        prog="python -m llava.eval.visualize", description="Draw which patches a plan keeps."
    )
    add_model_flags(flags)
    flags.add_argument("--image", help="file or address; needs --question")
    flags.add_argument("--question")
    flags.add_argument("--task", help=f"take the picture and the question from a benchmark: {', '.join(list_tasks())}")
    flags.add_argument("--data", type=Path, help="folder of the benchmark")
    flags.add_argument("--example", help="its question, for example existence/0001.png#1 (default: the first)")
    flags.add_argument("--reduction", action="append", required=True, metavar="PLAN", help="a plan; repeatable")
    flags.add_argument("--output", type=Path, default=Path("kept.png"))
    return flags


def question_of(task: str, data: str | Path, key: str | None = None) -> tuple[str, str, str]:
    """The picture's file, the prompt, and a title with the true answer, of a benchmark's question (default: the first).

    Raises ValueError for a key that the benchmark does not have.
    """
    benchmark = get_task(task)(data)
    examples = {example.key: example for example in benchmark.examples}
    first = next(iter(examples))
    example = examples.get(key or first)
    if example is None:
        raise ValueError(f"example={key!r} is not in {data}; its questions are {first} and so on")
    question = example.text.partition("\n")[0]
    return str(example.image), benchmark.prompt(example), f"{question} ({example.label})"


def draw_kept(
    spec: ModelSpec, reductions: Sequence[str], image: str, prompt: str, title: str, output: Path = Path("kept.png")
) -> Path:
    """Draw what each plan keeps of a picture while the model answers ``prompt``; returns the figure's file.

    Raises ValueError and FileNotFoundError for an impossible plan, and for a picture or a model that cannot be read.
    """
    plans = [plan_from(reduction) for reduction in reductions]
    picture, checkpoint = load_image(image), open_checkpoint(spec)
    for plan in plans:
        check_plan(plan, checkpoint.layers)
    subject = checkpoint.subject()
    logger.info("asking under %s", ", ".join(map(plan_name, plans)))
    figure = draw(tower_view(subject, picture), panels(subject, picture, prompt, plans), title)
    output.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(output)
    logger.info("wrote %s", output)
    return output


def run(options: argparse.Namespace) -> Path:
    """Draw what a command line asks for; returns the file."""
    if options.task is None:
        if not (options.image and options.question):
            raise ValueError("give --image and --question, or --task and --data")
        image, prompt, title = options.image, options.question, options.question
    elif options.data is None:
        raise ValueError(f"--task {options.task} needs --data, the folder of the benchmark")
    else:
        image, prompt, title = question_of(options.task, options.data, options.example)
    return draw_kept(model_spec(options), options.reduction, image, prompt, title, options.output)


def main(arguments: Sequence[str] | None = None) -> int:
    """The command line; returns 0, or 2 for bad input."""
    return launch(parser(), run, arguments, stopped=None)
