"""The plans that are asked for: of a command line, of a checkpoint, at budgets that cost the same if wanted."""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping
from dataclasses import replace
from statistics import median, median_low
from typing import Any

from llava.cli.settings import PlanSpec
from llava.model.language_model.knobs import plan_from_config
from llava.model.language_model.reduction_knobs import METHOD_FLAGS, ReductionKnobs
from llava.reduction import check_plan, plan_from, plan_name
from llava.reduction.environment import with_environment

from .latency import first_token_seconds, matched_latency
from .opening import Evaluation
from .pricing import Plan, matched, parse_match, pricing_of
from .subject import LlavaSubject


def plans_from(spec: PlanSpec, config: ReductionKnobs, keep: float | None = None) -> list[Plan]:
    """The plans of a spec, under a config: its reductions, or the one that its knobs, LLAVA_REDUCTION or the checkpoint spell.

    keep: the budget of stages that name none. Raises ValueError for both spellings at once, for one plan twice, and for a
    plan that the model cannot run.
    """
    flags = [flag for flag in METHOD_FLAGS if spec.knobs.get(flag)]
    if spec.reductions and flags:
        raise ValueError(
            f"--reduction {spec.reductions[0]} and {flags[0]} are both given; use one of the two spellings"
        )
    plans = [plan_from(text, keep) for text in spec.reductions] or [
        plan_from_config(with_knobs(config, with_environment(spec.knobs)))
    ]
    names = [plan_name(plan) for plan in plans]
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise ValueError(f"the plan {', '.join(twice)} is given twice; every plan needs a name of its own")
    for plan in plans:
        check_plan(plan, config.num_hidden_layers)
    return plans


def with_knobs(config: ReductionKnobs, knobs: Mapping[str, Any]) -> ReductionKnobs:
    """A copy of a config with reduction knobs set."""
    changed = copy.copy(config)
    for name, value in knobs.items():
        setattr(changed, name, value)
    return changed


def requested_plans(
    evaluation: Evaluation, spec: PlanSpec, load: Callable[[], LlavaSubject] | None = None
) -> list[Plan]:
    """The plans of a spec under an evaluation's model, matched in cost where the spec says so.

    ``load`` loads the model, by default the evaluation's; only a match in time calls it. Raises ValueError as
    ``plans_from`` and ``matched`` do, and for a match where pictures differ in their number of tokens.
    """
    model = evaluation.model
    if spec.match is None:
        return plans_from(spec, model.config)
    (measure, target), pricing = parse_match(spec.match), pricing_of(evaluation)
    plans = plans_from(spec, model.config, keep=1.0)
    if pricing is None:
        raise ValueError(
            f"--match {spec.match}: this model cuts pictures into crops, so that their tokens differ; "
            "give budgets as fractions instead"
        )
    prompts = [evaluation.task.prompt(example) for example in evaluation.task.examples]
    lengths = [len(model.prompt_ids(prompt)) - 1 for prompt in prompts]
    if measure == "latency":
        usual = prompts[lengths.index(median_low(lengths))]
        seconds = first_token_seconds((load or model.subject)(), usual)
        return [matched_latency(plan, pricing, target, seconds) for plan in plans]
    pricing = replace(pricing, text=round(median(lengths)))
    return [matched(plan, pricing, measure, target) for plan in plans]
