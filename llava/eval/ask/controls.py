"""The controls that every plan must beat: the full model, no picture, and as many tokens chosen without looking."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace

from llava.reduction import Stage, make_stage, plan_from, plan_name, spelled_out
from llava.reduction.methods.controls.random import Random

from .pricing import Plan, Pricing

SEEDS = (0, 1, 2)  # of the random control
SPATIAL_CONTROLS = ("grid", "pool", "downsample")
UNCHOOSING = ("full", "blind")  # methods that keep everything or nothing


def with_controls(
    plans: Sequence[Plan], layers: int, pricing: Pricing | None, kept: Mapping[str, Sequence[float]] | None = None
) -> list[Plan]:
    """The plans, and what each must beat: full, blind, and at every cost random, grid, pool and a smaller picture.

    layers: the decoder's depth. pricing None (pictures differ in their number of tokens): full, blind and random alone.
    kept: by plan name, the mean visual tokens of each layer, where the pictures decide how many are kept. Three seeds
    of random.
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
    ``layers``, is compared with a random share K / ``layers`` of it from the beginning, the same average number of
    tokens per layer. kept: mean visual tokens of each layer, as measured, for stages where the pictures decide. None
    where nothing is chosen, or where an adaptive plan was not measured.
    """
    if [stage.name for stage in plan] == ["blind"]:
        return [make_stage("random", keep=(plan[0].layer or 0) / layers, seed=seed)]
    control = []
    for stage in spelled_out(plan, layers):
        if stage.site == "pixels" or stage.name in UNCHOOSING:
            control.append(stage)
            continue
        keep = stage.keep
        if is_adaptive(stage):
            if kept is None:
                return None
            keep = round(kept[min(stage.layer or 0, layers - 1)])
        # Random tokens merge nothing: in place of a merging tower they are chosen from what the whole tower makes.
        site = "features" if stage.site == "tower" else stage.site
        control.append(replace(stage, reducer=Random(seed=seed), keep=keep, site=site))
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
    """Whether the pictures decide how many tokens a stage keeps, so that its cost is known only after it has run."""
    return stage.name not in UNCHOOSING and (stage.keep is None or stage.reducer.adaptive)


def is_control(plan: Plan) -> bool:
    """Whether a plan is itself a control: the full model, no picture, or a choice that looks at nothing."""
    return all(
        stage.name in ("full", "random", "stride", *SPATIAL_CONTROLS) or (stage.name == "blind" and not stage.layer)
        for stage in plan
    )
