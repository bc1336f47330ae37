"""The one inference loop: pictures encoded once for all questions and plans, questions in batches of like length.

Every plan answers a batch before the next batch begins, so that a slow moment of the machine falls on all of them. Nothing
is kept but the pictures in flight, so memory does not grow with the benchmark.
"""

from __future__ import annotations

import time
from collections import OrderedDict
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from llava.mm_utils import load_image
from llava.reduction import Stage

from ..tasks.base import Example
from .subject import Generation, QuestionError, Reply, Subject


@dataclass(frozen=True)
class Answer:
    """What one plan (``number``) made of one question: a reply, or what is wrong with it or its picture.

    ``seconds`` is its share of the batch's time in the language model, ``tower_seconds`` its picture's share in the tower.
    """

    number: int
    example: Example
    prompt: str
    reply: Reply | None
    error: str | None
    seconds: float
    tower_seconds: float


def answers(
    subject: Subject,
    plans: Sequence[list[Stage]],
    examples: Sequence[Example],
    *,
    prompt: Callable[[Example], str] = lambda example: example.text,
    wanted: Callable[[int, Example], bool] = lambda number, example: True,
    batch_size: int = 8,
    generation: Generation = Generation(),  # noqa: B008
    share: tuple[int, int] = (0, 1),
    shared_features: bool = True,
) -> Iterator[Answer]:
    """Ask every question of every plan that ``wanted(number, example)`` asks for; answers come as they are ready.

    Their order is that of the batches, not of ``examples``. A picture that cannot be read fails its questions, a question
    that cannot be asked fails alone, and nothing else does. ``share`` (i, n): only every n-th batch, from the i-th on, which is how processes divide the work.
    ``shared_features`` False encodes a picture anew for every question, as LLaVA's own loop does (for comparison).
    """
    features = Features(subject, capacity=2 * batch_size)
    for batch in _batches(subject, examples, prompt, batch_size)[share[0] :: share[1]]:
        for number, plan in enumerate(plans):
            asked = [example for example in batch if wanted(number, example)]
            if not shared_features:
                features = Features(subject, capacity=0)
            features.load([example.image for example in asked if example.image is not None], plan, shared_features)
            found = [(example, prompt(example), *features.of(example.image, plan)) for example in asked]
            readable = [one for one in found if one[-1] is None]
            replies, start = [], time.perf_counter()
            if readable:
                texts, pictures = [one[1] for one in readable], [one[2] for one in readable]
                replies = _replies(subject, texts, pictures, plan, generation)
            seconds = (time.perf_counter() - start) / max(1, len(readable))
            for (example, text, _, tower, _), reply in zip(readable, replies, strict=True):
                if isinstance(reply, QuestionError):
                    yield Answer(number, example, text, None, str(reply), 0.0, tower)
                else:
                    yield Answer(number, example, text, reply, None, seconds, tower)
            for example, text, _, tower, error in found:
                if error is not None:
                    yield Answer(number, example, text, None, error, 0.0, tower)


def _replies(
    subject: Subject, texts: Sequence[str], pictures: Sequence[Any], plan: list[Stage], generation: Generation
) -> list[Reply | QuestionError]:
    """The reply to each question, or why it cannot be asked, for which a batch that holds such a question is parted."""
    try:
        return list(subject.answer(texts, pictures, plan, generation))
    except QuestionError as error:
        if len(texts) == 1:
            return [error]
    alone = (_replies(subject, [text], [picture], plan, generation) for text, picture in zip(texts, pictures))
    return [reply for replies in alone for reply in replies]


def _batches(
    subject: Subject, examples: Sequence[Example], prompt: Callable[[Example], str], size: int
) -> list[list[Example]]:
    """The questions in batches, those of one picture next to each other, pictures by their longest prompt."""
    groups: dict[str, list[Example]] = {}
    for example in examples:
        groups.setdefault(example.picture, []).append(example)
    longest = {
        name: max(subject.length(prompt(example), example.image) for example in group) for name, group in groups.items()
    }
    ordered = [example for name in sorted(groups, key=longest.__getitem__) for example in groups[name]]
    return [ordered[start : start + size] for start in range(0, len(ordered), size)]


class Features:
    """The pictures in flight, encoded once each for all plans that see them alike; the oldest go beyond ``capacity``."""

    def __init__(self, subject: Subject, capacity: int):
        self.subject, self.capacity = subject, capacity
        self.held: OrderedDict[tuple[Path, str], tuple[Any, float, str | None]] = OrderedDict()

    def load(self, files: Sequence[Path], plan: list[Stage], once: bool = True) -> None:
        """Encode the pictures that are not held yet, together; ``once`` False: every mention of one anew."""
        view, images = _view(plan), []
        for file in dict.fromkeys(files) if once else files:
            if (file, view) in self.held:
                self.held.move_to_end((file, view))
                continue
            try:
                images.append((file, load_image(file)))
            except (OSError, ValueError) as error:
                self.held[file, view] = (None, 0.0, str(error))
        if images:
            start = time.perf_counter()
            encoded = self.subject.encode([image for _, image in images], plan)
            seconds = (time.perf_counter() - start) / len(images)
            for (file, _), feature in zip(images, encoded, strict=True):
                self.held[file, view] = (feature, seconds, None)
        views = len({view for _, view in self.held})
        while len(self.held) > max(self.capacity * views, len(files)):
            self.held.popitem(last=False)

    def of(self, file: Path | None, plan: list[Stage]) -> tuple[Any, float, str | None]:
        """Features, seconds in the tower, and what is wrong with the picture, if anything."""
        return (None, 0.0, None) if file is None else self.held[file, _view(plan)]


def _view(plan: Iterable[Stage]) -> str:
    """What of a plan changes how the tower sees a picture."""
    return "+".join(str(stage) for stage in plan if stage.site == "pixels")
