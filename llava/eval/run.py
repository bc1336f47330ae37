"""Evaluation: models x plans x a task, into folders that a report can be made of.

    python -m llava.eval.run --model-path playground/checkpoints/llava-shapes-v1 --task mme \
        --data playground/data/eval/MME-shapes --reduction full --reduction fastv@2:64 --reduction blind

Every picture goes through the vision tower once, for all its questions and all plans; every plan answers a batch before the
next batch begins, so that a slow moment of the machine falls on all of them. A run that was stopped goes on where it was.
"""

from __future__ import annotations

import argparse
import logging
import re
import sys
import time
from collections import OrderedDict
from collections.abc import Iterable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import torch
from PIL import Image
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from torch import Tensor

from llava.constants import DEFAULT_IM_END_TOKEN, DEFAULT_IM_START_TOKEN, DEFAULT_IMAGE_TOKEN
from llava.conversation import conversation_mode, get_conversation
from llava.mm_utils import get_model_name_from_path, load_image, process_images, tokenizer_image_token
from llava.model.builder import read_config
from llava.model.checkpoint import find_folder
from llava.model.language_model.himap_configuration_llama import METHOD_FLAGS, LlamaConfig
from llava.model.language_model.knobs import plan_from_config
from llava.reduction import Cost, Stage, check_plan, plan_from, plan_name, reduced
from llava.utils import exit_code

from .flags import add_model_flags, add_reduction_flags, load_from_flags, reduction_kwargs
from .report import collect, show, terminal, write
from .results import Run, model_fingerprint, summarise_cost
from .task import Example, Task, get_task, list_tasks

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Reply:
    """One answer: the model's words, its visual tokens layer by layer, and what the prompt cost (plain numbers)."""

    text: str
    kept: list[int]
    cost: dict[str, float]


class Subject(Protocol):
    """What is evaluated: anything that turns pictures into features and questions about them into replies."""

    def encode(self, images: Sequence[Image.Image]) -> list[Any]:
        """Features of each picture, whatever ``answer`` can use; no plan enters here."""

    def answer(
        self, texts: Sequence[str], features: Sequence[Any], plan: list[Stage], max_new_tokens: int
    ) -> list[Reply]:
        """A reply to each text about its picture's features (None: no picture) under a plan, greedily."""


def evaluate(
    subject: Subject,
    task: Task,
    runs: Sequence[tuple[list[Stage], Run]],
    batch_size: int = 8,
    progress: Progress | None = None,
) -> list[dict]:
    """Answer what the runs still lack, line by line, and return each run's metrics, in order.

    ``runs`` pairs a plan with its open folder. A picture that cannot be read fails its questions, with the reason in their
    lines, and nothing else. Of pictures, only those in flight are held. Raises what the model raises; the answers until
    then are kept.
    """
    progress = progress or Progress(disable=True)
    features = Features(subject, capacity=2 * batch_size)
    total = len(task.examples) * len(runs)
    bar = progress.add_task(task.name, total=total, completed=sum(len(run.lines) for _, run in runs))
    for batch in _batches(task.examples, batch_size):
        missing = [(plan, run, [example for example in batch if example.key not in run.done]) for plan, run in runs]
        features.load({example.image for *_, examples in missing for example in examples})
        for plan, run, examples in missing:
            progress.update(bar, description=f"{task.name}  {run.folder.name}")
            for line in _answers(subject, task, plan, features, examples):
                run.append(line)
            progress.advance(bar, len(examples))
    metrics = []
    for plan, run in runs:
        figures = {"plan": run.folder.name, "method": method_label(plan), **task.metrics(run.lines)}
        run.finish(figures, summarise_cost(run.lines))
        metrics.append(figures)
    return metrics


class Features:
    """The pictures in flight, encoded once each; the oldest go when more than ``capacity`` are held."""

    def __init__(self, subject: Subject, capacity: int):
        self.subject, self.capacity = subject, capacity
        self.held: OrderedDict[Path, tuple[Any, float, str | None]] = OrderedDict()

    def load(self, files: Iterable[Path | None]) -> None:
        """Encode the pictures that are not held yet, together where they can be read."""
        images, wanted = {}, [file for file in files if file is not None]
        for file in sorted(wanted):
            if file in self.held:
                self.held.move_to_end(file)
                continue
            try:
                images[file] = load_image(file)
            except (OSError, ValueError, Image.DecompressionBombError) as error:
                self.held[file] = (None, 0.0, str(error))
        if images:
            start = time.perf_counter()
            encoded = self.subject.encode(list(images.values()))
            seconds = (time.perf_counter() - start) / len(images)
            for file, feature in zip(images, encoded):
                self.held[file] = (feature, seconds, None)
        while len(self.held) > max(self.capacity, len(wanted)):
            self.held.popitem(last=False)

    def of(self, file: Path | None) -> tuple[Any, float, str | None]:
        """Features, seconds in the tower, and what is wrong with the picture, if anything."""
        return (None, 0.0, None) if file is None else self.held[file]


def _batches(examples: Sequence[Example], size: int) -> Iterator[list[Example]]:
    """The questions in batches, those of one picture next to each other."""
    groups: dict[str, list[Example]] = {}
    for example in examples:
        groups.setdefault(example.picture, []).append(example)
    ordered = [example for group in groups.values() for example in group]
    for start in range(0, len(ordered), size):
        yield ordered[start : start + size]


def _answers(
    subject: Subject, task: Task, plan: list[Stage], features: Features, examples: Sequence[Example]
) -> Iterator[dict]:
    """One line for every question of a batch."""
    found = [(example, *features.of(example.image)) for example in examples]
    readable = [(example, feature, tower) for example, feature, tower, error in found if error is None]
    replies: list[Reply] = []
    start = time.perf_counter()
    if readable:
        texts = [task.prompt(example) for example, *_ in readable]
        replies = subject.answer(texts, [feature for _, feature, _ in readable], plan, task.max_new_tokens)
    seconds = (time.perf_counter() - start) / max(1, len(readable))
    for (example, _, tower), reply in zip(readable, replies):
        yield {
            **_about(task, example),
            "text": reply.text,
            **task.score(example, reply.text),
            "kept": reply.kept,
            "cost": reply.cost,
            "seconds": round(seconds, 6),
            "tower_seconds": round(tower, 6),
        }
    for example, *_, error in found:
        if error is not None:
            yield {**_about(task, example), "text": "", **task.score(example, ""), "correct": False, "error": error}


def _about(task: Task, example: Example) -> dict:
    image = example.image
    if image is not None and image.is_relative_to(task.data):
        image = image.relative_to(task.data)
    return {
        "key": example.key,
        "question_id": example.question_id,
        "picture": example.picture,
        "image": None if image is None else str(image),
        "category": example.category,
        "prompt": task.prompt(example),
    }


def method_label(plan: list[Stage]) -> str:
    """A plan without its budgets, what one line of a figure stands for: ``fastv@2``, ``random@2,seed=1``, ``full``."""
    return (
        "+".join(re.sub(r":([^,=+]+(,|$))?", lambda found: "," if found[2] else "", str(stage)) for stage in plan)
        or "full"
    )


@dataclass(frozen=True)
class Picture:
    """One picture as ``LlavaSubject`` answers about it: raw features (N, V) or (crops, N, V), (width, height), seed."""

    features: Tensor
    size: tuple[int, int]
    seed: int


class LlavaSubject:
    """A loaded LLaVA with its tokenizer, picture processor and conversation template, as ``evaluate`` wants it."""

    def __init__(self, tokenizer, model, image_processor, conv_mode: str = "vicuna_v1"):
        self.tokenizer, self.model, self.image_processor = tokenizer, model, image_processor
        self.conv_mode = conv_mode

    @torch.inference_mode()
    def encode(self, images: Sequence[Image.Image]) -> list[Picture]:
        """The tower's features of each picture, before the projector, with its size and the seed of its pixels."""
        pixels = process_images(list(images), self.image_processor, self.model.config)
        found = zip(self.model.encode_raw(pixels), images, self.model.image_seeds(pixels), strict=True)
        return [Picture(raw, image.size, seed) for raw, image, seed in found]

    @torch.inference_mode()
    def answer(
        self, texts: Sequence[str], features: Sequence[Any], plan: list[Stage], max_new_tokens: int
    ) -> list[Reply]:
        """Greedy replies to a batch of questions, each about its own picture or none."""
        prompts = [self.prompt_ids(text, feature is not None) for text, feature in zip(texts, features)]
        width, fill = max(map(len, prompts)), self.tokenizer.pad_token_id or 0
        ids = torch.tensor([[fill] * (width - len(prompt)) + prompt for prompt in prompts], device=self.model.device)
        mask = torch.tensor(
            [[0] * (width - len(prompt)) + [1] * len(prompt) for prompt in prompts], device=self.model.device
        )
        seen = [feature for feature in features if feature is not None]
        pictures = {
            "raw_vision_features": [picture.features for picture in seen],
            "image_sizes": [picture.size for picture in seen],
            "image_seeds": [picture.seed for picture in seen],
        }
        with reduced(self.model, plan):
            new = self.model.generate(
                ids,
                attention_mask=mask,
                do_sample=False,
                temperature=None,
                top_p=None,
                max_new_tokens=max_new_tokens,
                pad_token_id=fill,
                use_cache=True,
                **(pictures if seen else {}),
            )
            costs = self.model.last_cost()
        words = self.tokenizer.batch_decode(new, skip_special_tokens=True)
        return [
            Reply(text.strip(), cost.visual_per_layer, plain_cost(cost))
            for text, cost in zip(words, costs, strict=True)
        ]

    def prompt_ids(self, text: str, has_picture: bool) -> list[int]:
        """The ids of a question in the conversation template, the picture's placeholder first."""
        talk = get_conversation(self.conv_mode)
        talk.append_message(talk.roles[0], f"{self._placeholder}\n{text}" if has_picture else text)
        talk.append_message(talk.roles[1], None)
        return tokenizer_image_token(talk.get_prompt(), self.tokenizer)

    @property
    def _placeholder(self) -> str:
        if getattr(self.model.config, "mm_use_im_start_end", False):
            return DEFAULT_IM_START_TOKEN + DEFAULT_IMAGE_TOKEN + DEFAULT_IM_END_TOKEN
        return DEFAULT_IMAGE_TOKEN


def plain_cost(cost: Cost) -> dict[str, float]:
    """A cost as the numbers of a line."""
    parts = ("tower_flops", "projector_flops", "selector_flops", "llm_flops")
    return {
        "visual_tokens": cost.visual_tokens,
        **{name: getattr(cost, name) for name in parts},
        "total_flops": cost.total_flops,
        "kv_bytes": cost.kv_bytes,
    }


def plans_from(arguments: argparse.Namespace, config: LlamaConfig) -> list[list[Stage]]:
    """The plans of a command line: every ``--reduction``, or the one that the documents' flags or the checkpoint spell.

    Raises ValueError for both spellings at once, for one plan twice, and for a plan that the model cannot run.
    """
    knobs = reduction_kwargs(arguments)
    specs = knobs.pop("reduction", [])
    flags = [flag for flag in METHOD_FLAGS if knobs.get(flag)]
    if specs and flags:
        raise ValueError(f"--reduction {specs[0]} and {flags[0]} are both given; use one of the two spellings")
    for name, value in knobs.items():
        setattr(config, name, value)
    plans = [plan_from(spec) for spec in specs] or [plan_from_config(config)]
    names = [plan_name(plan) for plan in plans]
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise ValueError(f"the plan {', '.join(twice)} is given twice; every plan needs a name of its own")
    for plan in plans:
        check_plan(plan, config.num_hidden_layers)
    return plans


def configuration(arguments: argparse.Namespace, task: Task, plan: list[Stage], folder: Path, conv_mode: str) -> dict:
    """Everything that decides the answers of a run, as plain values; ``folder`` is where the model lies."""
    device = arguments.device or ("cuda" if torch.cuda.is_available() else "cpu")
    return {
        "task": {
            "name": task.name,
            "data": str(arguments.data),
            "questions": len(task.examples),
            "limit": arguments.limit,
            "fingerprint": task.fingerprint(),
        },
        "model": {
            "name": get_model_name_from_path(arguments.model_path),
            "path": str(arguments.model_path),
            "base": arguments.model_base,
            "fingerprint": model_fingerprint(folder),
            "device": str(device),
            "dtype": arguments.dtype or ("float16" if str(device).startswith("cuda") else "float32"),
            "attn_implementation": arguments.attn_implementation,
            "bits": 8 if arguments.load_8bit else 4 if arguments.load_4bit else None,
        },
        "plan": {"name": plan_name(plan), "method": method_label(plan), "stages": [str(stage) for stage in plan]},
        "conv_mode": conv_mode,
        "max_new_tokens": task.max_new_tokens,
        "decoding": "greedy",
        "batch_size": arguments.batch_size,
    }


def parser() -> argparse.ArgumentParser:
    """Model, task, results, and every reduction flag; ``--reduction`` may be given many times."""
    flags = argparse.ArgumentParser(
        prog="python -m llava.eval.run",
        description="Evaluate a model on a task under one or several reduction plans.",
        conflict_handler="resolve",
    )
    add_model_flags(flags)
    group = flags.add_argument_group("evaluation")
    group.add_argument("--task", default="mme", help=f"one of {', '.join(list_tasks())} (default: mme)")
    group.add_argument("--data", type=Path, required=True, help="folder of the benchmark")
    group.add_argument("--results", type=Path, help="where a folder a plan is made (default: playground/results/TASK)")
    group.add_argument("--batch-size", "--batch_size", type=int, default=8, help="questions at once (default: 8)")
    group.add_argument("--limit", type=int, help="at most so many questions, whole pictures spread over the benchmark")
    group.add_argument(
        "--retry-failed", action="store_true", help="ask the questions again whose picture was unreadable"
    )
    add_reduction_flags(flags)
    flags.add_argument(
        "--reduction",
        action="append",
        metavar="PLAN",
        help="a plan such as fastv@2:64, full, or a YAML file; repeatable",
    )
    return flags


def run(arguments: argparse.Namespace, console: Console) -> None:
    """Evaluate what a command line asks for, show the table of these plans and write the report of the whole folder."""
    if arguments.batch_size < 1:
        raise ValueError(f"batch_size={arguments.batch_size} must be at least 1")
    conv_mode = arguments.conv_mode or conversation_mode(get_model_name_from_path(arguments.model_path))
    get_conversation(conv_mode)
    task = get_task(arguments.task)(arguments.data, arguments.limit)
    folder = find_folder(arguments.model_path, "model")
    plans = plans_from(arguments, read_config(folder))
    results = arguments.results or Path("playground/results") / task.name
    with ExitStack() as stack:
        runs = []
        for plan in plans:
            settings = configuration(arguments, task, plan, folder, conv_mode)
            runs.append(stack.enter_context(Run(results / plan_name(plan), settings)))
        if arguments.retry_failed:
            logger.info("%d failed questions are asked again", sum(one.retry_failed() for one in runs))
        done = sum(len(one.lines) for one in runs)
        if done:
            logger.info("%d of %d answers are there already", done, len(runs) * len(task.examples))
        subject = None
        if done < len(runs) * len(task.examples):
            tokenizer, model, image_processor, _ = load_from_flags(
                argparse.Namespace(**{**vars(arguments), "reduction": None})
            )
            subject = LlavaSubject(tokenizer, model, image_processor, conv_mode)
        with _progress(console) as progress:
            metrics = evaluate(subject, task, list(zip(plans, runs)), arguments.batch_size, progress)
        failed = sum(figures["failed"] for figures in metrics)
    if failed:
        logger.warning(
            "%d questions failed; their lines in predictions.jsonl say why, --retry-failed asks them again", failed
        )
    rows, _ = collect([one.folder for one in runs])
    show(rows, console=console)
    rows, unfinished = collect([results])
    write(rows, results, unfinished)


def _progress(console: Console) -> Progress:
    """A bar with how many, how long and how long yet."""
    return Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TextColumn("left"),
        TimeRemainingColumn(),
        console=console,
    )


def main(arguments: Sequence[str] | None = None) -> int:
    """The command line; returns 0, 2 for bad input, 130 when stopped by Ctrl-C."""
    given = parser().parse_args(arguments)
    stopped = "stopped; every answer given so far is kept, the same command goes on from there"
    return exit_code(lambda: run(given, terminal()), stopped=stopped)


if __name__ == "__main__":
    sys.exit(main())
