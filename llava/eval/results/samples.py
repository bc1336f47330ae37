"""Which patches a plan kept of a few pictures, stored beside its answers so that a report can draw them without a model.

=============================  ====================================================================================
``RESULTS/PLAN/samples.json``  ``format``, and ``samples``: one entry a question of a chosen picture
``RESULTS/pictures/*.jpg``     the pictures as the tower sees them, squared and resized, once for all plans
=============================  ====================================================================================

An entry has ``key`` of the question, ``picture`` (the file, from RESULTS), ``layers`` of the decoder, ``patches`` along
each side of the picture, and ``stages``, each with its ``stage`` in short spelling, the ``layer`` from which it holds (null:
before the decoder), ``merges`` and ``kept``: the patches left after it as a bit mask in raster order, the first patch the
highest bit of the first byte, in hexadecimal. A picture that the tower sees in several crops has no one grid: its ``patches``
are null and it has no stages.
"""

from __future__ import annotations

import io
import math
import zlib
from collections import deque
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from llava.files import read_json
from llava.mm_utils import process_images
from llava.reduction import Place, Record, Stage

from ..ask.loop import answers
from ..ask.subject import Generation, LlavaSubject, Reply
from ..tasks.base import Example, Task
from .folder import Run, write_json

FORMAT = 1
FILE = "samples.json"
PICTURES = 12  # spread over the categories
QUESTIONS = 2  # of each
SIDE = 336  # pixels of the longest side of a stored picture
QUALITY = 75


def kept_patches(trace: Sequence[Record], patches: int, row: int = 0, image: int | None = None) -> list[np.ndarray]:
    """The patches of one picture that are left after every stage of a trace, as indices into its ``patches``.

    A record counts among the tokens that arrived at its stage; here every stage is led back through those before it.
    ``row`` is the prompt, ``image`` its one picture among all of the batch, which the stages before the language model count
    (default: row).
    """
    alive, found = np.arange(patches), []
    for record in trace:
        kept = record.kept[row if record.site == "layer" or image is None else image].cpu().numpy()
        left = alive[kept[kept >= 0]]
        found.append(left[left >= 0])
        alive = left
        if record.place is Place.ZERO_FILL:  # the length stays, and the slots behind the kept ones hold no patch
            alive = np.full(len(record.chosen[row]), -1)
            alive[: len(left)] = left
    return found


def seen(subject: LlavaSubject, image: Image.Image) -> np.ndarray:
    """The picture as the tower sees it, squared and resized: (H, W, 3) in [0, 1]."""
    processor = subject.image_processor
    pixels = process_images([image], processor, subject.model.config)[0]
    mean, deviation = (torch.tensor(value)[:, None, None] for value in (processor.image_mean, processor.image_std))
    return (pixels * deviation + mean).clamp(0, 1).permute(1, 2, 0).numpy()


def chosen(examples: Sequence[Example], pictures: int = PICTURES) -> list[Example]:
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
    found = []
    for example in examples:
        if taken.get(example.picture, QUESTIONS) < QUESTIONS:
            taken[example.picture] += 1
            found.append(example)
    return found


def record(
    subject: LlavaSubject,
    task: Task,
    runs: Sequence[tuple[list[Stage], Run]],
    pictures: int = PICTURES,
    batch_size: int = 8,
) -> None:
    """Ask the chosen questions once more under every plan, and store what was kept.

    It is a pass of its own, of one new token a question, so that the runs themselves neither wait nor hold pictures; every
    choice depends on the picture and the prompt alone, so it is the run's. A picture that cannot be read is left out.
    """
    examples = chosen(task.examples, pictures)
    watched, found = _Watched(subject), [[] for _ in runs]
    asked = answers(
        watched,
        [plan for plan, _ in runs],
        examples,
        prompt=task.prompt,
        batch_size=batch_size,
        generation=Generation(max_new_tokens=1),
    )
    for answer in asked:
        if answer.reply is not None:
            found[answer.number].append((answer.example, *watched.noted.popleft()))
    order = {example.key: place for place, example in enumerate(examples)}
    for (_, run), held in zip(runs, found):
        held.sort(key=lambda one: order[one[0].key])
        entries = [
            {"key": example.key, "picture": store(run.folder.parent, picture), **entry}
            for example, picture, entry in held
        ]
        write_json(run.folder / FILE, {"format": FORMAT, "samples": entries})


def lacking(runs: Sequence[tuple[list[Stage], Run]]) -> list[tuple[list[Stage], Run]]:
    """Of the runs those without samples, or with samples older than their configuration."""
    return [(plan, run) for plan, run in runs if not _is_there(run.folder)]


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


def to_mask(kept: Iterable[int], patches: int) -> str:
    """Indices as a bit mask in hexadecimal; patch 0 is the highest bit of the first byte."""
    bits = np.zeros(patches, dtype=bool)
    bits[list(kept)] = True
    return np.packbits(bits).tobytes().hex()


def from_mask(mask: str, patches: int) -> list[int]:
    """The indices in a bit mask. Raises ValueError for one that is not of so many patches."""
    held = np.frombuffer(bytes.fromhex(mask), dtype=np.uint8)
    if len(held) != math.ceil(patches / 8):
        raise ValueError(
            f"mask={mask[:16]!r}... has {8 * len(held)} bits, {patches} patches need as many, in whole bytes"
        )
    return np.flatnonzero(np.unpackbits(held)[:patches]).tolist()


def store(results: Path, picture: Image.Image) -> str:
    """Write a picture once, under a name that its content gives; returns the file's path from ``results``."""
    content, small = io.BytesIO(), picture.convert("RGB")
    small.thumbnail((SIDE, SIDE))
    small.save(content, "JPEG", quality=QUALITY, optimize=True)
    file = results / "pictures" / f"{zlib.crc32(content.getvalue()):08x}.jpg"
    if not file.is_file():
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(content.getvalue())
    return str(file.relative_to(results))


def read(folder: Path) -> list[dict]:
    """The entries of a run's folder; none where it has no samples.

    Raises ValueError naming the file that is of another format or lacks something.
    """
    file = folder / FILE
    if not file.is_file():
        return []
    held = read_json(file)
    if held.get("format") != FORMAT:
        raise ValueError(f"{file} is of format {held.get('format')}, this version reads {FORMAT}; remove it")
    try:
        for entry in held["samples"]:
            lacking = [name for name in ("key", "picture", "layers") if name not in entry]
            for stage in entry["stages"]:
                lacking += [name for name in ("stage", "layer", "merges") if name not in stage]
                from_mask(stage["kept"], entry["patches"] ** 2)
            if lacking:
                raise KeyError(", ".join(lacking))
    except (KeyError, TypeError, ValueError) as error:
        raise ValueError(f"{file} holds an entry that is not whole ({error}); remove it and run again") from None
    return held["samples"]


def _plain(stage: Stage, kept: np.ndarray, patches: int) -> dict:
    return {"stage": str(stage), "layer": stage.layer, "merges": merges(stage), "kept": to_mask(kept, patches)}


def _is_there(folder: Path) -> bool:
    """Whether samples were stored since the run's configuration was."""
    file = folder / FILE
    return file.is_file() and file.stat().st_mtime >= (folder / "config.yaml").stat().st_mtime


class _Watched:
    """A subject that notes of every answer the picture as it was seen and what was kept of it, in the answers' order."""

    def __init__(self, subject: LlavaSubject):
        self.subject = subject
        self.noted: deque[tuple[Image.Image, dict]] = deque()

    def encode(self, images: Sequence[Image.Image], plan: Sequence[Stage] = ()) -> list[tuple[Any, Image.Image]]:
        return list(zip(self.subject.encode(images, plan), images, strict=True))

    def answer(
        self, texts: Sequence[str], features: Sequence[Any], plan: list[Stage], generation: Generation
    ) -> list[Reply]:
        replies = self.subject.answer(texts, [feature for feature, _ in features], plan, generation)
        trace = self.subject.model.last_trace
        for row, (reply, (feature, image)) in enumerate(zip(replies, features, strict=True)):
            entry: dict[str, Any] = {"layers": len(reply.kept), "patches": None, "stages": []}
            if feature.features.dim() == 2:
                count = len(feature.features)
                left = left_after(plan, trace, count, row, row)
                entry.update(patches=math.isqrt(count), stages=[_plain(stage, kept, count) for stage, kept in left])
                image = Image.fromarray((255 * seen(self.subject, image)).round().astype(np.uint8))
            self.noted.append((image, entry))
        return replies

    def length(self, text: str, image: Path | None) -> int:
        return self.subject.length(text, image)
