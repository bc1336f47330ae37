"""The one inference loop: pictures encoded once for all questions and plans, questions in batches of similar length.

Every plan answers a batch before the next batch begins, so that a slow moment of the machine falls on all of them. Only
the pictures in flight are kept, so memory does not grow with the benchmark.
"""

from __future__ import annotations

import time
from collections import OrderedDict
from collections.abc import Callable, Hashable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from llava.mm_utils import load_image
from llava.model.vision.seen import tower_share
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


@dataclass(frozen=True)
class EncodedPicture:
    """A picture's features, its seconds in the tower, and what is wrong with it, if anything."""

    features: Any = None
    seconds: float = 0.0
    error: str | None = None


Question = tuple[Example, str, EncodedPicture]  # with its prompt and its picture


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
    that cannot be asked fails alone, and nothing else does. ``share`` (i, n): only every n-th batch, from the i-th on, which
    is how processes divide the work. ``shared_features`` False encodes a picture again for every question, as LLaVA's own
    loop does (for comparison).
    """
    pictures = PictureCache(subject, capacity=2 * batch_size)
    for batch in _batches(subject, examples, prompt, batch_size)[share[0] :: share[1]]:
        for number, plan in enumerate(plans):
            due = [example for example in batch if wanted(number, example)]
            if not shared_features:
                pictures = PictureCache(subject, capacity=0)
            pictures.load([example.image for example in due if example.image is not None], plan, shared_features)
            questions = [(example, prompt(example), pictures.get(example.image, plan)) for example in due]
            yield from _answer_batch(subject, number, plan, questions, generation)


def _answer_batch(
    subject: Subject, number: int, plan: list[Stage], questions: Sequence[Question], generation: Generation
) -> Iterator[Answer]:
    """The answers of plan ``number`` to one batch; what cannot be asked or read comes back with its reason."""
    readable = [question for question in questions if question[2].error is None]
    start = time.perf_counter()
    texts, features = [text for _, text, _ in readable], [picture.features for _, _, picture in readable]
    replies = _replies(subject, texts, features, plan, generation) if readable else []
    seconds = (time.perf_counter() - start) / max(1, len(readable))
    for (example, text, picture), reply in zip(readable, replies, strict=True):
        if isinstance(reply, QuestionError):
            yield Answer(number, example, text, None, str(reply), 0.0, picture.seconds)
        else:
            yield Answer(number, example, text, reply, None, seconds, picture.seconds)
    for example, text, picture in questions:
        if picture.error is not None:
            yield Answer(number, example, text, None, picture.error, 0.0, picture.seconds)


def _replies(
    subject: Subject, texts: Sequence[str], pictures: Sequence[Any], plan: list[Stage], generation: Generation
) -> list[Reply | QuestionError]:
    """The reply to each question, or why it cannot be asked; a batch with such a question is asked one by one."""
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
        groups.setdefault(str(example.image or example.picture), []).append(example)
    longest = {
        name: max(subject.length(prompt(example), example.image) for example in group) for name, group in groups.items()
    }
    ordered = [example for name in sorted(groups, key=longest.__getitem__) for example in groups[name]]
    return [ordered[start : start + size] for start in range(0, len(ordered), size)]


class PictureCache:
    """The pictures in flight, encoded once for all plans that see them alike; beyond ``capacity`` the oldest leave."""

    def __init__(self, subject: Subject, capacity: int):
        self.subject, self.capacity = subject, capacity
        self.entries: OrderedDict[tuple[Path, Hashable], EncodedPicture] = OrderedDict()

    def load(self, files: Sequence[Path], plan: list[Stage], once: bool = True) -> None:
        """Encode the pictures that are not here yet, together; with ``once`` False, one again for every mention."""
        view, images = tower_share(plan), []
        for file in dict.fromkeys(files) if once else files:
            if (file, view) in self.entries:
                self.entries.move_to_end((file, view))
                continue
            try:
                images.append((file, load_image(file)))
            except (OSError, ValueError) as error:
                self.entries[file, view] = EncodedPicture(error=str(error))
        if images:
            start = time.perf_counter()
            encoded = self.subject.encode([image for _, image in images], plan)
            seconds = (time.perf_counter() - start) / len(images)
            for (file, _), features in zip(images, encoded, strict=True):
                self.entries[file, view] = EncodedPicture(features, seconds)
        views = len({view for _, view in self.entries})
        while len(self.entries) > max(self.capacity * views, len(files)):
            self.entries.popitem(last=False)

    def get(self, file: Path | None, plan: list[Stage]) -> EncodedPicture:
        """What ``load`` made of a picture; without a file nothing is encoded and nothing is wrong."""
        return EncodedPicture() if file is None else self.entries[file, tower_share(plan)]
