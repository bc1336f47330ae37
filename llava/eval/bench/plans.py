"""What plans save on this machine: time by part against dense, and peak memory.

One pass is tower, prefill and a few decoding steps, each timed on its own. Passes of a plan alternate with dense ones, pair
by pair, so that what else the machine does falls on both; figures are medians with minimum and maximum. Selection, which
is a part of prefill, is timed in passes of its own, since timing it costs time. Theoretical speed-up is the ratio of the
prefill's FLOPs; realised over theoretical says how much of it arrives. On the CPU, where allocators do not return
memory, each peak is that of a separate process; on CUDA it is the allocator's.
"""

from __future__ import annotations

import multiprocessing
from collections.abc import Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from typing import Any

import torch
from rich.console import Console

from llava.cli.settings import ModelSpec, check_least
from llava.reduction import Stage, plan_from, plan_name

from ..results.folder import environment
from .clock import progress
from .timing import keep_all, peak_memory, time_plan
from .workload import RandomModel, Workload, open_workload


@dataclass(frozen=True)
class BenchSettings:
    """What is timed, and how often.

    reductions: plans in short spelling. overhead: also every plan with nothing thrown away. pairs: alternating pairs of
    passes. decode_tokens: decoding steps of a pass. memory: measure peak memory too. Raises ValueError naming the argument
    that is out of range.
    """

    source: ModelSpec | RandomModel
    reductions: tuple[str, ...]
    overhead: bool = False
    pairs: int = 7
    decode_tokens: int = 8
    memory: bool = True

    def __post_init__(self) -> None:
        check_least(1, pairs=self.pairs)
        check_least(0, decode_tokens=self.decode_tokens)

    def plans(self) -> list[list[Stage]]:
        """The plans. Raises ValueError where there are none, or an empty one."""
        plans = [plan_from(text) for text in self.reductions]
        if not plans or not all(plans):
            raise ValueError("give at least one --reduction, for example fastv@2:64; dense is always measured with it")
        return plans + [keep_all(plan) for plan in plans if self.overhead]


def time_plans(settings: BenchSettings, console: Console | None = None) -> dict[str, Any]:
    """Time every plan against dense; the result is plain values.

    Raises ValueError for a plan that the model cannot run, and RuntimeError where the process that measures memory fails.
    """
    plans = settings.plans()
    work = open_workload(settings.source)
    for plan in plans:
        work.check(plan)
    timings = [time_plan(work, plan, settings.pairs, settings.decode_tokens, console) for plan in plans]
    memory = _peaks(settings, work, [[], *plans], console) if settings.memory else {}
    machine = environment()
    result = {
        "about": work.about,
        "device": device_name(work.device, machine),
        "dtype": str(work.model.dtype).removeprefix("torch."),
        "attention": work.model.config._attn_implementation,
        "pairs": settings.pairs,
        "decode_tokens": settings.decode_tokens,
        "environment": machine,
        "plans": [
            {**timing, **({"memory": memory[timing["plan"]]} if timing["plan"] in memory else {})} for timing in timings
        ],
    }
    return {**result, "dense_memory": memory[plan_name([])]} if memory else result


def device_name(device: torch.device, machine: Mapping[str, Any]) -> str:
    """The graphics card, or the processor with its threads."""
    return machine["gpu"] if device.type == "cuda" else f"{machine['processor']}, {torch.get_num_threads()} threads"


def _peaks(
    settings: BenchSettings, work: Workload, plans: Sequence[list[Stage]], console: Console | None
) -> dict[str, dict[str, float]]:
    """Peak memory by the plan's name."""
    peaks = {}
    for plan in progress(plans, "peak memory", console):
        if work.device.type == "cuda":
            peaks[plan_name(plan)] = peak_memory(work, plan, settings.decode_tokens)
        else:
            peaks[plan_name(plan)] = _peak_in_process(settings, "+".join(map(str, plan)))
    return peaks


def _peak_in_process(settings: BenchSettings, plan: str) -> dict[str, float]:
    """Peak memory of a pass in a fresh process. Raises RuntimeError that names the plan where the process dies."""
    arguments = (settings.source, plan, settings.decode_tokens, torch.get_num_threads())
    with ProcessPoolExecutor(max_workers=1, mp_context=multiprocessing.get_context("spawn")) as pool:
        try:
            return pool.submit(_peak, *arguments).result()
        except BrokenProcessPool as error:
            raise RuntimeError(f"the process that measures the memory of {plan or 'dense'!r} died: {error}") from None


def _peak(source: ModelSpec | RandomModel, plan: str, steps: int, threads: int) -> dict[str, float]:
    torch.set_num_threads(threads)
    return peak_memory(open_workload(source), plan_from(plan), steps)
