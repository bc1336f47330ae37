"""The mean over benchmarks of a plan's score over that of the full model, the "Rel." of the papers, with its interval."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from ..tasks.statistics import mean_ratio, ratio_interval
from .compare import obstacle
from .rows import Row


@dataclass(frozen=True)
class Relative:
    """One plan on several benchmarks: each ratio to the full model by task, and their mean with its 95 % interval.

    ``ratio`` is None where the plan lacks a benchmark that the full model has: means over other sets do not compare.
    """

    model: str
    plan: str
    ratios: dict[str, float]
    ratio: float | None
    ratio_interval: list[float] | None


def relatives(rows: Sequence[Row]) -> list[Relative]:
    """Every plan of every model that has run on at least two benchmarks with the full model, the best first.

    Runs are paired where they were asked the same questions of the same checkpoint in the same way.
    """
    results = []
    for model in dict.fromkeys(row.model for row in rows):
        full: dict[str, Row] = {}
        for row in rows:
            if row.model == model and row.method == "full" and _has_score(row):
                full.setdefault(row.task, row)
        plans = dict.fromkeys(row.plan for row in rows if row.model == model and row.method != "full")
        if len(full) > 1:
            results += [_relative(model, plan, rows, full) for plan in plans]
    shown = [result for result in results if len(result.ratios) > 1]
    return sorted(shown, key=lambda result: (result.model, -(result.ratio or 0.0)))


def _has_score(row: Row) -> bool:
    """Whether the score can be resampled, and divided by."""
    return bool(row.answers and row.answers.score and row.score > 0)


def _relative(model: str, plan: str, rows: Sequence[Row], full: dict[str, Row]) -> Relative:
    pairs = {}
    for row in rows:
        reference = full.get(row.task)
        if row.model != model or row.plan != plan or reference is None or not _has_score(row):
            continue
        if row.answers and reference.answers and obstacle(row.answers, reference.answers) is None:
            pairs.setdefault(row.task, (row.answers.score, reference.answers.score))
    ratios = {task: mean_ratio([pair]) for task, pair in pairs.items()}
    everything = list(pairs.values())
    if len(pairs) < len(full):
        return Relative(model, plan, ratios, None, None)
    return Relative(model, plan, ratios, mean_ratio(everything), ratio_interval(everything))
