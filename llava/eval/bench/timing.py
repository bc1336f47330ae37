"""A plan timed against the dense model, in alternating pairs."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import torch
from rich.console import Console
from torch import Tensor

from llava.reduction import Stage, plan_name, reduced

from .clock import now, progress, spread
from .memory import peak_of
from .workload import Workload

PARTS = ("tower", "prefill", "decode", "first_token", "end_to_end")
SELECTING = ("select", "aggregate", "shrink", "merge_in_tower")  # the methods of a reducer that compute


@torch.inference_mode()
def timed_pass(work: Workload, plan: list[Stage], steps: int) -> dict[str, float]:
    """Seconds of tower, prefill, ``steps`` decoding steps (together), tower and prefill (``first_token``), and all of it."""
    with reduced(work.model, plan):
        start = now(work.device)
        picture = work.encode(plan) if work.encode else None
        encoded = now(work.device)
        output = work.prefill(picture)
        token = output.logits[:, -1:].argmax(-1)
        filled = now(work.device)
        for _ in range(steps):
            output = work.model(input_ids=token, past_key_values=output.past_key_values, use_cache=True)
            token = output.logits[:, -1:].argmax(-1)
        end = now(work.device)
    return {
        "tower": encoded - start if work.encode else 0.0,
        "prefill": filled - encoded,
        "decode": end - filled,
        "first_token": filled - start,
        "end_to_end": end - start,
    }


def time_plan(
    work: Workload, plan: list[Stage], pairs: int, steps: int, console: Console | None = None
) -> dict[str, Any]:
    """Time a plan against dense in ``pairs`` alternating pairs, after one pair that is not counted.

    Returns ``dense_ms`` and ``plan_ms`` by part as {median, min, max} (decode per token), ``speedup`` likewise from the
    pairs' ratios, ``selection_ms``, and of ``compared`` the FLOPs of both, ``theoretical`` and ``realised_over_theoretical``.
    Compared are the prefills, or where the workload ``counts_tower`` everything up to the first token. For a model without
    a tower also ``limit_ms``, transformers' layers alone at the plan's numbers of rows, and ``over_limit``, the plan's
    prefill over that: what the code of the reduction costs.
    """
    seconds: dict[str, list[dict[str, float]]] = {"dense": [], "plan": []}
    limits: list[float] = []
    flops = {}
    plans = {"dense": [], "plan": plan}
    compared = "first_token" if work.counts_tower(plan) else "prefill"
    for number in progress(range(pairs + 1), plan_name(plan), console):
        # First one, then the other: what warms up or throttles favours neither.
        for kind in ("dense", "plan") if number % 2 else ("plan", "dense"):
            seconds[kind].append(timed_pass(work, plans[kind], steps))
            behind, tower = work.flops()
            flops[kind] = behind + tower if compared == "first_token" else behind
            if kind == "plan" and work.limit is not None:
                limits.append(_seconds(work, work.limit, work.model.model.last_rows_per_layer[:, 0].tolist()))
    dense, reduced_plan = seconds["dense"][1:], seconds["plan"][1:]
    theoretical = flops["dense"] / flops["plan"]
    parts = [part for part in PARTS if dense[0][part] > 0 and reduced_plan[0][part] > 0]
    ratios = zip(dense, reduced_plan, strict=True)
    speedups = [{part: first[part] / second[part] for part in parts} for first, second in ratios]
    speedup = {part: spread([ratio[part] for ratio in speedups]) for part in parts}
    over = [passed["prefill"] / limit for passed, limit in zip(reduced_plan, limits[1:])]
    limit = {"limit_ms": spread([1000 * limit for limit in limits[1:]]), "over_limit": spread(over)} if limits else {}
    return {
        **limit,
        "plan": plan_name(plan),
        "stages": [str(stage) for stage in plan],
        "dense_ms": _milliseconds(dense, steps),
        "plan_ms": _milliseconds(reduced_plan, steps),
        "selection_ms": selection_ms(work, plan, pairs),
        "compared": compared,
        "speedup": speedup,
        "dense_flops": flops["dense"],
        "plan_flops": flops["plan"],
        "theoretical": theoretical,
        "realised_over_theoretical": speedup[compared]["median"] / theoretical,
    }


def _seconds(work: Workload, run: Callable[[list[int]], Any], rows: list[int]) -> float:
    start = now(work.device)
    run(rows)
    return now(work.device) - start


def selection_ms(work: Workload, plan: list[Stage], repeats: int) -> dict[str, float]:
    """Milliseconds of a pass that go into choosing, merging and shrinking, in passes of their own: {median, min, max}."""
    totals = []
    for _ in range(repeats):
        with selection_clock(plan) as seconds:
            timed_pass(work, plan, steps=0)
        totals.append(1000 * sum(seconds))
    return spread(totals)


@contextmanager
def selection_clock(plan: Sequence[Stage]) -> Iterator[list[float]]:
    """Inside the block the plan's reducers note the seconds of every selection; after it they are as they were.

    The methods are timed in place, so that a reducer keeps every other trait and method that it has.
    """
    seconds: list[float] = []

    def timed(method: Callable[..., Any]) -> Callable[..., Any]:
        @functools.wraps(method)
        def call(tokens: Tensor, *rest: Any, **named: Any) -> Any:
            start = now(tokens.device)
            result = method(tokens, *rest, **named)
            seconds.append(now(tokens.device) - start)
            return result

        return call

    reducers = {id(stage.reducer): stage.reducer for stage in plan}.values()
    for reducer in reducers:
        for name in SELECTING:
            setattr(reducer, name, timed(getattr(reducer, name)))
    try:
        yield seconds
    finally:
        for reducer in reducers:
            for name in SELECTING:
                delattr(reducer, name)


def keep_all(plan: list[Stage]) -> list[Stage]:
    """The same stages with nothing thrown away: the overhead of the reduction code."""
    return [replace(stage, keep=1.0) if stage.reducer.wants_keep else stage for stage in plan]


def peak_memory(work: Workload, plan: list[Stage], steps: int) -> dict[str, float]:
    """MB of one pass: ``peak`` in all, ``before`` it. On the CPU that of this process, which should do nothing else."""
    return peak_of(lambda: timed_pass(work, plan, steps), work.device)


def _milliseconds(passes: Sequence[dict[str, float]], steps: int) -> dict[str, dict[str, float]]:
    scale = {part: 1000 / steps if part == "decode" and steps else 1000 for part in PARTS}
    return {part: spread([scale[part] * seconds[part] for seconds in passes]) for part in PARTS}
