"""What a command line says, as plain frozen values: every function below it takes these, and so can a notebook.

spec = ModelSpec("playground/checkpoints/llava-shapes-v1", device="cpu")
run(EvalSettings(spec, task="mme", data="playground/data/eval/MME-shapes"), PlanSpec(("fastv@2:64",)))
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from llava.mm_utils import get_model_name_from_path

BITS = (4, 8)
PICTURES = 12  # whose kept patches a run stores for the report's page


@dataclass(frozen=True)
class ModelSpec:
    """A checkpoint, and how it is loaded and asked.

    path: folder or hub name. base: the language model that a LoRA or a projector-only folder belongs to. conv_mode: prompt
    template (None: the checkpoint's own). usual_conv_mode: the template of a checkpoint that names none (None: by its name).
    device: "cuda", "cuda:1", "cpu" (None: cuda where there is one). dtype: "float16", "bfloat16", "float32" (None: float16 on
    cuda, float32 on the CPU). bits: 4 or 8 for weights through bitsandbytes. attn: "eager", "sdpa" or "flash_attention_2"
    (None: what transformers chooses). Raises ValueError for other ``bits``.
    """

    path: str | Path
    base: str | Path | None = None
    conv_mode: str | None = None
    usual_conv_mode: str | None = None
    device: str | None = None
    dtype: str | None = None
    bits: int | None = None
    attn: str | None = None

    def __post_init__(self) -> None:
        if self.bits not in (None, *BITS):
            raise ValueError(f"bits={self.bits!r} is not supported; give 4, 8, or None for weights in dtype")

    @property
    def name(self) -> str:
        """The model's name as results show it: the last folder of its path."""
        return get_model_name_from_path(str(self.path))


@dataclass(frozen=True)
class PlanSpec:
    """Which plans are compared.

    reductions: plans in short spelling, or YAML files. knobs: the documents' flags of one method instead
    (``{"use_fast_v": True}``); without either it is the plan of the checkpoint. match: ``"tokens=128"``, ``"flops=0.3"``,
    ``"kv=0.3"`` or ``"latency=0.5"``, the cost that all budgets are chosen for. controls: add the plans that every plan must beat.
    """

    reductions: tuple[str, ...] = ()
    knobs: Mapping[str, Any] = field(default_factory=dict)
    match: str | None = None
    controls: bool = True


@dataclass(frozen=True)
class EvalSettings:
    """The questions of an evaluation, the model they are put to, and how it runs.

    data: the benchmark's folder, its question file, or tar shards beside that. images, truth: folder (or tar shards) of
    the pictures, and true answers (None: where the benchmark keeps them). limit: at most this many questions, of whole
    pictures spread over the benchmark. share: (i, n) asks only the i-th of n shares of the pictures. instructed: ask
    for the form of answer that the benchmark wants. results: folder of the runs (None: playground/results/TASK).
    batch_size: questions at once. samples: pictures whose kept patches are stored. encode_each: encode a picture again
    for every question. retry_failed: ask failed questions again. Raises ValueError naming the argument that is out of
    range.
    """

    model: ModelSpec
    task: str
    data: str | Path
    images: str | Path | None = None
    truth: str | Path | None = None
    limit: int | None = None
    share: tuple[int, int] = (0, 1)
    instructed: bool = True
    results: str | Path | None = None
    batch_size: int = 8
    samples: int = 0
    encode_each: bool = False
    retry_failed: bool = False

    def __post_init__(self) -> None:
        check_least(1, batch_size=self.batch_size)
        check_least(0, samples=self.samples)
        if self.limit is not None:
            check_least(1, limit=self.limit)
        check_share(*self.share)


def check_least(least: int, **values: int) -> None:
    """Raises ValueError naming the first value below ``least``."""
    for name, value in values.items():
        if value < least:
            raise ValueError(f"{name}={value} must be at least {least}")


def check_share(index: int, count: int) -> None:
    """Raises ValueError unless ``index`` is one of ``count`` shares, counted from 0."""
    if count < 1 or not 0 <= index < count:
        raise ValueError(f"share {index} of {count} does not exist; give 0 <= index < count")
