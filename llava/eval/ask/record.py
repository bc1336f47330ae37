"""What a plan keeps of a few pictures, recorded in a pass of its own for ``results/samples.py`` to store."""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Sequence
from typing import Any, cast

import numpy as np
import torch
from PIL import Image

from llava.mm_utils import process_images
from llava.reduction import Place, Record, Stage

from ..results import samples
from ..results.folder import Run
from ..tasks.base import Example, Task
from .loop import answers
from .subject import Generation, LlavaSubject, Reply, SubjectWrapper

QUESTIONS = 2  # of each picture

Runs = Sequence[tuple[list[Stage], Run]]


def record_samples(subject: LlavaSubject, task: Task, runs: Runs, pictures: int, batch_size: int = 8) -> None:
    """Ask the questions of ``pictures`` pictures once more under every plan, and store what was kept.

    It is a pass of its own, of one new token a question, so that the runs themselves neither wait nor hold pictures; every
    choice depends on the picture and the prompt alone, so it is the run's. A picture that cannot be read is left out.
    """
    examples = sampled_questions(task.examples, pictures)
    recorder = Recorder(subject)
    entries: list[dict[str, dict]] = [{} for _ in runs]  # keyed by the question's key
    replies = answers(
        recorder,
        [plan for plan, _ in runs],
        examples,
        prompt=task.prompt,
        batch_size=batch_size,
        generation=Generation(max_new_tokens=1),
    )
    for answer in replies:
        if answer.reply is not None:
            picture, entry = recorder.records.popleft()
            key, results = answer.example.key, runs[answer.number][1].folder.parent
            entries[answer.number][key] = {"key": key, "picture": samples.store(results, picture), **entry}
    for (_, run), recorded in zip(runs, entries, strict=True):
        samples.write(run.folder, [recorded[example.key] for example in examples if example.key in recorded])


class Recorder(SubjectWrapper):
    """Notes for every answer the picture as the tower sees it and what was kept of it, in the answers' order."""

    def __init__(self, subject: LlavaSubject):
        super().__init__(subject)
        self.records: deque[tuple[Image.Image, dict[str, Any]]] = deque()

    def encode(self, images: Sequence[Image.Image], plan: Sequence[Stage] = ()) -> list[tuple[Any, Image.Image]]:
        """Features of each picture, with the picture."""
        return list(zip(self.subject.encode(images, plan), images, strict=True))

    def answer(
        self, texts: Sequence[str], features: Sequence[Any], plan: list[Stage], generation: Generation
    ) -> list[Reply]:
        """Replies of the subject inside."""
        replies = self.subject.answer(texts, [feature for feature, _ in features], plan, generation)
        trace = self.subject.model.last_trace
        for row, (reply, (feature, image)) in enumerate(zip(replies, features, strict=True)):
            entry: dict[str, Any] = {"layers": len(reply.kept), "patches": None, "stages": []}
            if feature.seen.plain:
                count = feature.seen.patches
                left = left_after(plan, trace, count, row, row)
                entry.update(patches=math.isqrt(count), stages=[_plain(stage, kept, count) for stage, kept in left])
                image = Image.fromarray((255 * tower_view(self.subject, image)).round().astype(np.uint8))
            self.records.append((image, entry))
        return replies


def sampled_questions(examples: Sequence[Example], pictures: int) -> list[Example]:
    """The first questions of ``pictures`` pictures, taken from every category in turn, in the order of the benchmark."""
    waiting: dict[str, dict[str, None]] = {}
    for example in examples:
        if example.image is not None:
            waiting.setdefault(example.category, {})[example.picture] = None
    taken: dict[str, int] = {}
    while len(taken) < pictures and any(waiting.values()):
        for names in filter(None, waiting.values()):
            if len(taken) < pictures:
                taken.setdefault(next(iter(names)), 0)
                del names[next(iter(names))]
    questions = []
    for example in examples:
        if taken.get(example.picture, QUESTIONS) < QUESTIONS:
            taken[example.picture] += 1
            questions.append(example)
    return questions


def runs_without_samples(runs: Runs) -> list[tuple[list[Stage], Run]]:
    """The runs without samples, or with samples older than their configuration."""
    return [(plan, run) for plan, run in runs if not samples.has_samples(run.folder)]


def tower_view(subject: LlavaSubject, image: Image.Image) -> np.ndarray:
    """The picture as the tower sees it, squared and resized: (H, W, 3) in [0, 1]."""
    # transformers' base class declares no mean and no deviation, which every processor of a tower has.
    processor = cast(Any, subject.image_processor)
    pixels = process_images([image], processor, subject.model.config)[0]
    mean, deviation = (torch.tensor(value)[:, None, None] for value in (processor.image_mean, processor.image_std))
    return (pixels * deviation + mean).clamp(0, 1).permute(1, 2, 0).numpy()


def kept_patches(trace: Sequence[Record], patches: int, row: int = 0, image: int | None = None) -> list[np.ndarray]:
    """The patches of one picture that are left after every stage of a trace, as indices into its ``patches``.

    A record counts among the tokens that arrived at its stage; here every stage is traced back through those before it.
    ``row`` is the index of the prompt, ``image`` that of its one picture in the batch, which is what the stages before
    the language model count (default: row).
    """
    alive, patches_left = np.arange(patches), []
    for record in trace:
        where = row if record.site == "layer" or image is None else image
        kept, onward = (counted[where].cpu().numpy() for counted in (record.kept, record.onward))
        left = alive[kept[kept >= 0]]
        patches_left.append(left[left >= 0])
        alive = alive[onward[onward >= 0]]
        if record.place is Place.ZERO_FILL:  # the length stays, and the slots after the kept ones hold no patch
            alive = np.full(len(record.chosen[row]), -1)
            alive[: len(left)] = left
    return patches_left


def left_after(
    plan: Sequence[Stage], trace: Sequence[Record], patches: int, row: int = 0, image: int | None = None
) -> list[tuple[Stage, np.ndarray]]:
    """Every stage of a plan with the patches that are left after it; at the pixels, all of the coarser picture."""
    shrunk = [(stage, np.arange(patches)) for stage in plan if stage.site == "pixels"]
    kept = kept_patches(trace, patches, row, image)
    return shrunk + [(record.stage, left) for record, left in zip(trace, kept, strict=True)]


def merges(stage: Stage) -> bool:
    """Whether a kept patch stands for others too, so that the rest of the picture is not lost."""
    return stage.reducer.merges or stage.site == "pixels"


def _plain(stage: Stage, kept: np.ndarray, patches: int) -> dict:
    return {"stage": str(stage), "layer": stage.layer, "merges": merges(stage), "kept": samples.to_mask(kept, patches)}
