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
from llava.reduction import Stage, check_plan, make_stage, plan_from, plan_name
from llava.reduction.cost import decoder_flops
from llava.reduction.stage import budget, tokens_left

from .opening import Evaluation

logger = logging.getLogger(__name__)

Plan = list[Stage]
SEEDS = (0, 1, 2)  # of the random control
SPATIAL_CONTROLS = ("grid", "pool", "downsample")


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
                spent += stage.reducer.flops(self.text + before, before, budget(stage, before) or before, width)
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


def compared_plans(evaluation: Evaluation, spec: PlanSpec) -> list[Plan]:
    """The plans of a spec, matched in cost where it says so, and their controls unless it wants none.

    Raises ValueError as ``plans_from`` and ``matched`` do, and for a match where pictures have no one number of tokens.
    """
    model, tokens = evaluation.model, evaluation.model.tokens
    match = parse_match(spec.match) if spec.match else None
    plans = plans_from(spec, model.config, keep=1.0 if match else None)
    pricing = None if tokens is None else Pricing(model.config, tokens)
    if match:
        if pricing is None:
            raise ValueError(
                f"--match {spec.match}: this model cuts pictures into crops, so that their tokens differ; "
                "give budgets as fractions instead"
            )
        prompts = [evaluation.task.prompt(example) for example in evaluation.task.examples]
        pricing = replace(pricing, text=round(median(len(model.prompt_ids(prompt)) - 1 for prompt in prompts)))
        plans = [matched(plan, pricing, *match) for plan in plans]
    return with_controls(plans, pricing) if spec.controls else plans


def with_controls(plans: Sequence[Plan], pricing: Pricing | None) -> list[Plan]:
    """The plans, and what each must beat: full, blind, and for every cost random, grid, pool and a smaller picture.

    Random stands where the plan's own stages stand, with their budgets, so it costs the same layer by layer; three seeds.
    The other three act before the language model and get as many tokens as the plan has on average over its layers (a
    smaller picture the nearest square). ``pricing`` None (pictures of unequal length): full, blind and random alone.
    """
    found = {plan_name(plan): list(plan) for plan in plans}
    extra = [plan_from("full"), plan_from("blind")]
    for plan in plans:
        if not plan or any(stage.keep is None for stage in plan) or _is_control(plan):
            continue
        if all(stage.site != "pixels" for stage in plan):
            for seed in SEEDS:
                extra.append([make_stage("random", stage.site, stage.layer, stage.keep, seed=seed) for stage in plan])
        if pricing is not None:
            extra += spatial_controls(plan, pricing).values()
    for plan in extra:
        found.setdefault(plan_name(plan), plan)
    return list(found.values())


def spatial_controls(plan: Plan, pricing: Pricing) -> dict[str, Plan]:
    """Grid, pooling and a smaller picture with as many tokens as a plan has on the mean of the layers, by their names."""
    count = max(1, round(pricing.visual(plan)))
    square = max(1, round(math.sqrt(count))) ** 2
    return {name: [make_stage(name, keep=square if name == "downsample" else count)] for name in SPATIAL_CONTROLS}


def _is_control(plan: Plan) -> bool:
    return all(stage.name in ("full", "blind", "random", "stride", *SPATIAL_CONTROLS) for stage in plan)


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
    budgets = [budget(stage, pricing.tokens) for stage in plan]
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
