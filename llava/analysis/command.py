"""What the command lines of the analyses share: flags, the questions they ask, and the files they leave."""

from __future__ import annotations

import argparse
import logging
from collections.abc import Callable, Iterator, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.figure import Figure
from rich.progress import track

from llava.cli import console
from llava.eval.ask.loop import answers
from llava.eval.ask.opening import open_evaluation
from llava.eval.ask.subject import Generation, LlavaSubject
from llava.eval.results.folder import check_writable
from llava.eval.tasks.base import Example, Line, list_tasks
from llava.experiments import add_question_flags, eval_settings, spelled
from llava.files import write_json
from llava.reduction import Stage, check_plan, plan_from, plan_name

from .observe import Around, Measured

logger = logging.getLogger(__name__)

DIGITS = 5  # significant ones of every number in a JSON file


def common_parser(name: str, description: str, output_dir: str) -> argparse.ArgumentParser:
    """A parser with the flags of model, questions and output; ``output_dir`` is the documented default."""
    flags = argparse.ArgumentParser(
        prog=f"python -m llava.analysis.{name}", description=description, conflict_handler="resolve"
    )
    add_question_flags(flags)
    group = flags.add_argument_group("analysis")
    group.add_argument("--task", default="mme", help=f"one of {', '.join(list_tasks())} (default: mme)")
    group.add_argument(
        "--samples-per-category",
        "--samples_per_category",
        type=int,
        help="at most so many questions of every category, each of another picture",
    )
    group.add_argument(
        "--output-dir", "--output_dir", type=Path, default=Path(output_dir), help=f"default: {output_dir}"
    )
    return flags


def add_plan_flag(flags: argparse.ArgumentParser) -> None:
    """Adds --reduction: look at the model while its tokens are reduced."""
    flags.add_argument("--reduction", metavar="PLAN", help="a plan such as fastv@2:64 (default: every token)")


class Session:
    """The questions and the model of a command line, checked before anything is computed.

    Raises ValueError and OSError that name the flag.
    """

    def __init__(self, given: argparse.Namespace):
        self.given = given
        per_category = given.samples_per_category
        if per_category is not None and per_category < 1:
            raise ValueError(f"{spelled('samples_per_category')} {per_category} must be at least 1")
        opened = open_evaluation(eval_settings(given.task, given))
        self.model, self.task, self.layers = opened.model, opened.task, opened.model.layers
        self.examples = pictured(self.task.examples, per_category)
        self.plan: list[Stage] = plan_from(vars(given).get("reduction"))
        check_plan(self.plan, self.layers)
        check_writable(given.output_dir)

    @cached_property
    def subject(self) -> LlavaSubject:
        """The loaded model."""
        return self.model.subject()

    def ask(
        self,
        subject: Around,
        prompt: Callable[[Example], str] | None = None,
        max_new_tokens: int | None = None,
        about: str = "looking",
    ) -> Iterator[tuple[Example, Measured, Line]]:
        """Every question with what was measured and its scored line; unreadable pictures are left out and said."""
        found = answers(
            subject,
            [self.plan],
            self.examples,
            prompt=prompt or self.task.prompt,
            batch_size=self.given.batch_size,
            generation=Generation(max_new_tokens or self.task.max_new_tokens),
        )
        for answer in track(found, about, len(self.examples)):
            example, reply = answer.example, answer.reply
            if reply is None:
                logger.warning("%s is left out: %s", example.key, answer.error)
                continue
            about_it = {"key": example.key, "picture": example.picture, "category": example.category}
            yield example, reply, {**about_it, **self.task.score(example, reply.text)}

    def measure(self, subject: Around, **how: Any) -> tuple[list[Line], list[list[Any]]]:
        """Every question's scored line and its measurements, layer by layer, in the order of the benchmark; ``how`` as ``ask``."""
        found = {line["key"]: (line, reply.layers) for _, reply, line in self.ask(subject, **how)}
        if not found:
            raise ValueError(f"no picture of {self.task.data} could be read; the warnings above say why")
        lines, layers = zip(*(found[example.key] for example in self.examples if example.key in found))
        return list(lines), list(layers)

    def save(self, name: str, content: dict, figures: dict[str, Figure]) -> None:
        """Write ``name.json`` with what was asked of which model, and the figures as PNG."""
        about = {
            "model": self.model.spec.name,
            "task": self.task.name,
            "plan": plan_name(self.plan),
            "num_layers": self.layers,
        }
        folder = self.given.output_dir
        write_json(folder / f"{name}.json", rounded({**about, **content}))
        for stem, figure in figures.items():
            figure.savefig(folder / f"{stem}.png")
        logger.info(
            "wrote %s", ", ".join(str(folder / file) for file in (f"{name}.json", *(f"{s}.png" for s in figures)))
        )


def pictured(examples: Sequence[Example], per_category: int | None) -> list[Example]:
    """The questions that have a picture; with ``per_category`` so many of each category, each of another picture.

    Raises ValueError where none has one.
    """
    found, count, seen = [], {}, set()
    for example in examples:
        if example.image is None:
            continue
        if per_category is not None:
            if example.picture in seen or count.get(example.category, 0) == per_category:
                continue
            seen.add(example.picture)
            count[example.category] = count.get(example.category, 0) + 1
        found.append(example)
    if not found:
        raise ValueError("none of the questions has a picture, so there is no attention to one; give others")
    return found


def by_category(lines: Sequence[Line], values: np.ndarray) -> dict[str, np.ndarray]:
    """Values (n, ...) of n lines, grouped by category in order of first appearance."""
    categories = np.array([line["category"] for line in lines])
    return {str(name): values[categories == name] for name in dict.fromkeys(categories.tolist())}


def rounded(content: Any) -> Any:
    """Plain values for JSON: arrays as lists, numbers to five significant digits, what is not a number as null."""
    if isinstance(content, dict):
        return {str(name): rounded(value) for name, value in content.items()}
    if isinstance(content, np.ndarray | list | tuple):
        return [rounded(value) for value in content]
    if isinstance(content, bool | np.bool_):
        return bool(content)
    if isinstance(content, int | np.integer):
        return int(content)
    if isinstance(content, float | np.floating):
        return float(f"{content:.{DIGITS}g}") if np.isfinite(content) else None
    return content


def launch(
    flags: argparse.ArgumentParser, work: Callable[[argparse.Namespace], None], arguments: Sequence[str] | None
) -> int:
    """Read a command line and do its work; returns 0, or 2 for bad input."""
    return console.launch(flags, work, arguments, stopped=None)
