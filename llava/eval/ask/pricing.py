"""What a plan will cost a model, before anything runs, and budgets chosen so that plans cost the same."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass, replace

from llava.model.language_model.reduction_knobs import ReductionKnobs
from llava.model.multimodal_encoder.scales import stated_scales
from llava.reduction import Stage
from llava.reduction.accounting import selection_flops
from llava.reduction.cost import decoder_flops, kv_bytes
from llava.reduction.plan import tokens_left

from .opening import Evaluation

Plan = list[Stage]

MEASURES = ("tokens", "flops", "kv", "latency")  # what plans can be made equal in
FEW = 12  # costs that an error lists
NEAR = 0.05  # how far from the wanted cost, as a share of it, a plan may lie


def method_label(plan: Plan) -> str:
    """A plan without its budgets, what one line of a figure stands for: ``fastv@2``, ``random@2,seed=1``, ``full``."""
    return (
        "+".join(re.sub(r":([^,=+]+(,|$))?", lambda match: "," if match[2] else "", str(stage)) for stage in plan)
        or "full"
    )


@dataclass(frozen=True)
class Pricing:
    """What a plan will cost a model, before anything runs: a picture of ``tokens`` with ``text`` other positions."""

    config: ReductionKnobs
    tokens: int
    text: int = 60

    def visual(self, plan: Plan) -> float:
        """Mean visual tokens over the decoder layers."""
        left = tokens_left(plan, self.tokens, self.config.num_hidden_layers)
        return sum(left) / len(left)

    def flops(self, plan: Plan) -> float:
        """The language model's prefill with the selections, wherever they are made, as a share of the dense one."""
        layers, width = self.config.num_hidden_layers, self.config.hidden_size
        entering = tokens_left(plan, self.tokens, layers)
        spent = decoder_flops(self.config, [self.text + count for count in entering])
        features = getattr(self.config, "mm_hidden_size", width)
        tower = features // max(len(stated_scales(self.config)), 1)
        spent += selection_flops(plan, self.tokens, self.text, layers, width, tower, features_width=features)
        return spent / decoder_flops(self.config, [self.text + self.tokens] * layers)

    def kv(self, plan: Plan) -> float:
        """The keys and values that the prefill leaves in the cache, text included, as a share of the dense one's."""
        layers = self.config.num_hidden_layers
        rows = [self.text + count for count in tokens_left(plan, self.tokens, layers)]
        return kv_bytes(self.config, rows, 1) / kv_bytes(self.config, [self.text + self.tokens] * layers, 1)


def pricing_of(evaluation: Evaluation) -> Pricing | None:
    """The prices of an evaluation's model; None where pictures differ in their number of tokens."""
    model = evaluation.model
    return None if model.tokens is None else Pricing(model.config, model.tokens)


def parse_match(text: str) -> tuple[str, float]:
    """``tokens=128``, ``flops=0.3``, ``kv=0.3`` or ``latency=0.5``. Raises ValueError for anything else."""
    name, _, value = text.partition("=")
    try:
        target = float(value)
    except ValueError:
        target = math.nan
    if name not in MEASURES or not 0 < target < math.inf or (name != "tokens" and target > 1):
        raise ValueError(
            f"--match {text!r} is not understood; write tokens=128 (mean visual tokens over the layers), flops=0.3 (share of "
            "the dense language-model prefill), kv=0.3 (share of the cache it leaves) or latency=0.5 (share of the measured "
            "time to the dense model's first token)"
        )
    return name, target


def matched(plan: Plan, pricing: Pricing, measure: str, target: float) -> Plan:
    """The plan with the budgets that come nearest to ``target`` mean tokens, or share of FLOPs or of the KV cache.

    The budgets of several stages keep their proportion to one another, and budgets that a method cannot have are
    skipped. A plan without a budget comes back as it is. Raises ValueError when even the nearest is further than 5 %
    from the target.
    """
    plans = candidates(plan, pricing)
    if not plans:
        return plan
    price = {"tokens": pricing.visual, "flops": pricing.flops, "kv": pricing.kv}[measure]
    costs = list(map(price, plans))
    best = min(range(len(plans)), key=lambda number: abs(costs[number] - target))
    check_near(measure, target, costs[best], plan, plans[best], costs)
    return plans[best]


def candidates(plan: Plan, pricing: Pricing) -> list[Plan]:
    """The plan with every budget it can have, from the smallest; none where a stage has no budget.

    The largest budget of the stages is counted from 0 to all tokens, and the others keep their proportion to it. Raises the
    method's ValueError where it can have no budget at all.
    """
    shares = [count for stage in plan if (count := stage.budget(pricing.tokens)) is not None]
    if not plan or len(shares) < len(plan):
        return []
    possible, refusal = [], None
    for count in range(pricing.tokens + 1):
        scaled = [
            replace(stage, keep=max(stage.reducer.least_keep, min(pricing.tokens, round(count * share / max(shares)))))
            for stage, share in zip(plan, shares, strict=True)
        ]
        try:
            pricing.visual(scaled)
        except ValueError as error:
            refusal = error
        else:
            possible.append(scaled)
    if refusal is not None and not possible:
        raise refusal
    return possible


def check_near(
    measure: str, target: float, reached: float, plan: Plan, best: Plan, possible: Sequence[float] = ()
) -> None:
    """Raises ValueError where the cost that ``best`` has reached is further than 5 % from the target.

    ``possible``: every cost that the plan can have, which the error names where they are few.
    """
    if abs(reached - target) <= NEAR * target:
        return
    few = sorted(set(possible))
    listed = f"; it can have {', '.join(f'{cost:.3g}' for cost in few)}" if 0 < len(few) <= FEW else ""
    raise ValueError(
        f"--match {measure}={target:g}: {method_label(plan)} cannot cost that; the nearest is {measure}={reached:.3g} with "
        f"{'+'.join(map(str, best))}{listed}. Reduce at another layer or ask for another cost"
    )
