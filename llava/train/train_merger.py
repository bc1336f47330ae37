"""Train a merger of visual tokens; tower, projector and language model stay as they are.

    python -m llava.train.train_merger --config configs/vision_token_pruning.yaml
    accelerate launch --num_processes 2 -m llava.train.train_merger --config ... --set training_settings.steps=3000

The loss is the answer's cross-entropy with the merger in place, plus, against the same model with every token, the KL
divergence of the answer's logits and, where weighted, the squared distance of the last hidden states. Written to
``training_settings.output``: ``merger.safetensors`` and ``merger.json`` (a plan names the folder: ``merger:64,weights=FOLDER``),
``settings.yaml``, ``metrics.jsonl``, ``loss.png``, and ``checkpoint.pt`` while it runs. Given again the command goes on from
there, and what a step draws depends on the seed and its number alone, so a stopped run ends as one that was not.
"""

from __future__ import annotations

import argparse
import json
import logging
import math
import os
import random
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import yaml
from accelerate import Accelerator
from matplotlib.figure import Figure
from rich.progress import Progress
from torch import Tensor, nn

from llava.cli.console import progress_bar, terminal
from llava.constants import IGNORE_INDEX
from llava.model.builder import load_pretrained_model, read_config
from llava.model.checkpoint import find_folder
from llava.model.language_model.himap_configuration_llama import REDUCTION_KNOBS
from llava.reduction import Stage, reduced
from llava.reduction.aggregate import CrossAttention
from llava.reduction.mergers import MERGERS, make_merger
from llava.reduction.methods.condensation import Condensation
from llava.reduction.methods.custom_selection import CustomSelection
from llava.reduction.methods.merger import TrainedMerger
from llava.reduction.trained import save_trained, trained_plan
from llava.shapes.export import export
from llava.utils import exit_code

from .data import Collator, ConversationDataset
from .distillation import Reading, losses, read, read_together
from .merger_settings import Settings, read_settings

logger = logging.getLogger(__name__)

DRAWN = "llava_shapes.json"  # what the embedded world's export calls its conversations
CHECKPOINT = "checkpoint.pt"


@dataclass(frozen=True)
class Trainee:
    """The module that learns, the arguments that build it again, and how a stage uses it."""

    module: nn.Module
    arguments: dict[str, Any]
    settings: Settings

    def plan(self, budget: int | float) -> list[Stage]:
        """The module in place, with a budget."""
        method = self.settings.method_settings
        if method.merger_type in MERGERS:
            return [Stage(TrainedMerger(module=self.module), "features", keep=budget)]
        site = "features" if method.layer is None else "layer"
        kind = Condensation if method.merger_type == "condensation" else CustomSelection
        options = {"heads": method.num_heads} if kind is Condensation else {}
        return [Stage(kind(method.strategy, attention=self.module, **options), site, method.layer, budget)]

    @property
    def reads_no_question(self) -> bool:
        """Whether what the decoder gets of a picture is the same for every question about it."""
        method = self.settings.method_settings
        return method.layer is None and not getattr(self.module, "needs_question", False)

    @property
    def stage(self) -> str:
        """Where the module stands, as a plan is spelled, without budget and weights."""
        method = self.settings.method_settings
        if method.merger_type in MERGERS:
            return "merger"
        where = "features" if method.layer is None else method.layer
        return f"{method.merger_type}@{where},strategy={method.strategy}"

    def anneal(self, progress: float) -> None:
        """Lower the temperature of a module that has one."""
        if hasattr(self.module, "anneal"):
            self.module.anneal(progress)


def build(settings: Settings, vision_dim: int, hidden_dim: int, tokens: int) -> Trainee:
    """The module that a configuration asks for, at its start, for a model of these widths and ``tokens`` a picture."""
    method, model = settings.method_settings, settings.backbone_settings.mllm_settings
    for name, own in (("vision_dim", vision_dim), ("hidden_dim", hidden_dim)):
        said = getattr(model, name)
        if said is not None and said != own:
            raise ValueError(
                f"backbone_settings.mllm_settings.{name}={said} but {model.model_path} has {own}; leave it out to read it there"
            )
    for budget in settings.budgets:
        if budget > tokens:
            raise ValueError(f"method_settings.budgets: {budget} exceeds the {tokens} tokens of a picture")
    common = {"num_heads": method.num_heads, "merge_ratio": method.merge_ratio}
    inside = {"d_vision": vision_dim, "d_text": hidden_dim, "d_internal": method.d_internal}
    torch.manual_seed(settings.training_settings.seed)
    if method.merger_type not in MERGERS:
        width = vision_dim if method.layer is None else hidden_dim
        arguments = {"width": width, "heads": method.num_heads}
        return Trainee(CrossAttention(**arguments), arguments, settings)
    arguments = {
        "simple": {"d_model": vision_dim, **common},
        "question_aware": {**inside, **common},
        "fixed_pooling": {**inside, **common, "use_question": bool(method.use_question), "num_tokens": tokens},
    }[method.merger_type]
    return Trainee(make_merger(method.merger_type, **arguments), arguments, settings)


def matched_layer(settings: Settings, layers: int) -> int | None:
    """After how many decoder layers words are matched; None where they are not."""
    training = settings.training_settings
    if not training.feature_weight:
        return None
    layer, own = training.feature_layer or layers, settings.method_settings.layer or 0
    if not own < layer <= layers:
        raise ValueError(
            f"training_settings.feature_layer={layer} must lie between {own + 1} and {layers}: words are matched behind the "
            "reduction, in one of the model's layers"
        )
    return layer


class Questions:
    """What a merger is trained on: prompts with answers, features of their pictures, and what the full model says.

    With ``cache`` features and answers are computed once and kept in memory (for 576 tokens of 1024 in half precision 1.2 MB a picture).
    """

    def __init__(self, settings: Settings, model: nn.Module, tokenizer: Any, image_processor: Any):
        data = settings.data_settings
        self.model, self.settings = model, settings
        self.layer = matched_layer(settings, model.config.num_hidden_layers)
        tower = model.get_vision_tower()
        self.dataset = ConversationDataset(
            data.data_path,
            data.image_folder,
            settings.backbone_settings.mllm_settings.conv_mode,
            tokenizer,
            image_processor,
            model.config,
            getattr(model.config, "tokenizer_model_max_length", None) or model.config.max_position_embeddings,
            tower.num_patches,
            images_required=True,
            skip_bad=data.skip_bad_records,
            split_turns=data.split_turns,
            lazy=False,
        )
        self.collate = Collator(tokenizer.pad_token_id or 0)
        self.features: dict[tuple[str, ...], list[Tensor]] = {}
        self.readings: dict[int, Reading] = {}
        self.records: dict[tuple[str, ...], list[int]] = {}
        for index in range(len(self.dataset)):
            self.records.setdefault(self.dataset.pictures(index), []).append(index)

    def __len__(self) -> int:
        return len(self.dataset)

    def batch(self, indices: Sequence[int]) -> dict[str, Any]:
        """Spliced lazily: ids, labels, mask and the pictures' raw features."""
        items = [self._item(index) for index in indices]
        device = self.model.device
        raw = [feature.to(device) for item in items for feature in item.pop("raw")]
        return {name: part.to(device) for name, part in self.collate(items).items()} | {"raw_vision_features": raw}

    def _item(self, index: int) -> dict[str, Any]:
        key = self.dataset.pictures(index)
        if key not in self.features:
            item = self.dataset[index]
            with torch.no_grad():
                found = self.model.encode_raw(item["images"])
            if not self.settings.data_settings.cache:
                return {"input_ids": item["input_ids"], "labels": item["labels"], "images": [], "raw": found}
            self.features[key] = [feature.half().cpu() for feature in found]
        ids, labels = self.dataset.encoded(index)
        return {"input_ids": ids, "labels": labels, "images": [], "raw": self.features[key]}

    @torch.no_grad()
    def teacher(self, indices: Sequence[int], batch: dict[str, Any]) -> Reading:
        """How the full model reads a batch."""
        if not self.settings.data_settings.cache:
            with reduced(self.model, ""):
                return read(self.model, batch, self.layer)
        for index in indices:
            if index not in self.readings:
                self._read(self.records[self.dataset.pictures(index)])
        return Reading.of([self.readings[index] for index in indices], self.model.device)

    def student(self, indices: Sequence[int], batch: dict[str, Any], together: bool) -> Reading:
        """How the model reads a batch under the plan in force; ``together``: a picture once for all of its questions."""
        if not together:
            return read(self.model, batch, self.layer)
        return read_together(self.model, batch, [self.dataset.pictures(index) for index in indices], self.layer)

    def _read(self, indices: Sequence[int]) -> None:
        """Keep how the full model reads all questions about a picture."""
        size = self.settings.training_settings.batch_size
        for part in (indices[start : start + size] for start in range(0, len(indices), size)):
            with reduced(self.model, ""):
                found = self.student(part, self.batch(part), together=True)
            self.readings.update(zip(part, found.rows()))


class Run:
    """One training: optimiser, schedule, checkpoints, and the record of what happened."""

    def __init__(self, settings: Settings, trainee: Trainee, questions: Questions, accelerator: Accelerator):
        self.settings, self.trainee, self.questions, self.accelerator = settings, trainee, questions, accelerator
        training = settings.training_settings
        self.folder, self.step = Path(training.output), 0
        self.module = trainee.module.to(accelerator.device).train()
        self.optimiser = torch.optim.AdamW(
            self.module.parameters(), lr=training.learning_rate, weight_decay=training.weight_decay
        )
        self.scaler = torch.amp.GradScaler(accelerator.device.type, enabled=training.mixed_precision == "fp16")
        self.metrics = self.folder / "metrics.jsonl"
        pictures = list(questions.records.values())
        apart = [[index] for index in range(len(questions))]
        self.examples = pictures if trainee.reads_no_question else apart

    def autocast(self) -> torch.autocast:
        """The number format of the forward pass; parameters and losses stay in float32."""
        dtype = {"no": torch.float32, "fp16": torch.float16, "bf16": torch.bfloat16}[
            self.settings.training_settings.mixed_precision
        ]
        return torch.autocast(self.accelerator.device.type, dtype, enabled=dtype is not torch.float32)

    def work(self, progress: Progress) -> None:
        """All steps that are left."""
        training = self.settings.training_settings
        self._resume()
        bar = progress.add_task("training", total=training.steps, completed=self.step)
        while self.step < training.steps:
            line = self._update()
            self.step += 1
            if self.accelerator.is_main_process:
                with open(self.metrics, "a", encoding="utf-8") as file:
                    file.write(json.dumps(line) + "\n")
                if self.step % training.save_every == 0 or self.step == training.steps:
                    self._save()
            progress.update(bar, advance=1, description=f"training  loss {line['loss']:.3f}")

    def _update(self) -> dict[str, float]:
        """One step of the optimiser on a batch that its number decides."""
        training, accelerator = self.settings.training_settings, self.accelerator
        rate = training.learning_rate * schedule(self.step, training.steps, training.warmup)
        for group in self.optimiser.param_groups:
            group["lr"] = rate
        self.trainee.anneal(self.step / training.steps)
        budget = random.Random(f"{training.seed} budget {self.step}").choice(self.settings.budgets)
        indices = drawn(self.examples, training.batch_size, self.step, training.seed)
        torch.manual_seed(hash((training.seed, self.step, accelerator.process_index)) % 2**31)
        mine = split(indices, accelerator.num_processes)[accelerator.process_index]
        batches = [(part, self.questions.batch(part)) for part in split(mine, training.gradient_accumulation)]
        counts = [int((batch["labels"][:, 1:] != IGNORE_INDEX).sum()) for _, batch in batches]
        total = int(accelerator.reduce(torch.tensor(sum(counts), device=accelerator.device), reduction="sum"))
        sums: dict[str, float] = {}
        self.optimiser.zero_grad()
        for (part, batch), count in zip(batches, counts):
            needed = training.distillation_weight or training.feature_weight
            with self.autocast():
                teacher = self.questions.teacher(part, batch) if needed else None
                with reduced(self.questions.model, self.trainee.plan(budget)):
                    student = self.questions.student(part, batch, self.trainee.reads_no_question)
            found = losses(training, student, teacher)
            self._check(found["loss"])
            self.scaler.scale(found["loss"] * count / total).backward()
            for name, value in found.items():
                sums[name] = sums.get(name, 0.0) + float(value.detach()) * count / total
        if accelerator.num_processes > 1:
            self._gather(sums)
        self.scaler.unscale_(self.optimiser)
        norm = nn.utils.clip_grad_norm_(self.module.parameters(), training.max_grad_norm)
        self.scaler.step(self.optimiser)
        self.scaler.update()
        return {"step": self.step, "budget": budget, "rate": rate, "grad_norm": float(norm), **sums}

    def _gather(self, sums: dict[str, float]) -> None:
        """Add up what the processes found: each has its part of the mean over all answers' tokens."""
        for parameter in self.module.parameters():
            own = torch.zeros_like(parameter) if parameter.grad is None else parameter.grad
            parameter.grad = self.accelerator.reduce(own, reduction="sum")
        for name, value in sums.items():
            sums[name] = float(
                self.accelerator.reduce(torch.tensor(value, device=self.accelerator.device), reduction="sum")
            )

    def _check(self, loss: Tensor) -> None:
        """Stop before what is not a number gets into the weights."""
        if not torch.isfinite(loss):
            last = self.folder / CHECKPOINT
            kept = f"the last good checkpoint is {last}" if last.is_file() else "no checkpoint was written yet"
            raise FloatingPointError(
                f"the loss is {float(loss.detach())} at step {self.step}; {kept}. Lower training_settings.learning_rate "
                f"({self.settings.training_settings.learning_rate}) and give the command again"
            )

    def _save(self) -> None:
        state = {
            "step": self.step,
            "settings": _deciding(self.settings),
            "module": self.module.state_dict(),
            "optimiser": self.optimiser.state_dict(),
            "scaler": self.scaler.state_dict(),
        }
        partial = self.folder / f".{CHECKPOINT}.partial"
        torch.save(state, partial)
        os.replace(partial, self.folder / CHECKPOINT)

    def _resume(self) -> None:
        """Go on from a checkpoint, if there is one of the same configuration."""
        file = self.folder / CHECKPOINT
        if not file.is_file():
            self.metrics.unlink(missing_ok=True)
            return
        state = torch.load(file, map_location="cpu", weights_only=True)
        held, asked = state["settings"], _deciding(self.settings)
        other = [name for name in {**held, **asked} if held.get(name) != asked.get(name)]
        if other:
            changes = "; ".join(f"{name} is {held.get(name)!r} there and {asked.get(name)!r} now" for name in other)
            raise ValueError(
                f"{file} is of another training: {changes}. Give another training_settings.output, or remove that folder to begin anew"
            )
        self.module.load_state_dict(state["module"])
        self.optimiser.load_state_dict(state["optimiser"])
        self.scaler.load_state_dict(state["scaler"])
        self.step = state["step"]
        if self.accelerator.is_main_process and self.metrics.is_file():
            lines = [line for line in read_metrics(self.metrics) if line["step"] < self.step]
            self.metrics.write_text("".join(json.dumps(line) + "\n" for line in lines), encoding="utf-8")
        logger.info("going on from step %d of %s", self.step, file)


def schedule(step: int, steps: int, warmup: int) -> float:
    """The share of the learning rate at a step: up in a line, then down along a cosine to a hundredth."""
    if step < warmup:
        return (step + 1) / warmup
    done = (step - warmup) / max(1, steps - warmup)
    return 0.01 + 0.99 * (1 + math.cos(math.pi * done)) / 2


def drawn(examples: Sequence[Sequence[int]], size: int, step: int, seed: int) -> list[int]:
    """Which ``size`` examples a step learns from: every pass goes over all of them in an order of its own.

    ``examples`` in groups that stay together, such as the questions about a picture.
    """
    count = sum(map(len, examples))
    wanted = range(step * size, (step + 1) * size)
    orders: dict[int, list[int]] = {}
    for place in wanted:
        if place // count not in orders:
            shuffled = list(examples)
            random.Random(f"{seed} pass {place // count}").shuffle(shuffled)
            orders[place // count] = [index for group in shuffled for index in group]
    return [orders[place // count][place % count] for place in wanted]


def split(indices: Sequence[int], parts: int) -> Iterator[Sequence[int]]:
    """A batch in ``parts`` as equal as can be; empty ones are left out."""
    size = -(-len(indices) // parts)
    return [indices[start : start + size] for start in range(0, len(indices), size)]


def read_metrics(file: Path) -> list[dict]:
    """The lines of ``metrics.jsonl``; half a line of a killed run is left out."""
    whole = file.read_text(encoding="utf-8").rpartition("\n")[0]
    return [json.loads(line) for line in whole.splitlines()]


def draw_loss(lines: Sequence[dict], title: str) -> Figure:
    """Every step's loss by budget as points, with a running mean a budget."""
    figure = Figure(figsize=(8, 4.5), dpi=150, layout="constrained")
    axes = figure.subplots()
    for number, budget in enumerate(sorted({line["budget"] for line in lines}, reverse=True)):
        own = [line for line in lines if line["budget"] == budget]
        steps, values = [line["step"] for line in own], [line["loss"] for line in own]
        width = max(1, len(own) // 20)
        means = [
            sum(values[max(0, at - width) : at + 1]) / len(values[max(0, at - width) : at + 1])
            for at in range(len(own))
        ]
        axes.plot(steps, values, ".", markersize=2, alpha=0.25, color=f"C{number}")
        axes.plot(steps, means, color=f"C{number}", label=f"{budget} tokens")
    axes.set(xlabel="step", ylabel="loss", title=title)
    axes.set_ylim(bottom=0)
    axes.grid(color="#dddddd", linewidth=0.7)
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(frameon=False)
    return figure


def train(settings: Settings) -> Path:
    """Train as the settings say, and return the folder that a plan can name."""
    training, mllm = settings.training_settings, settings.backbone_settings.mllm_settings
    accelerator = Accelerator()
    if training.batch_size % (accelerator.num_processes * training.gradient_accumulation):
        raise ValueError(
            f"training_settings.batch_size={training.batch_size} must be a multiple of {accelerator.num_processes} processes x "
            f"gradient_accumulation={training.gradient_accumulation}"
        )
    folder = Path(training.output)
    with accelerator.main_process_first():
        folder.mkdir(parents=True, exist_ok=True)
        _draw(settings)
    config = read_config(find_folder(mllm.model_path, "model"))
    if any(getattr(config, knob) for knob in REDUCTION_KNOBS if knob == "reduction" or knob.startswith("use_")):
        raise ValueError(
            f"{mllm.model_path} has a reduction in its config; a merger is trained against the model with every token"
        )
    device = accelerator.device if accelerator.device.type == "cuda" else "cpu"
    tokenizer, model, image_processor, _ = load_pretrained_model(
        mllm.model_path, mllm.model_base, device=device, torch_dtype=mllm.dtype
    )
    if model.get_vision_tower() is None:
        raise ValueError(
            f"{mllm.model_path} gives no raw_vision_features: it has no vision tower to merge the features of"
        )
    model.requires_grad_(False).eval()
    questions = Questions(settings, model, tokenizer, image_processor)
    tokens = model.get_vision_tower().num_patches
    trainee = build(settings, model.config.mm_hidden_size, model.config.hidden_size, tokens)
    run = Run(settings, trainee, questions, accelerator)
    with progress_bar(terminal(), accelerator.is_main_process) as progress:
        run.work(progress)
    accelerator.wait_for_everyone()
    if accelerator.is_main_process:
        trainee.anneal(1.0)
        about = {"plan": trainee.stage, "model": mllm.model_path, "steps": training.steps, "budgets": settings.budgets}
        save_trained(trainee.module, folder, trainee.arguments, **about)
        (folder / "settings.yaml").write_text(yaml.safe_dump(settings.model_dump(), sort_keys=False), encoding="utf-8")
        draw_loss(
            read_metrics(run.metrics), f"{settings.method_settings.merger_type} on {Path(mllm.model_path).name}"
        ).savefig(folder / "loss.png")
        logger.info("wrote %s; a plan names it: %s", folder, trained_plan(folder, settings.budgets[0]))
    return folder


def _draw(settings: Settings) -> None:
    """Draw the embedded world's conversations where they are asked for and not there."""
    file = Path(settings.data_settings.data_path)
    if file.name == DRAWN and not file.exists():
        export("llava", file.parent, settings.data_settings.images, progress=True)


def _deciding(settings: Settings) -> dict[str, Any]:
    """Every setting that decides the result, by its whole name."""
    found = {}
    for group, values in settings.model_dump().items():
        values = values.get("mllm_settings", values)
        found.update({f"{group}.{name}": value for name, value in values.items()})
    return {name: value for name, value in found.items() if not name.endswith((".output", ".save_every", ".cache"))}


def parser() -> argparse.ArgumentParser:
    """The configuration, and changes to it."""
    flags = argparse.ArgumentParser(
        prog="python -m llava.train.train_merger", description="Train a merger of visual tokens."
    )
    flags.add_argument("--config", type=Path, required=True, help="YAML, such as configs/vision_token_pruning.yaml")
    flags.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", help="change a key of it; repeatable")
    return flags


def main(arguments: Sequence[str] | None = None) -> int:
    """The command line; returns 0, 2 for bad input or a loss that is no number, 130 when stopped by Ctrl-C."""
    given = parser().parse_args(arguments)
    stopped = "stopped; the same command goes on from the last checkpoint"
    bad = (ValueError, OSError, FloatingPointError)
    return exit_code(lambda: train(read_settings(given.config, given.set)), bad, stopped)


if __name__ == "__main__":
    sys.exit(main())
