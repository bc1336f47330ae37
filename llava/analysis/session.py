"""The questions, the model and the files of an analysis, opened and checked before anything is computed."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure
from rich.progress import track

from llava.cli.questions import spelled
from llava.cli.settings import EvalSettings
from llava.eval.ask.loop import answers
from llava.eval.ask.opening import open_evaluation
from llava.eval.ask.subject import Generation, LlavaSubject, Subject
from llava.eval.results.folder import check_writable
from llava.eval.tasks.base import Example, Line
from llava.files import write_json
from llava.reduction import Stage, check_plan, plan_from, plan_name

from .numbers import rounded
from .observe import Measured

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class AnalysisSettings:
    """An analysis: its questions, the plan under which the model is watched, and where files are written.

    reduction: a plan in short spelling (None: every token). samples_per_category: at most this many questions of every
    category, each about a different picture.
    """

    evaluation: EvalSettings
    output_dir: Path
    reduction: str | None = None
    samples_per_category: int | None = None


class Session:
    """An analysis that is under way. Raises ValueError and OSError that name the flag."""

    def __init__(self, settings: AnalysisSettings):
        self.settings = settings
        per_category = settings.samples_per_category
        if per_category is not None and per_category < 1:
            raise ValueError(f"{spelled('samples_per_category')} {per_category} must be at least 1")
        opened = open_evaluation(settings.evaluation)
        self.model, self.task, self.layers = opened.model, opened.task, opened.model.layers
        self.examples = pictured(self.task.examples, per_category)
        self.plan: list[Stage] = plan_from(settings.reduction)
        check_plan(self.plan, self.layers)
        check_writable(settings.output_dir)

    @cached_property
    def subject(self) -> LlavaSubject:
        """The loaded model."""
        return self.model.subject()

    def ask(
        self,
        subject: Subject,
        prompt: Callable[[Example], str] | None = None,
        max_new_tokens: int | None = None,
        about: str = "looking",
    ) -> Iterator[tuple[Example, Measured, Line]]:
        """Every question with its measurements and its scored line; unreadable pictures are left out and logged."""
        for _, example, reply in self.ask_under([self.plan], subject, prompt, max_new_tokens, about):
            yield example, reply, {**self.line(example), **self.task.score(example, reply.text)}

    def ask_under(
        self,
        plans: Sequence[list[Stage]],
        subject: Subject,
        prompt: Callable[[Example], str] | None = None,
        max_new_tokens: int | None = None,
        about: str = "looking",
    ) -> Iterator[tuple[int, Example, Measured]]:
        """Every question under every plan: the plan's number, and the measurements; what cannot be read is logged."""
        asked = answers(
            subject,
            plans,
            self.examples,
            prompt=prompt or self.task.prompt,
            batch_size=self.settings.evaluation.batch_size,
            generation=Generation(max_new_tokens or self.task.max_new_tokens),
        )
        for answer in track(asked, about, len(plans) * len(self.examples)):
            if answer.reply is None:
                logger.warning("%s is left out: %s", answer.example.key, answer.error)
                continue
            if not isinstance(answer.reply, Measured):
                raise TypeError(
                    f"{type(subject).__name__} answers without measurements; give a MeasuringSubject that adds them"
                )
            yield answer.number, answer.example, answer.reply

    @staticmethod
    def line(example: Example) -> Line:
        """Whose measurements they are."""
        return {"key": example.key, "picture": example.picture, "category": example.category}

    def measure(self, subject: Subject, **options: Any) -> tuple[list[Line], list[list[Any]]]:
        """Every question's scored line and its measurements, layer by layer, in the order of the benchmark.

        ``options`` as ``ask`` takes them. Raises ValueError where no picture could be read.
        """
        measured = {line["key"]: (line, reply.layers) for _, reply, line in self.ask(subject, **options)}
        if not measured:
            raise ValueError(f"no picture of {self.task.data} could be read; the warnings above say why")
        lines, layers = zip(*(measured[example.key] for example in self.examples if example.key in measured))
        return list(lines), list(layers)

    def save(self, name: str, content: dict, figures: dict[str, Figure]) -> None:
        """Write ``name.json`` with model, task and plan, and the figures as PNG."""
        about = {
            "model": self.model.spec.name,
            "task": self.task.name,
            "plan": plan_name(self.plan),
            "num_layers": self.layers,
        }
        folder = self.settings.output_dir
        write_json(folder / f"{name}.json", rounded({**about, **content}))
        for stem, figure in figures.items():
            figure.savefig(folder / f"{stem}.png")
        files = [f"{name}.json", *(f"{stem}.png" for stem in figures)]
        logger.info("wrote %s", ", ".join(str(folder / file) for file in files))


def pictured(examples: Sequence[Example], per_category: int | None) -> list[Example]:
    """The questions that have a picture; with ``per_category`` that many of each, all about different pictures.

    Raises ValueError where no question has a picture.
    """
    chosen: list[Example] = []
    count: dict[str, int] = {}
    seen: set[str] = set()
    for example in examples:
        if example.image is None:
            continue
        if per_category is not None:
            if example.picture in seen or count.get(example.category, 0) == per_category:
                continue
            seen.add(example.picture)
            count[example.category] = count.get(example.category, 0) + 1
        chosen.append(example)
    if not chosen:
        raise ValueError("none of the questions has a picture, so there is no attention to one; give others")
    return chosen
