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
from torch.nn import functional as F

from llava.constants import IGNORE_INDEX, IMAGE_TOKEN_INDEX
from llava.eval.measure import progress_bar
from llava.eval.report import terminal
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
        "fixed_pooling": {**inside, **common, "use_question": method.use_question, "num_tokens": tokens},
    }[method.merger_type]
    return Trainee(make_merger(method.merger_type, **arguments), arguments, settings)


class Questions:
    """What a merger is trained on: prompts with answers, features of their pictures, and what the full model says.

    With ``cache`` features and answers are computed once and kept in memory (for 576 tokens of 1024 in half precision 1.2 MB a picture).
    """

    def __init__(self, settings: Settings, model: nn.Module, tokenizer: Any, image_processor: Any):
        data = settings.data_settings
        self.model, self.settings = model, settings
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
        self.answers: dict[int, tuple[Tensor, Tensor]] = {}
        self.records: dict[tuple[str, ...], list[int]] = {}
        for index in range(len(self.dataset)):
            self.records.setdefault(self.dataset.pictures(index), []).append(index)

    def __len__(self) -> int:
        return len(self.dataset)

    def batch(self, indices: Sequence[int]) -> dict[str, Any]:
        """Spliced lazily: ids, labels, mask and the pictures' raw features."""
        items = [self._item(index) for index in indices]
        raw = [feature for item in items for feature in item.pop("raw")]
        return {**self.collate(items), "raw_vision_features": raw}

    def _item(self, index: int) -> dict[str, Any]:
        key = self.dataset.pictures(index)
        if key not in self.features:
            item = self.dataset[index]
            with torch.no_grad():
                found = self.model.encode_raw(item["images"])
            if not self.settings.data_settings.cache:
                return {"input_ids": item["input_ids"], "labels": item["labels"], "images": [], "raw": found}
            self.features[key] = [feature.half() for feature in found]
        ids, labels = self.dataset.encoded(index)
        return {"input_ids": ids, "labels": labels, "images": [], "raw": self.features[key]}

    @torch.no_grad()
    def teacher(self, indices: Sequence[int], batch: dict[str, Any]) -> tuple[Tensor, Tensor]:
        """Logits and last hidden states of the full model at every answer token of a batch."""
        if not self.settings.data_settings.cache:
            with reduced(self.model, ""):
                hidden, logits, *_ = answer_states(self.model, batch)
            return logits.float(), hidden.float()
        for index in indices:
            if index not in self.answers:
                self._answer(self.records[self.dataset.pictures(index)])
        found = zip(*(self.answers[index] for index in indices))
        return tuple(torch.cat([part.to(self.model.device, torch.float32) for part in parts]) for parts in found)

    def _answer(self, indices: Sequence[int]) -> None:
        """Keep what the full model says to all questions about a picture, which it reads once for a batch of them."""
        size = self.settings.training_settings.batch_size
        for start in range(0, len(indices), size):
            part = indices[start : start + size]
            batch = self.batch(part)
            with reduced(self.model, ""):
                hidden, logits, _, counts = shared_states(self.model, batch)
            for index, own_logits, own_hidden in zip(part, logits.split(counts), hidden.split(counts)):
                self.answers[index] = own_logits.half().cpu(), own_hidden.half().cpu()


def shared_states(model: nn.Module, batch: dict[str, Any]) -> tuple[Tensor, Tensor, Tensor, list[int]]:
    """``answer_states`` of the full model for questions about the same pictures.

    What all have in common is run once and its keys and values are shared: R rows of P common and Q own positions cost P + R Q
    instead of R (P + Q). Where a picture is not in the common part every row is run by itself.
    """
    ids, labels = batch["input_ids"], batch["labels"]
    follows = F.pad(labels[:, 1:], (0, 1), value=IGNORE_INDEX)  # a position that says an answer is a row's own
    common = int(((ids == ids[:1]) & (follows == IGNORE_INDEX)).all(0).cumprod(0).sum())
    if (ids[:, common:] == IMAGE_TOKEN_INDEX).any():
        return answer_states(model, batch)
    pictures = int((ids[0] == IMAGE_TOKEN_INDEX).sum())
    start = model.splice(ids[:1, :common], raw_vision_features=batch["raw_vision_features"][:pictures])
    decoder = model.get_model()
    cache = decoder(inputs_embeds=start.inputs_embeds, use_cache=True).past_key_values
    cache.batch_repeat_interleave(len(ids))
    mask = batch["attention_mask"][:, common:]
    seen = mask.new_ones(len(ids), start.inputs_embeds.shape[1])
    rest = decoder(
        inputs_embeds=decoder.embed_tokens(ids[:, common:]),
        attention_mask=torch.cat([seen, mask], dim=1),
        past_key_values=cache,
        use_cache=True,
    )
    return at_answers(model, rest.last_hidden_state, follows[:, common:])


def answer_states(model: nn.Module, batch: dict[str, Any]) -> tuple[Tensor, Tensor, Tensor, list[int]]:
    """What a model makes of every answer token under the plan in force, rows one after another.

    Returns hidden states (A, D) and logits (A, V) that predict it, the tokens (A,), and how many each row has. Answers are
    never reduced, so A and the order are the same under every plan.
    """
    spliced = model.splice(
        batch["input_ids"], batch["attention_mask"], batch["labels"], raw_vision_features=batch["raw_vision_features"]
    )
    found = model.get_model()(
        inputs_embeds=spliced.inputs_embeds,
        attention_mask=spliced.attention_mask,
        position_ids=spliced.position_ids,
        visual=spliced.visual,
        sample_seed=spliced.sample_seed,
        use_cache=False,
    )
    targets = F.pad(spliced.labels[:, 1:], (0, 1), value=IGNORE_INDEX)
    if found.trace:
        targets = found.ledger.labels(targets)
    return at_answers(model, found.last_hidden_state, targets)


def at_answers(model: nn.Module, states: Tensor, targets: Tensor) -> tuple[Tensor, Tensor, Tensor, list[int]]:
    """What ``answer_states`` returns, from the states (B, S, D) of every position and what comes after each (B, S)."""
    learned = targets != IGNORE_INDEX
    hidden = states[learned]
    return hidden, model.lm_head(hidden), targets[learned], learned.sum(1).tolist()


def losses(
    settings: Settings, student: tuple[Tensor, Tensor, Tensor], teacher: tuple[Tensor, Tensor] | None
) -> dict[str, Tensor]:
    """The weighted loss and its parts, each a mean over the answers' tokens."""
    training = settings.training_settings
    hidden, logits, targets = student
    found = {"answer": F.cross_entropy(logits.float(), targets)}
    total = training.answer_weight * found["answer"]
    if teacher is not None:
        warmth = training.distillation_temperature
        log_student, log_teacher = ((states.float() / warmth).log_softmax(-1) for states in (logits, teacher[0]))
        found["distillation"] = warmth**2 * F.kl_div(log_student, log_teacher, log_target=True, reduction="batchmean")
        found["feature"] = F.mse_loss(hidden.float(), teacher[1])
        total = (
            total + training.distillation_weight * found["distillation"] + training.feature_weight * found["feature"]
        )
    return {"loss": total, **found}


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
        indices = drawn(len(self.questions), training.batch_size, self.step, training.seed)
        torch.manual_seed(hash((training.seed, self.step, accelerator.process_index)) % 2**31)
        mine = indices[accelerator.process_index :: accelerator.num_processes]
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
                    hidden, logits, targets, _ = answer_states(self.questions.model, batch)
            found = losses(self.settings, (hidden, logits, targets), teacher)
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


def drawn(count: int, size: int, step: int, seed: int) -> list[int]:
    """Which of ``count`` examples a step learns from: every pass goes over all of them in an order of its own."""
    wanted = range(step * size, (step + 1) * size)
    orders: dict[int, list[int]] = {}
    for place in wanted:
        if place // count not in orders:
            order = list(range(count))
            random.Random(f"{seed} pass {place // count}").shuffle(order)
            orders[place // count] = order
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
