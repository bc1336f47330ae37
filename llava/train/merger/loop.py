"""The steps of a merger's training: optimiser, schedule, several processes, and the checkpoint that a stopped run resumes from."""

from __future__ import annotations

import logging
import math
import os
import random
from collections.abc import Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any, cast

import torch
from accelerate import Accelerator
from rich.progress import Progress
from torch import Tensor, nn

from llava.constants import IGNORE_INDEX
from llava.folders import differences
from llava.reduction import reduced

from ..checkpoints import reading, writing
from .examples import TrainingExamples, draw_batch, split
from .losses import losses
from .metrics import add_metrics, keep_metrics_before
from .module import TrainableMerger
from .settings import Settings

logger = logging.getLogger(__name__)

CHECKPOINT, FINGERPRINT = "checkpoint.pt", "fingerprint"
DTYPES = {"no": torch.float32, "fp16": torch.float16, "bf16": torch.bfloat16}


class TrainingLoop:
    """One training; ``run`` does the steps that are left.

    What a step draws depends on the seed and its number alone, so a resumed run ends as one that was not stopped. With
    several processes each has its share of the batch, and gradients are those of the whole batch. deciding: what a checkpoint must
    agree with to be resumed, ``deciding_settings``.
    """

    def __init__(
        self,
        settings: Settings,
        merger: TrainableMerger,
        examples: TrainingExamples,
        accelerator: Accelerator,
        deciding: dict[str, Any],
    ):
        self.settings, self.merger, self.examples, self.accelerator = settings, merger, examples, accelerator
        self.training, self.deciding = settings.training_settings, deciding
        self.folder, self.step = Path(self.training.output), 0
        self.metrics = self.folder / "metrics.jsonl"
        self.module = merger.module.to(accelerator.device).train()
        self.optimiser = torch.optim.AdamW(
            self.module.parameters(), lr=self.training.learning_rate, weight_decay=self.training.weight_decay
        )
        has_scale = self.training.mixed_precision == "fp16"
        self.scaler = torch.amp.GradScaler(accelerator.device.type, enabled=has_scale)
        self.groups = examples.groups(together=merger.reads_no_question)

    def run(self, progress: Progress) -> None:
        """All steps left. Raises FloatingPointError for a loss that is not a number, OSError where writing fails."""
        self._resume()
        bar = progress.add_task("training", total=self.training.steps, completed=self.step)
        while self.step < self.training.steps:
            line = self._update()
            self.step += 1
            if self.accelerator.is_main_process:
                with self._writing(self.metrics):
                    add_metrics(self.metrics, line)
                if self.step % self.training.save_every == 0 or self.step == self.training.steps:
                    self._save()
            progress.update(bar, advance=1, description=f"training  loss {line['loss']:.3f}")

    # ---------------------------------------------------------------------------------------------------------- a step

    def _autocast(self) -> torch.autocast:
        """The number format of the forward pass; parameters and losses stay in float32."""
        dtype = DTYPES[self.training.mixed_precision]
        return torch.autocast(self.accelerator.device.type, dtype, enabled=dtype is not torch.float32)

    def _update(self) -> dict[str, float]:
        """One step of the optimiser on the batch that its number decides."""
        training, accelerator = self.training, self.accelerator
        rate = training.learning_rate * schedule(self.step, training.steps, training.warmup)
        for group in self.optimiser.param_groups:
            group["lr"] = rate
        self.merger.anneal(self.step / training.steps)
        budget = random.Random(f"{training.seed} budget {self.step}").choice(self.settings.budgets)
        torch.manual_seed(hash((training.seed, self.step, accelerator.process_index)) % 2**31)
        self.optimiser.zero_grad()
        sums = self._accumulate(budget)
        if accelerator.num_processes > 1:
            self._gather(sums)
        self.scaler.unscale_(self.optimiser)
        norm = nn.utils.clip_grad_norm_(self.module.parameters(), training.max_grad_norm)
        self.scaler.step(self.optimiser)
        self.scaler.update()
        return {"step": self.step, "budget": budget, "rate": rate, "grad_norm": float(norm), **sums}

    def _accumulate(self, budget: int | float) -> dict[str, float]:
        """The gradients of this process's share of the batch, and its share of every mean."""
        training, accelerator = self.training, self.accelerator
        indices = draw_batch(self.groups, training.batch_size, self.step, training.seed)
        share = split(indices, accelerator.num_processes)[accelerator.process_index]
        batches = [(part, self.examples.batch(part)) for part in split(share, training.gradient_accumulation)]
        counts = [int((batch["labels"][:, 1:] != IGNORE_INDEX).sum()) for _, batch in batches]
        total = int(self._sum(torch.tensor(sum(counts), device=accelerator.device)))
        sums: dict[str, float] = {}
        for (part, batch), count in zip(batches, counts, strict=True):
            parts = self._losses(part, batch, budget)
            self._check(parts["loss"])
            self.scaler.scale(parts["loss"] * count / total).backward()
            for name, value in parts.items():
                sums[name] = sums.get(name, 0.0) + float(value.detach()) * count / total
        return sums

    def _losses(self, indices: Sequence[int], batch: dict[str, Any], budget: int | float) -> dict[str, Tensor]:
        """The loss of one forward pass with the merger in place."""
        needs_teacher = self.training.distillation_weight or self.training.feature_weight
        with self._autocast():
            teacher = self.examples.teacher(indices, batch) if needs_teacher else None
            with reduced(self.examples.model, self.merger.plan(budget)):
                student = self.examples.student(indices, batch, self.merger.reads_no_question)
        return losses(self.training, student, teacher)

    def _gather(self, sums: dict[str, float]) -> None:
        """Add up the processes' gradients and losses: each has its share of the mean over all answers' tokens."""
        for parameter in self.module.parameters():
            gradient = torch.zeros_like(parameter) if parameter.grad is None else parameter.grad
            parameter.grad = self._sum(gradient)
        for name, value in sums.items():
            sums[name] = float(self._sum(torch.tensor(value, device=self.accelerator.device)))

    def _sum(self, tensor: Tensor) -> Tensor:
        """A tensor added up over all processes."""
        return cast(Tensor, self.accelerator.reduce(tensor, reduction="sum"))

    def _check(self, loss: Tensor) -> None:
        """Stop before what is not a number gets into the weights."""
        if not torch.isfinite(loss):
            last = self.last_checkpoint()
            kept = f"the last good checkpoint is {last}" if last else "no checkpoint was written yet"
            raise FloatingPointError(
                f"the loss is {float(loss.detach())} at step {self.step}; {kept}. Lower "
                f"training_settings.learning_rate ({self.training.learning_rate}) and give the command again"
            )

    # ------------------------------------------------------------------------------------------------------ checkpoints

    def last_checkpoint(self) -> Path | None:
        """The checkpoint's file, if there is one."""
        file = self.folder / CHECKPOINT
        return file if file.is_file() else None

    def _writing(self, file: Path) -> AbstractContextManager[None]:
        return writing(file, self.last_checkpoint())

    def _save(self) -> None:
        """Write the checkpoint; the previous one stays until the new one is complete."""
        state = {
            "step": self.step,
            "settings": self.deciding,
            "module": self.module.state_dict(),
            "optimiser": self.optimiser.state_dict(),
            "scaler": self.scaler.state_dict(),
        }
        partial = self.folder / f".{CHECKPOINT}.partial"
        try:
            with self._writing(self.folder / CHECKPOINT):
                torch.save(state, partial)
        except OSError:
            partial.unlink(missing_ok=True)
            raise
        os.replace(partial, self.folder / CHECKPOINT)

    def _resume(self) -> None:
        """Resume from the checkpoint, if any; ValueError for one that is unreadable or of another configuration."""
        file = self.last_checkpoint()
        if file is None:
            self.metrics.unlink(missing_ok=True)
            return
        with reading(file):
            state = torch.load(file, map_location="cpu", weights_only=True)
            stored = dict(state["settings"])
        require_same_training(file, stored, self.deciding)
        with reading(file):
            self.module.load_state_dict(state["module"])
            self.optimiser.load_state_dict(state["optimiser"])
            self.scaler.load_state_dict(state["scaler"])
            self.step = int(state["step"])
        if self.accelerator.is_main_process:
            keep_metrics_before(self.metrics, self.step)
        logger.info("resuming from step %d of %s", self.step, file)


def deciding_settings(settings: Settings, weights: str) -> dict[str, Any]:
    """Every setting that decides the result, by its whole name; weights: the fingerprint of the frozen model."""
    named: dict[str, Any] = {}
    for group, values in settings.model_dump().items():
        values = values.get("mllm_settings", values)
        named |= {f"{group}.{name}": value for name, value in values.items()}
    kept = {name: value for name, value in named.items() if not name.endswith((".output", ".save_every", ".cache"))}
    return kept | {FINGERPRINT: weights}


def require_same_training(file: Path, stored: dict[str, Any], asked: dict[str, Any]) -> None:
    """Raises ValueError that names every setting in which ``file``, a checkpoint or what was trained, differs."""
    if changes := differences(stored, asked):
        raise ValueError(
            f"{file} is of another training: {changes}. Give another training_settings.output, or remove that folder to "
            "start again"
        )


def schedule(step: int, steps: int, warmup: int) -> float:
    """The share of the learning rate at a step: up linearly, then down along a cosine to a hundredth."""
    if step < warmup:
        return (step + 1) / warmup
    done = (step - warmup) / max(1, steps - warmup)
    return 0.01 + 0.99 * (1 + math.cos(math.pi * done)) / 2
