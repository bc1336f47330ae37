"""What a plan will cost a model, before anything runs, and budgets chosen so that plans cost the same."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

from llava.model.language_model.himap_configuration_llama import LlamaConfig
from llava.reduction import Stage, spelled_out
from llava.reduction.cost import decoder_flops
from llava.reduction.plan import tokens_left

from .opening import Evaluation

Plan = list[Stage]


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
        stages = spelled_out(plan, layers)
        for number, stage in enumerate(stages):
            if stage.site == "layer":
                before = tokens_left(stages[:number], self.tokens, layers)[stage.layer or 0]
                spent += stage.reducer.flops(self.text + before, before, stage.budget(before) or before, width)
        return spent / decoder_flops(self.config, [self.text + self.tokens] * layers)


def pricing_of(evaluation: Evaluation) -> Pricing | None:
    """The prices of an evaluation's model; None where pictures have no one number of tokens."""
    model = evaluation.model
    return None if model.tokens is None else Pricing(model.config, model.tokens)


def parse_match(text: str) -> tuple[str, float]:
    """``tokens=128`` or ``flops=0.3``. Raises ValueError for anything else."""
    name, _, value = text.partition("=")
    try:
        target = float(value)
    except ValueError:
        target = math.nan
    if name not in ("tokens", "flops") or not target > 0 or (name == "flops" and target > 1):
        raise ValueError(
            f"--match {text!r} is not understood; write tokens=128 (mean visual tokens over the layers) or flops=0.3 "
            "(share of the dense language-model prefill)"
        )
    return name, target


def matched(plan: Plan, pricing: Pricing, measure: str, target: float) -> Plan:
    """The plan with the budgets that come nearest to ``target`` mean tokens or share of FLOPs.

    Of several stages the budgets keep their proportion to one another. A plan without a budget comes back as it is. Raises
    ValueError when even its largest or smallest budget is further than 5 % from the target.
    """
    budgets = [count for stage in plan if (count := stage.budget(pricing.tokens)) is not None]
    if not plan or len(budgets) < len(plan):
        return plan
    price = pricing.visual if measure == "tokens" else pricing.flops
    largest = max(budgets)

    def scaled(count: int) -> Plan:
        return [
            replace(stage, keep=max(stage.reducer.least_keep, min(pricing.tokens, round(count * share / largest))))
            for stage, share in zip(plan, budgets, strict=True)
        ]

    best = min(map(scaled, range(pricing.tokens + 1)), key=lambda candidate: abs(price(candidate) - target))
    reached = price(best)
    if abs(reached - target) > 0.05 * target:
        raise ValueError(
            f"--match {measure}={target:g}: {'+'.join(map(str, plan))} cannot cost that; the nearest is "
            f"{measure}={reached:.3g} with {'+'.join(map(str, best))}. Reduce at another layer or ask for another cost"
        )
    return best
