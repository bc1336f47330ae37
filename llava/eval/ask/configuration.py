"""The configuration of a run: everything that decides its answers, and how it was run."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Protocol

import torch

from llava.model.checkpoint import fingerprint
from llava.reduction import Stage, plan_name

from ..tasks.base import Example
from .opening import Checkpoint, Evaluation
from .pricing import method_label


class QuestionSet(Protocol):
    """What a run's configuration says of its questions; a ``Task`` is one, and so is the question file of answers."""

    @property
    def name(self) -> str:
        """The benchmark's name."""
        ...

    @property
    def data(self) -> Path:
        """The folder or the file of the questions."""
        ...

    @property
    def examples(self) -> list[Example]:
        """The questions."""
        ...

    @property
    def instructed(self) -> bool:
        """Whether prompts say what form of answer is wanted."""
        ...

    @property
    def max_new_tokens(self) -> int:
        """The longest answer."""
        ...

    def fingerprint(self) -> str:
        """A checksum of the question files, by which a rerun knows that it asks the same."""
        ...


def configuration(
    model: Checkpoint, task: QuestionSet, plan: list[Stage], batch_size: int, limit: int | None = None
) -> dict[str, Any]:
    """Everything that decides the answers of a run, and how it was run, as plain values."""
    spec = model.spec
    device = spec.device or ("cuda" if torch.cuda.is_available() else "cpu")
    trained = [stage.reducer.weights for stage in plan if stage.reducer.weights]
    return {
        "task": {
            "name": task.name,
            "data": str(task.data),
            "questions": len(task.examples),
            "limit": limit,
            "fingerprint": task.fingerprint(),
            **({} if task.instructed else {"instructed": False}),
        },
        "model": {
            "name": spec.name,
            "path": str(spec.path),
            "base": None if spec.base is None else str(spec.base),
            **model.fingerprints(),
            "device": str(device),
            "dtype": spec.dtype or ("float16" if str(device).startswith("cuda") else "float32"),
            "attn_implementation": spec.attn,
            "bits": spec.bits,
        },
        "plan": {"name": plan_name(plan), "method": method_label(plan), "stages": [str(stage) for stage in plan]}
        | ({"weights": list(map(fingerprint, trained))} if trained else {}),
        "conv_mode": model.conv_mode,
        "max_new_tokens": task.max_new_tokens,
        "decoding": "greedy",
        "batch_size": batch_size,
    }


def run_configuration(evaluation: Evaluation, plan: list[Stage]) -> dict[str, Any]:
    """The ``configuration`` of an evaluation's run under a plan."""
    settings = evaluation.settings
    return configuration(evaluation.model, evaluation.task, plan, settings.batch_size, settings.limit)
