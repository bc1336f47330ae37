"""An experiment: curves of plans over layers with their controls, run into folders that a stopped one goes on from."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import torch

from llava.cli.console import terminal
from llava.cli.flags import load_from_flags
from llava.constants import IMAGE_TOKEN_INDEX
from llava.conversation import get_conversation
from llava.eval.ask.controls import SEEDS, SPATIAL_CONTROLS, Pricing, spatial_controls, tokens_of_picture
from llava.eval.ask.measure import measure
from llava.eval.ask.subject import LlavaSubject, Subject, prompt_ids
from llava.eval.report.command import collect, show
from llava.eval.results.folder import check_writable, summarise_cost
from llava.eval.tasks.base import Line, Task, get_task
from llava.mm_utils import get_model_name_from_path
from llava.model.builder import read_config
from llava.model.checkpoint import find_folder
from llava.model.language_model.himap_configuration_llama import REDUCTION_KNOBS
from llava.model.tokenizer import load_tokenizer
from llava.reduction import Stage, check_plan, make_stage, plan_name

from .command import DEPTH, spelled

Curve = Mapping[int, list[Stage]]  # layer to plan


@dataclass(frozen=True)
class Outcome:
    """What one plan came to: its name, metrics, mean cost, and answers in the benchmark's order."""

    plan: str
    metrics: dict
    cost: dict
    lines: list[Line]

    @property
    def correct(self) -> int:
        """How many answers are right."""
        return sum(line["correct"] for line in self.lines)


@dataclass(frozen=True)
class Sweep:
    """What an experiment came to: the outcome of every curve at each layer, and that of ``full`` and, as a control, ``blind``.

    Unless controls were switched off ``curves`` ends with ``random``, and with the other controls where all are asked for. ``layers`` is the model's depth.
    """

    layers: int
    curves: dict[str, dict[int, Outcome]]
    references: dict[str, Outcome]


class Experiment:
    """The questions and the model of a command line, checked before anything is computed.

    ``name`` is the experiment's folder of results, ``task`` the benchmark, ``budget`` the flag that says how many tokens are
    kept. Raises ValueError and OSError that name the flag.
    """

    def __init__(self, name: str, task: str, given: argparse.Namespace, budget: str | None = None):
        self.given = given
        if budget and getattr(given, budget) < 1:
            raise ValueError(f"{spelled(budget)} {getattr(given, budget)} must be at least 1")
        get_conversation(given.conv_mode)
        self.task = open_task(task, given)
        self.folder = find_folder(given.model_path, "model")
        self.config = read_config(self.folder)
        self.layers = self.config.num_hidden_layers
        self._check_prompt(budget)
        which = f"{get_model_name_from_path(given.model_path)}-{len(self.task.examples)}"
        self.results = given.results or Path("playground/results/experiments") / name / which
        if given.num_chunks > 1:
            self.results /= f"share-{given.chunk_idx}-of-{given.num_chunks}"

    @property
    def about(self) -> str:
        """Model and number of questions, for a title."""
        return f"{get_model_name_from_path(self.given.model_path)}, {len(self.task.examples)} questions"

    def scaled(self, layer: int) -> int:
        """A documented layer, of 32, in proportion to the model's depth; at least 1."""
        return max(1, round(layer * self.layers / DEPTH))

    def layer_range(self) -> range:
        """The layers of a sweep, both ends included; the documented ones in proportion to the model's depth."""
        ends = [getattr(self.given, name) for name in ("start_layer", "end_layer")]
        first, last = (
            self.scaled(documented) if end is None else end for end, documented in zip(ends, self.given.layer_ends)
        )
        if not 1 <= first <= last <= self.layers:
            start, end = map(spelled, self.given.layer_names)
            raise ValueError(
                f"{start} {first} and {end} {last} must be 1 <= start <= end <= {self.layers}, the layers of "
                f"{self.given.model_path}"
            )
        return range(first, last + 1)

    def over_layers(self, plan: Callable[[int], list[Stage]]) -> Curve:
        """A plan for each layer of the sweep; after the last layer there is nothing left to reduce, so that is the full model."""
        return {layer: plan(layer) if layer < self.layers else [] for layer in self.layer_range()}

    def sweep(self, curves: Mapping[str, Curve]) -> Sweep:
        """Ask the questions under every plan, and under the controls; every picture is encoded once for all of them."""
        grid, references = dict(curves), {"full": []}
        if not self.given.no_controls:
            first = next(iter(curves.values()))
            chance = {layer: control(plan, self.layers) for layer, plan in first.items()}
            if chance != dict(first):
                grid["random"] = chance
                if self.given.all_controls:
                    grid |= self._more_controls(first)
            references["blind"] = [make_stage("blind")]
        plans = [*(plan for curve in grid.values() for plan in curve.values()), *references.values()]
        found = self._measure({plan_name(plan): plan for plan in plans})
        return Sweep(
            self.layers,
            {label: {at: found[plan_name(plan)] for at, plan in curve.items()} for label, curve in grid.items()},
            {label: found[plan_name(plan)] for label, plan in references.items()},
        )

    def _more_controls(self, curve: Curve) -> dict[str, Curve]:
        """The other seeds of the random control, and what acts before the language model at the same mean cost."""
        found = {
            f"random, seed {seed}": {layer: control(plan, self.layers, seed) for layer, plan in curve.items()}
            for seed in SEEDS[1:]
        }
        tokens = self.span()[1]
        if tokens is not None:
            pricing = Pricing(self.config, tokens)
            spatial = {layer: spatial_controls(plan, pricing) if plan else {} for layer, plan in curve.items()}
            for name in SPATIAL_CONTROLS:
                found[name] = {layer: plans.get(name, []) for layer, plans in spatial.items()}
        return found

    def subject(self, device: torch.device | None = None) -> Subject:
        """What is asked: the model of the command line, loaded, on ``device`` where it names none.

        An experiment of its own kind may return another.
        """
        flags = {name: value for name, value in vars(self.given).items() if name not in REDUCTION_KNOBS}
        flags["device"] = self.given.device or device
        tokenizer, model, image_processor, _ = load_from_flags(argparse.Namespace(**flags))
        return LlavaSubject(tokenizer, model, image_processor, self.given.conv_mode)

    def _measure(self, plans: dict[str, list[Stage]]) -> dict[str, Outcome]:
        """The outcome of each plan by name; what a stopped experiment has answered is not asked again."""
        given = self.given
        for file in (given.output_file, getattr(given, "output_plot", given.output_file)):
            check_writable(file.parent)
        for plan in plans.values():
            check_plan(plan, self.layers)
        measured = measure(
            given,
            self.task,
            list(plans.values()),
            self.results,
            self.folder,
            self.subject,
            terminal(),
            more={"single_pred_prompt": given.single_pred_prompt},
        )
        if not measured:
            raise SystemExit(0)  # a further process of accelerate launch: the first has its answers and goes on
        rows, _ = collect([run.folder for run, _ in measured])
        show(rows)
        failed = [line["error"] for line in measured[0][0].lines if "error" in line]
        if len(failed) == len(self.task.examples):
            raise ValueError(f"not one picture could be read, so there is nothing to compare: {failed[0]}")
        return {
            name: Outcome(name, figures, summarise_cost(run.lines), run.lines)
            for name, (run, figures) in zip(plans, measured, strict=True)
        }

    def span(self) -> tuple[int, int | None]:
        """Where the picture lies in the prompt and how many tokens it is; None where that differs between pictures."""
        text = self.task.prompt(self.task.examples[0])
        ids = prompt_ids(load_tokenizer(self.folder), self.config, self.given.conv_mode, text)
        return ids.index(IMAGE_TOKEN_INDEX), tokens_of_picture(self.folder, self.config)

    def _check_prompt(self, budget: str | None) -> None:
        """Hold what was typed about the picture's place, its length and the budget against the model's own prompt."""
        span = self.span()
        for names in self.given.lengths:
            for name, actual in zip(names, span, strict=True):
                typed = getattr(self.given, name)
                if typed is not None and typed != actual:
                    says = "that it differs from picture to picture" if actual is None else actual
                    raise ValueError(
                        f"{spelled(name)} {typed} but the prompt says {says}; leave it out to read it there"
                    )
        if budget and span[1] is not None and getattr(self.given, budget) > span[1]:
            raise ValueError(
                f"{spelled(budget)} {getattr(self.given, budget)} exceeds the {span[1]} tokens of a picture"
            )


def open_task(name: str, given: argparse.Namespace) -> Task:
    """The benchmark of a command line: all of its questions, so many, or one share of them by whole pictures."""
    for flag, least in (("batch_size", 1), ("num_chunks", 1), ("chunk_idx", 0)):
        if getattr(given, flag) < least:
            raise ValueError(f"{spelled(flag)} {getattr(given, flag)} must be at least {least}")
    if given.num_samples < 1 and given.num_samples != -1:
        raise ValueError(f"--num-samples {given.num_samples} must be at least 1, or -1 for all")
    if not given.question_file.exists():
        raise FileNotFoundError(
            f"--question-file {given.question_file} is not there; give the questions, or their folder"
        )
    # under the names that ``run.configuration`` puts into every run's config
    given.data, given.limit = given.question_file, None if given.num_samples == -1 else given.num_samples
    task = get_task(name)(given.data, given.limit, given.image_folder, given.base_dir)
    pictures = list(dict.fromkeys(example.picture for example in task.examples))
    size = -(-len(pictures) // given.num_chunks)
    share = set(pictures[given.chunk_idx * size : (given.chunk_idx + 1) * size])
    if not share:
        raise ValueError(
            f"--chunk-idx {given.chunk_idx} of --num-chunks {given.num_chunks} has no question: there are "
            f"{len(pictures)} pictures, {size} a share"
        )
    task.examples = [example for example in task.examples if example.picture in share]
    if not given.single_pred_prompt:
        asked = task.prompt
        task.prompt = lambda example: _uninstructed(task, asked(example))
    return task


def _uninstructed(task: Task, prompt: str) -> str:
    """A prompt without what the benchmark says about the form of the answer."""
    for words in task.instructions:
        prompt = prompt.replace(words, "")
    return prompt.strip()


def control(plan: list[Stage], layers: int, seed: int = SEEDS[0]) -> list[Stage]:
    """What a plan must beat: as many tokens at the same layers, placed alike, chosen at random from ``seed``.

    A plan that only takes the picture away, at layer K, is held against a random share K / ``layers`` of it from the
    beginning: as many visual tokens on the mean of the layers.
    """
    if [stage.name for stage in plan] == ["blind"]:
        return [make_stage("random", keep=plan[0].layer / layers, seed=seed)]
    return [
        make_stage("random", stage.site, stage.layer, stage.keep, stage.place, stage.positions, seed=seed)
        if stage.reducer.wants_keep and stage.site != "pixels"
        else stage
        for stage in plan
    ]


def cut(plan: list[Stage], layer: int, layers: int) -> list[Stage]:
    """A plan without any visual token from ``layer`` on; at the model's depth there is nothing left to cut."""
    if layer >= layers:
        return plan
    return [*(stage for stage in plan if stage.layer is None or stage.layer < layer), make_stage("blind", layer=layer)]
