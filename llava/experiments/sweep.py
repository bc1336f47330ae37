"""An experiment: curves of plans over layers with their controls, run into folders that a stopped one goes on from."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import torch

from llava.cli.flags import model_spec
from llava.cli.settings import EvalSettings
from llava.eval.ask.controls import SEEDS, SPATIAL_CONTROLS, random_control, spatial_controls
from llava.eval.ask.measure import measure
from llava.eval.ask.opening import open_evaluation
from llava.eval.ask.pricing import Pricing
from llava.eval.ask.subject import Subject
from llava.eval.report.command import collect, show
from llava.eval.results.folder import check_writable, summarise_cost
from llava.eval.tasks.base import Line
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
        opened = open_evaluation(eval_settings(task, given))
        self.task, self.model = opened.task, opened.model
        self.config, self.layers = self.model.config, self.model.layers
        self._check_prompt(budget)
        which = f"{self.model.spec.name}-{len(self.task.examples)}"
        results = given.results or Path("playground/results/experiments") / name / which
        if given.num_chunks > 1:
            results /= f"share-{given.chunk_idx}-of-{given.num_chunks}"
        self.evaluation = replace(opened, settings=replace(opened.settings, results=results))

    @property
    def about(self) -> str:
        """Model and number of questions, for a title."""
        return self.evaluation.about

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
        return self.model.subject(device)

    def _measure(self, plans: dict[str, list[Stage]]) -> dict[str, Outcome]:
        """The outcome of each plan by name; what a stopped experiment has answered is not asked again."""
        given = self.given
        for file in (given.output_file, getattr(given, "output_plot", given.output_file)):
            check_writable(file.parent)
        for plan in plans.values():
            check_plan(plan, self.layers)
        measured = measure(self.evaluation, list(plans.values()), self.subject)
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
        return self.model.span(self.task.prompt(self.task.examples[0]))

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


def eval_settings(task: str, given: argparse.Namespace) -> EvalSettings:
    """The evaluation that the flags of ``add_question_flags`` ask for."""
    for flag, least in (("batch_size", 1), ("num_chunks", 1), ("chunk_idx", 0)):
        if getattr(given, flag) < least:
            raise ValueError(f"{spelled(flag)} {getattr(given, flag)} must be at least {least}")
    if given.num_samples < 1 and given.num_samples != -1:
        raise ValueError(f"--num-samples {given.num_samples} must be at least 1, or -1 for all")
    if not given.question_file.exists():
        raise FileNotFoundError(
            f"--question-file {given.question_file} is not there; give the questions, or their folder"
        )
    if given.chunk_idx >= given.num_chunks:
        raise ValueError(f"--chunk-idx {given.chunk_idx} of --num-chunks {given.num_chunks} has no question")
    return EvalSettings(
        model=model_spec(given, usual_conv_mode="vicuna_v1"),
        task=task,
        data=given.question_file,
        images=given.image_folder,
        truth=given.base_dir,
        limit=None if given.num_samples == -1 else given.num_samples,
        share=(given.chunk_idx, given.num_chunks),
        instructed=given.single_pred_prompt,
        batch_size=given.batch_size,
        retry_failed=vars(given).get("retry_failed", False),
    )


def control(plan: list[Stage], layers: int, seed: int = SEEDS[0]) -> list[Stage]:
    """The random control of a plan; the plan itself where it chooses nothing."""
    return random_control(plan, layers, seed) or plan


def cut(plan: list[Stage], layer: int, layers: int) -> list[Stage]:
    """A plan without any visual token from ``layer`` on; at the model's depth there is nothing left to cut."""
    if layer >= layers:
        return plan
    return [*(stage for stage in plan if stage.layer is None or stage.layer < layer), make_stage("blind", layer=layer)]
