"""Train the model of real parts: align the projector, then every stage of the curriculum by ``llava.train.train``.

    python -m llava.things.train --base playground/checkpoints/llava-things-base --work playground/training/things

Everything lies in the work folder, and the same command resumes where it was stopped: drawn pictures, patches and finished stages
are kept, an interrupted stage is resumed from its last checkpoint. What was begun with other parts or another curriculum is refused.
"""

from __future__ import annotations

import logging
from functools import partial
from pathlib import Path
from typing import Any

import torch

from llava.files import write_json
from llava.folders import begin
from llava.model.builder import PROJECTOR_FILE, load_pretrained_model
from llava.model.checkpoint import fingerprint
from llava.train.train import parse, train

from ..world import World
from .align import Words, align, read_patches
from .curriculum import CURRICULUM, MADE, Stage, arguments, write_records
from .ship import digest, finished_stages, ship
from .worded import read_words

logger = logging.getLogger(__name__)

PICTURES, STEPS = 1200, 2000  # of the alignment
DONE = "done.json"  # in the folder of a finished stage: its last figures


def train_things(
    base: Path, world: World, work: Path, output: Path, until: str | None = None, progress: bool = False
) -> Path:
    """Follow the curriculum to the end of the stage ``until`` (default: the last) and write what was learnt into ``output``.

    base: the checkpoint of the untrained parts. work: 1.5 GB at most. output: also where it begins, if some stages were shipped there
    before. Raises ValueError for an unknown stage or one that is already done, and what ``llava.train.train`` raises.
    """
    names = [stage.name for stage in CURRICULUM]
    until = names[-1] if until is None else until
    if until not in names:
        raise ValueError(f"until={until!r} is no stage; choose one of {', '.join(names)}")
    finished = finished_stages(output)
    if finished != names[: len(finished)]:
        raise ValueError(f"{output} was trained by other stages ({', '.join(finished)}); give another output")
    last = names.index(until) + 1
    if last <= len(finished):
        raise ValueError(f"until={until!r}, but {output} has been through {', '.join(finished)}; give a later stage")
    before = output if finished else aligned(base, world, work, progress)
    for stage in CURRICULUM[len(finished) : last]:
        before = _trained(stage, base, world, work, before, progress)
    return ship(before, output, names[:last])


def aligned(base: Path, world: World, work: Path, progress: bool = False) -> Path:
    """The folder with an aligned projector and its figures."""
    folder, seen = work / "aligned", work / "patches"
    begin(folder, MADE, {"base": fingerprint(base), "pictures": PICTURES, "steps": STEPS})
    begin(seen, MADE, {"base": fingerprint(base)})
    if not (folder / DONE).is_file():
        tokenizer, model, image_processor, _ = load_pretrained_model(base, device="cpu", dtype="float32")
        patches = read_patches(model, image_processor, world, seen, PICTURES, progress)
        embeddings: Any = model.get_input_embeddings()
        words = Words.of(world, tokenizer, embeddings.weight)
        projector: Any = model.get_model().mm_projector
        figures = align(projector, patches, words, STEPS)
        weights = {f"model.mm_projector.{name}": value for name, value in projector.state_dict().items()}
        torch.save(weights, folder / PROJECTOR_FILE)
        write_json(folder / DONE, figures)
        logger.info("aligned: %s", ", ".join(f"{name} {value:.1%}" for name, value in figures.items()))
    return folder


def _trained(stage: Stage, base: Path, world: World, work: Path, before: Path, progress: bool) -> Path:
    folder = work / "stages" / stage.name
    begin(folder, MADE, {"stage": vars(stage), "base": fingerprint(base), "before": digest(before)})
    if not (folder / DONE).is_file():
        records = write_records(stage, world, work / "records" / stage.name, progress)
        logger.info("stage %s: %d pictures", stage.name, stage.pictures)
        words = partial(read_words, world=world) if stage.worded else None
        trained = train(*parse(arguments(stage, base, records, folder, before)), prepare=words)
        write_json(folder / DONE, trained.state.log_history[-1])
    return folder
