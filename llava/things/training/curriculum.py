"""What the model of real parts learns from, stage by stage, and the records of a stage in LLaVA's layout."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
from rich.progress import track

from llava.files import write_json
from llava.folders import begin
from llava.worlds.files import conversation

from ..world import Conversations, Questions, World
from ..world.conversations import MIX
from .worded import draw_words

SEED = 41  # first number of the seeds of all scenes that are trained on
QUALITY = 90  # of the JPEGs
RANK = 32  # of the LoRA: 20 MB in bfloat16
MADE = "made.json"  # in every folder of the work: what it is made from
DRAWN = ("pictures", "least", "most", "asked", "mix", "worded")  # what decides a stage's records


@dataclass(frozen=True)
class Stage:
    """A part of the curriculum: one training by ``llava.train.train``.

    pictures: how many, each read once for all of its questions. least, most: things in a picture. asked: questions or pairs of them about
    each. plan: the reduction under which it learns, None for all 576 tokens. rate: of the LoRA, and of the projector times
    ``projector``. batch: pictures per step. mix: what is asked. worded: about pictures made of words (``worded``).
    """

    name: str
    pictures: int
    least: int
    most: int
    asked: int
    plan: str | None
    rate: float
    projector: float = 0.5
    batch: int = 4
    mix: Mapping[str, float] = field(default_factory=lambda: MIX)
    worded: bool = False

    @property
    def number(self) -> int:
        return [stage.name for stage in CURRICULUM].index(self.name)


ASKED = {"yes_no": 0.6, "open": 0.4}
DESCRIBED = {"yes_no": 0.35, "open": 0.4, "choice": 0.1, "caption": 0.15}
PLACED = {"yes_no": 0.3, "open": 0.25, "choice": 0.1, "box": 0.25, "caption": 0.1}
CURRICULUM = (
    Stage("words", 1800, 1, 3, asked=8, plan="pool@prompt:36", rate=1e-3, mix=ASKED, worded=True),
    Stage("few", 1200, 1, 4, asked=8, plan="pool:144", rate=6e-4, mix=ASKED),
    Stage("many", 800, 2, 8, asked=8, plan="pool:144", rate=5e-4, mix=ASKED | {"choice": 0.1}),
    Stage("mixed", 1200, 1, 8, asked=10, plan="pool:144", rate=5e-4, mix=DESCRIBED),
    Stage("whole", 600, 2, 8, asked=10, plan=None, rate=3e-4, projector=0.3, mix=PLACED),
)


def write_records(stage: Stage, world: World, folder: Path, progress: bool = False) -> Path:
    """Draw a stage's pictures and write its questions, a record each; returns the JSON, which is written last.

    What is there already is kept: the same stage gives the same bytes. Raises ValueError for a folder of another stage's.
    """
    file = folder / f"{stage.name}.json"
    begin(folder, MADE, {"number": stage.number, **{name: vars(stage)[name] for name in DRAWN}})
    if file.is_file():
        return file
    conversations = Conversations(Questions(world))
    records = []
    for number in track(range(stage.pictures), f"drawing {stage.name}", disable=not progress):
        seed = (SEED, stage.number, number)
        scene = world.scene(*seed, least=stage.least, most=stage.most)
        picture = folder / f"{number:05d}.{'png' if stage.worded else 'jpg'}"
        if not picture.is_file():
            drawn = draw_words(scene, world) if stage.worded else world.render(scene)
            drawn.save(picture, quality=QUALITY)
        turns = conversations.singly(scene, np.random.default_rng((*seed, 2)), stage.asked, stage.mix)
        records += [conversation(f"{picture.stem}-{place}", picture.name, [turn]) for place, turn in enumerate(turns)]
    write_json(file, records)
    return file


def arguments(stage: Stage, base: Path, records: Path, output: Path, before: Path | None) -> list[str]:
    """The command line of ``llava.train.train`` for a stage. before: the folder of the stage before, of a projector or a LoRA."""
    flags: dict[str, object] = {
        "model_name_or_path": base, "version": "qwen_1_5", "data_path": records, "image_folder": records.parent,
        "output_dir": output, "bf16": _has_bfloat16(), "use_cpu": not torch.cuda.is_available(), "num_train_epochs": 1, "per_device_train_batch_size": stage.batch,
        "learning_rate": stage.rate, "lr_scheduler_type": "cosine", "warmup_ratio": 0.05, "weight_decay": 0.0,
        "model_max_length": 1024, "logging_steps": 5, "save_strategy": "steps", "save_steps": 40, "save_total_limit": 2,
        "share_pictures": True, "report_to": "none", "lazy_preprocess": True, "seed": SEED,
        "lora_enable": True, "lora_r": RANK, "lora_alpha": 2 * RANK, "lora_dropout": 0.0,
        "mm_projector_lr": stage.rate * stage.projector,
    }  # fmt: skip
    if stage.plan:
        flags["reduction"] = stage.plan
    if before is not None:
        is_projector = (before / "mm_projector.bin").is_file()
        flags["pretrain_mm_mlp_adapter" if is_projector else "lora_weight_path"] = (
            before / "mm_projector.bin" if is_projector else before
        )
    return [word for name, value in flags.items() for word in (f"--{name}", str(value))]


def _has_bfloat16() -> bool:
    """Whether bfloat16 is the faster one; a processor without AVX-512 multiplies in it at a seventh of float32's speed."""
    return torch.cuda.is_available() or torch.backends.cpu.get_cpu_capability().startswith("AVX512")
