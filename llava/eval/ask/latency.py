"""Budgets with which plans take the same time, found by measuring: to the first token, next to a reference plan."""

from __future__ import annotations

import logging
from collections.abc import Callable
from statistics import median

import torch

from llava.reduction import reduced

from ..bench.clock import now
from ..bench.workload import drawn_picture
from .pricing import NEAR, Plan, Pricing, candidates, check_near, method_label
from .subject import LlavaSubject

logger = logging.getLogger(__name__)

PAIRS = 7  # of passes, for every budget that is tried
CLOSE = 0.01  # share of the wanted time within which no other budget is tried


def matched_latency(
    plan: Plan,
    pricing: Pricing,
    target: float,
    seconds: Callable[[Plan], float],
    reference: Plan | None = None,
    pairs: int = PAIRS,
) -> Plan:
    """The plan with the budgets that take nearest to ``target`` times as long as the reference (None: dense).

    Budgets are bisected, since time grows with them; at each step the plan and the reference are measured by ``seconds``, in
    alternating pairs. The budgets of several stages keep their proportion. A plan without a budget comes back as it is.
    Raises ValueError when even the nearest budget that was tried is further than 5 % from the target, or when times
    scatter too much for any to be near it.
    """
    plans = candidates(plan, pricing)
    if not plans:
        return plan
    times: dict[int, float] = {}
    low, high = 0, len(plans) - 1
    while low <= high:
        middle = (low + high) // 2
        times[middle] = relative_seconds(plans[middle], reference or [], seconds, pairs)
        logger.info("%s takes %.3f of the time", "+".join(map(str, plans[middle])), times[middle])
        if abs(times[middle] - target) <= CLOSE * target:
            break
        low, high = (middle + 1, high) if times[middle] < target else (low, middle - 1)
    best = min(times, key=lambda number: abs(times[number] - target))
    if min(times.values()) < target < max(times.values()) and abs(times[best] - target) > NEAR * target:
        raise ValueError(
            f"--match latency={target:g}: {method_label(plan)} was measured on both sides of that but nowhere near it "
            f"({', '.join(f'{times[number]:.3f}' for number in sorted(times))} from the smallest budget to the largest); the "
            "measurements scatter: repeat while nothing else runs, or ask for flops="
        )
    check_near("latency", target, times[best], plan, plans[best])
    return plans[best]


def relative_seconds(plan: Plan, reference: Plan, seconds: Callable[[Plan], float], pairs: int = PAIRS) -> float:
    """How many times as long as the reference a plan takes: the median over ``pairs``, after one that is not counted."""
    ratios = []
    for number in range(pairs + 1):
        # First one, then the other: what warms up or throttles favours neither.
        if number % 2:
            first = seconds(reference)
            ratios.append(seconds(plan) / first)
        else:
            first = seconds(plan)
            ratios.append(first / seconds(reference))
    return median(ratios[1:])


def first_token_seconds(subject: LlavaSubject, text: str) -> Callable[[Plan], float]:
    """What measures a plan: the seconds of tower, projector, prefill and every selection, on a drawn picture and a text."""
    model = subject.model
    (picture,) = subject.encode([drawn_picture()])
    ids = torch.tensor([subject.prompt_ids(text, has_picture=True)], device=model.device)
    views = {"images": [picture.pixels], "image_sizes": [picture.size], "image_seeds": [picture.seed]}

    @torch.inference_mode()
    def seconds(plan: Plan) -> float:
        with reduced(model, plan):
            start = now(model.device)
            model(ids, **views, use_cache=True, logits_to_keep=1)
            return now(model.device) - start

    return seconds
