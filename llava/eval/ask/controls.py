"""Which plans a table compares: those asked for, at budgets that cost the same if wanted, and the controls they must beat."""

from __future__ import annotations

import copy
import logging
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from statistics import median
from typing import Any

from llava.cli.settings import PlanSpec
from llava.model.language_model.himap_configuration_llama import METHOD_FLAGS, LlamaConfig
from llava.model.language_model.knobs import plan_from_config
from llava.reduction import Stage, check_plan, get_method, make_stage, plan_from, plan_name
from llava.reduction.cost import decoder_flops
from llava.reduction.plan import tokens_left

from .opening import Evaluation

logger = logging.getLogger(__name__)

Plan = list[Stage]
SEEDS = (0, 1, 2)  # of the random control
SPATIAL_CONTROLS = ("grid", "pool", "downsample")
UNCHOOSING = ("full", "blind")  # methods that keep everything or nothing


def method_label(plan: Plan) -> str:
    """A plan without its budgets, what one line of a figure stands for: ``fastv@2``, ``random@2,seed=1``, ``full``."""
    return (
        "+".join(re.sub(r":([^,=+]+(,|$))?", lambda found: "," if found[2] else "", str(stage)) for stage in plan)
        or "full"
    )


@dataclass(frozen=True)
class Pricing:
    """What a plan will cost a model, before anything runs: a picture of ``tokens`` with ``text`` other positions."""

    config: LlamaConfig
    tokens: int
    text: int = 60

    def visual(self, plan: Plan) -> float:
        """Mean visual tokens over the decoder layers."""
        left = tokens_left(plan, self.tokens, self.config.num_hidden_layers)
        return sum(left) / len(left)

    def flops(self, plan: Plan) -> float:
        """The language model's prefill with the selections, as a share of the dense one."""
        layers, width = self.config.num_hidden_layers, self.config.hidden_size
        entering = tokens_left(plan, self.tokens, layers)
        spent = decoder_flops(self.config, [self.text + count for count in entering])
        for number, stage in enumerate(plan):
            if stage.site == "layer":
                before = tokens_left(plan[:number], self.tokens, layers)[stage.layer]
                spent += stage.reducer.flops(self.text + before, before, stage.budget(before) or before, width)
        return spent / decoder_flops(self.config, [self.text + self.tokens] * layers)


def plans_from(spec: PlanSpec, config: LlamaConfig, keep: float | None = None) -> list[Plan]:
    """The plans of a spec, under a config: its reductions, or the one that its knobs or the checkpoint spell.

    keep: the budget of stages that name none. Raises ValueError for both spellings at once, for one plan twice, and for a
    plan that the model cannot run.
    """
    flags = [flag for flag in METHOD_FLAGS if spec.knobs.get(flag)]
    if spec.reductions and flags:
        raise ValueError(
            f"--reduction {spec.reductions[0]} and {flags[0]} are both given; use one of the two spellings"
        )
    plans = [plan_from(text, keep) for text in spec.reductions] or [plan_from_config(with_knobs(config, spec.knobs))]
    names = [plan_name(plan) for plan in plans]
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise ValueError(f"the plan {', '.join(twice)} is given twice; every plan needs a name of its own")
    for plan in plans:
        check_plan(plan, config.num_hidden_layers)
    return plans


def with_knobs(config: LlamaConfig, knobs: Mapping[str, Any]) -> LlamaConfig:
    """A copy of a config with reduction knobs set."""
    changed = copy.copy(config)
    for name, value in knobs.items():
        setattr(changed, name, value)
    return changed


def requested_plans(evaluation: Evaluation, spec: PlanSpec) -> list[Plan]:
    """The plans of a spec under an evaluation's model, matched in cost where the spec says so.

    Raises ValueError as ``plans_from`` and ``matched`` do, and for a match where pictures have no one number of tokens.
    """
    model = evaluation.model
    if spec.match is None:
        return plans_from(spec, model.config)
    match, pricing = parse_match(spec.match), pricing_of(evaluation)
    plans = plans_from(spec, model.config, keep=1.0)
    if pricing is None:
        raise ValueError(
            f"--match {spec.match}: this model cuts pictures into crops, so that their tokens differ; "
            "give budgets as fractions instead"
        )
    prompts = [evaluation.task.prompt(example) for example in evaluation.task.examples]
    pricing = replace(pricing, text=round(median(len(model.prompt_ids(prompt)) - 1 for prompt in prompts)))
    return [matched(plan, pricing, *match) for plan in plans]


def pricing_of(evaluation: Evaluation) -> Pricing | None:
    """The prices of an evaluation's model; None where pictures have no one number of tokens."""
    model = evaluation.model
    return None if model.tokens is None else Pricing(model.config, model.tokens)


def with_controls(
    plans: Sequence[Plan], layers: int, pricing: Pricing | None, kept: Mapping[str, Sequence[float]] | None = None
) -> list[Plan]:
    """The plans, and what each must beat: full, blind, and at every cost random, grid, pool and a smaller picture.

    layers: the decoder's depth. pricing None (pictures of different numbers of tokens): full, blind and random alone. kept:
    by plan name the mean visual tokens of each layer, where the pictures decide how many are kept. Three seeds of random.
    """
    compared = {plan_name(plan): list(plan) for plan in plans}
    controls = [plan_from("full"), plan_from("blind")]
    for plan in plans:
        if is_control(plan):
            continue
        measured = (kept or {}).get(plan_name(plan))
        controls += filter(None, (random_control(plan, layers, seed, measured) for seed in SEEDS))
        if pricing is not None:
            controls += spatial_controls(plan, pricing, measured).values()
    for plan in controls:
        compared.setdefault(plan_name(plan), plan)
    return list(compared.values())


def random_control(plan: Plan, layers: int, seed: int = SEEDS[0], kept: Sequence[float] | None = None) -> Plan | None:
    """Random tokens in the place of those a plan chooses: as many, at the same stages, placed alike.

    Stages that choose nothing (a cut-off, a smaller picture) stay. A plan that only takes the picture away, at layer K of
    ``layers``, is held against a random share K / ``layers`` of it from the beginning, the same average number of tokens
    per layer. kept: mean visual tokens of each layer, as measured, for stages where the pictures decide. None where nothing
    is chosen, or where an adaptive plan was not measured.
    """
    if [stage.name for stage in plan] == ["blind"]:
        return [make_stage("random", keep=(plan[0].layer or 0) / layers, seed=seed)]
    control = []
    for stage in plan:
        if stage.site == "pixels" or stage.name in UNCHOOSING:
            control.append(stage)
            continue
        keep = stage.keep
        if is_adaptive(stage):
            if kept is None:
                return None
            keep = round(kept[min(stage.layer or 0, layers - 1)])
        control.append(replace(stage, reducer=get_method("random")(seed=seed), keep=keep))
    return None if control == list(plan) else control


def spatial_controls(plan: Plan, pricing: Pricing, kept: Sequence[float] | None = None) -> dict[str, Plan]:
    """Grid, pooling and a smaller picture, by name, with the same average number of tokens per layer as a plan.

    A smaller picture has the nearest square. None for a plan that leaves every token, and for an adaptive one that was not
    measured (``kept``, mean visual tokens of each layer).
    """
    if kept is None and any(map(is_adaptive, plan)):
        return {}
    count = max(1, round(pricing.visual(plan) if kept is None else sum(kept) / len(kept)))
    if count >= pricing.tokens:
        return {}
    square = max(1, round(math.sqrt(count))) ** 2
    return {name: [make_stage(name, keep=square if name == "downsample" else count)] for name in SPATIAL_CONTROLS}


def is_adaptive(stage: Stage) -> bool:
    """Whether the pictures decide how many tokens a stage keeps, so that its cost is known only when it ran."""
    return stage.name not in UNCHOOSING and (stage.keep is None or stage.reducer.adaptive)


def is_control(plan: Plan) -> bool:
    """Whether a plan is itself a control: the full model, no picture, or a choice that looks at nothing."""
    return all(
        stage.name in ("full", "random", "stride", *SPATIAL_CONTROLS) or (stage.name == "blind" and not stage.layer)
        for stage in plan
    )


def parse_match(text: str) -> tuple[str, float]:
    """``tokens=128`` or ``flops=0.3``. Raises ValueError for anything else."""
    name, _, value = text.partition("=")
    try:
        wanted = float(value)
    except ValueError:
        wanted = math.nan
    if name not in ("tokens", "flops") or not wanted > 0 or (name == "flops" and wanted > 1):
        raise ValueError(
            f"--match {text!r} is not understood; write tokens=128 (mean visual tokens over the layers) or flops=0.3 "
            "(share of the dense language-model prefill)"
        )
    return name, wanted


def matched(plan: Plan, pricing: Pricing, measure: str, wanted: float) -> Plan:
    """The plan with the budgets that come nearest to ``wanted`` mean tokens or share of FLOPs.

    Of several stages the budgets keep their proportion to one another. A plan without a budget comes back as it is. Raises
    ValueError when even its largest or smallest budget is further than 5 % from what is wanted.
    """
    budgets = [stage.budget(pricing.tokens) for stage in plan]
    if not plan or any(count is None for count in budgets):
        return plan
    price = pricing.visual if measure == "tokens" else pricing.flops
    largest = max(budgets)

    def scaled(count: int) -> Plan:
        return [
            replace(stage, keep=max(stage.reducer.least_keep, min(pricing.tokens, round(count * own / largest))))
            for stage, own in zip(plan, budgets, strict=True)
        ]

    best = min(map(scaled, range(pricing.tokens + 1)), key=lambda found: abs(price(found) - wanted))
    reached = price(best)
    if abs(reached - wanted) > 0.05 * wanted:
        raise ValueError(
            f"--match {measure}={wanted:g}: {'+'.join(map(str, plan))} cannot cost that; the nearest is "
            f"{measure}={reached:.3g} with {'+'.join(map(str, best))}. Reduce at another layer or ask for another cost"
        )
    return best
