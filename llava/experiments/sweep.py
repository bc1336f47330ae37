"""An experiment: curves of plans over layers with their controls, run into folders from which a stopped one resumes."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import torch

from llava.cli.questions import spelled
from llava.eval.ask.controls import SEEDS, SPATIAL_CONTROLS, random_control, spatial_controls
from llava.eval.ask.measure import measure
from llava.eval.ask.opening import open_evaluation
from llava.eval.ask.pricing import Pricing
from llava.eval.ask.subject import Subject
from llava.eval.report.command import collect, show
from llava.eval.results.folder import check_writable, summarise_cost
from llava.eval.tasks.base import Line
from llava.reduction import Stage, check_plan, make_stage, plan_name, spelled_out

from .command import DEPTH
from .settings import Budget, ExperimentSettings, LayerEnds

logger = logging.getLogger(__name__)

Curve = Mapping[int, list[Stage]]  # layer to plan


@dataclass(frozen=True)
class Outcome:
    """The outcome of one plan: its name, metrics, mean cost, and answers in the benchmark's order."""

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
    """An experiment's result: the outcome of every curve at each layer, of ``full`` and, as a control, of ``blind``.

    Unless controls were switched off ``curves`` ends with ``random``, and with the other controls where all are asked for. ``layers`` is the model's depth.
    """

    layers: int
    curves: dict[str, dict[int, Outcome]]
    references: dict[str, Outcome]


class Experiment:
    """The questions and the model of an experiment, checked before anything is computed.

    ``name`` is the experiment's folder of results, ``budget`` how many tokens are kept. Raises ValueError and OSError that
    name the flag.
    """

    def __init__(self, name: str, settings: ExperimentSettings, budget: Budget | None = None):
        self.settings = settings
        if budget and budget.tokens < 1:
            raise ValueError(f"{spelled(budget.name)} {budget.tokens} must be at least 1")
        opened = open_evaluation(settings.evaluation)
        self.task, self.model = opened.task, opened.model
        self.config, self.layers = self.model.config, self.model.layers
        self._check_prompt(budget)
        which = f"{self.model.spec.name}-{len(self.task.examples)}"
        results = Path(settings.evaluation.results or Path("playground/results/experiments") / name / which)
        index, count = settings.evaluation.share
        if count > 1:
            results /= f"share-{index}-of-{count}"
        self.evaluation = replace(opened, settings=replace(opened.settings, results=results))

    @property
    def about(self) -> str:
        """Model and number of questions, for a title."""
        return self.evaluation.about

    def scaled(self, layer: int) -> int:
        """A documented layer, of 32, in proportion to the model's depth; at least 1."""
        return max(1, round(layer * self.layers / DEPTH))

    def layer_range(self, ends: LayerEnds) -> range:
        """The layers of a sweep, both ends included; the documented ones in proportion to the model's depth."""
        first, last = (
            self.scaled(documented) if end is None else end
            for end, documented in zip((ends.first, ends.last), ends.documented, strict=True)
        )
        if not 1 <= first <= last <= self.layers:
            start, end = map(spelled, ends.names)
            raise ValueError(
                f"{start} {first} and {end} {last} must be 1 <= start <= end <= {self.layers}, the layers of "
                f"{self.model.spec.path}"
            )
        return range(first, last + 1)

    def over_layers(self, ends: LayerEnds, plan: Callable[[int], list[Stage]]) -> Curve:
        """A plan for each layer of the sweep; after the last layer there is nothing left to reduce, so that is the full model."""
        return {layer: plan(layer) if layer < self.layers else [] for layer in self.layer_range(ends)}

    def sweep(self, curves: Mapping[str, Curve]) -> Sweep:
        """Ask the questions under every plan, and under the controls; every picture is encoded once for all of them."""
        grid, references = dict(curves), {"full": []}
        if self.settings.controls != "none":
            first = next(iter(curves.values()))
            chance = {layer: control(plan, self.layers) for layer, plan in first.items()}
            if chance != dict(first):
                grid["random"] = chance
                if self.settings.controls == "all":
                    grid |= self._more_controls(first)
            references["blind"] = [make_stage("blind")]
        plans = [*(plan for curve in grid.values() for plan in curve.values()), *references.values()]
        outcomes = self._measure({plan_name(plan): plan for plan in plans})
        return Sweep(
            self.layers,
            {label: {at: outcomes[plan_name(plan)] for at, plan in curve.items()} for label, curve in grid.items()},
            {label: outcomes[plan_name(plan)] for label, plan in references.items()},
        )

    def _more_controls(self, curve: Curve) -> dict[str, Curve]:
        """The other seeds of the random control, and what acts before the language model at the same mean cost."""
        curves: dict[str, Curve] = {
            f"random, seed {seed}": {layer: control(plan, self.layers, seed) for layer, plan in curve.items()}
            for seed in SEEDS[1:]
        }
        tokens = self.span()[1]
        if tokens is not None:
            pricing = Pricing(self.config, tokens)
            spatial = {layer: spatial_controls(plan, pricing) if plan else {} for layer, plan in curve.items()}
            for name in SPATIAL_CONTROLS:
                curves[name] = {layer: plans.get(name, []) for layer, plans in spatial.items()}
        return curves

    def subject(self, device: torch.device | None = None) -> Subject:
        """What is asked: the model of the command line, loaded, on ``device`` where it names none.

        A subclass may return another.
        """
        return self.model.subject(device)

    def _measure(self, plans: dict[str, list[Stage]]) -> dict[str, Outcome]:
        """The outcome of each plan by name; what a stopped experiment has answered is not asked again."""
        for file in (self.settings.output_file, self.settings.output_plot):
            if file is not None:
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

    def _check_prompt(self, budget: Budget | None) -> None:
        """Compare what was typed about the picture's place, its length and the budget with the model's own prompt.

        The documents' places are those of their prompts: a different one is reported, and the prompt's own is used.
        """
        start, tokens = self.span()
        for name, typed in self.settings.typed_starts.items():
            if typed != start:
                logger.warning(
                    "%s %d is not this prompt's; the picture begins at %d, which is used", spelled(name), typed, start
                )
        for name, typed in self.settings.typed_lengths.items():
            if typed != tokens:
                says = "that it differs from picture to picture" if tokens is None else tokens
                raise ValueError(f"{spelled(name)} {typed} but the prompt says {says}; leave it out to read it there")
        if budget and tokens is not None and budget.tokens > tokens:
            raise ValueError(f"{spelled(budget.name)} {budget.tokens} exceeds the {tokens} tokens of a picture")


def control(plan: list[Stage], layers: int, seed: int = SEEDS[0]) -> list[Stage]:
    """The random control of a plan; the plan itself where it chooses nothing."""
    return random_control(plan, layers, seed) or plan


def cut(plan: list[Stage], layer: int, layers: int) -> list[Stage]:
    """A plan without any visual token from ``layer`` on; at the model's depth there is nothing left to cut."""
    if layer >= layers:
        return plan
    stages = spelled_out(plan, layers)
    return [
        *(stage for stage in stages if stage.layer is None or stage.layer < layer),
        make_stage("blind", layer=layer),
    ]
