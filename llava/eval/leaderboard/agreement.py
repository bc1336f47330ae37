"""Whether two rankings of the same methods agree: Kendall's tau-b with a bootstrap interval.

Between two models at one task and mean: does a method that wins on one win on the other? Within a model between two tasks:
does the benchmark matter? On one task between two means: does the budget?
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations

import numpy as np
from numpy.typing import NDArray
from scipy.stats import norm

from ..report.compare import Answers
from ..tasks.statistics import LEVEL
from .contenders import resampled_scores

FEWEST = 5  # methods in common; of fewer nothing is said
DRAWS = 1000
CERTAIN = 0.99  # beyond it Fisher's z grows without bound


@dataclass(frozen=True)
class Agreement:
    """Kendall's tau-b of two rankings, with its 95 % interval.

    ``between``: "models", "tasks" or "means". ``within``: the task of two models, the model of two tasks, both of two means.
    ``mean``: of both rankings, None between means. ``first`` and ``second``: what is ranked by. ``methods``: how many both
    have. ``attainable``: about the tau that would be found if the two rankings were truly equal, since chance moves the
    scores on both sides.
    """

    between: str
    within: str
    mean: int | None
    first: str
    second: str
    methods: int
    tau: float
    interval: list[float]
    attainable: float


Runs = Mapping[str, Answers]  # by the method's name


def agreements(ranked: Mapping[tuple[str, str, int], Runs]) -> list[Agreement]:
    """All pairs of models, of tasks and of means that have the rest in common; the key is (model, task, mean).

    Pairs with fewer than five methods in common are left out, and those where all methods of a side score alike.
    """
    found = []
    for first, second in combinations(sorted(ranked, key=lambda place: -place[2]), 2):  # larger means come first
        differing = [place for place in range(3) if first[place] != second[place]]
        names = [name for name in ranked[first] if name in ranked[second]]
        if len(differing) > 1 or len(names) < FEWEST:
            continue
        sides = [[ranked[place][name] for name in names] for place in (first, second)]
        same_pictures = differing == [2]
        result = rank_correlation(resampled_scores(sides[0]), resampled_scores(sides[1]), same_pictures)
        if result is not None:
            found.append(Agreement(*_about(first, second, differing[0]), len(names), *result))
    return sorted(found, key=lambda each: (each.between, each.within, -(each.mean or 0)))


def _about(
    first: tuple[str, str, int], second: tuple[str, str, int], differing: int
) -> tuple[str, str, int | None, str, str]:
    """The fields of an Agreement that say what was ranked: between, within, mean, first, second."""
    model, task, mean = first
    if differing == 2:
        return "means", f"{model} on {task}", None, f"{mean} tokens", f"{second[2]} tokens"
    between, within = (("models", task), ("tasks", model))[differing]
    return between, within, mean, str(first[differing]), str(second[differing])


Scores = tuple[NDArray[np.float64], NDArray[np.float64]]  # (methods,) and (methods, resamples)


def rank_correlation(
    first: Scores, second: Scores, same_pictures: bool = False, level: float = LEVEL
) -> tuple[float, list[float], float] | None:
    """Kendall's tau-b of two lists of scores, its interval, and what is attainable; None where a side holds one score alone.

    Each draw takes other pictures on both sides, and other methods; the standard error is that of Fisher's z over the draws.
    What the sides' pictures do to their scores is independent unless they are the ``same_pictures``, of which both sides then draw
    the same. Where methods differ by less than chance moves their scores, tau is drawn towards 0, and the interval with it.
    """
    tau = kendall_tau(first[0], second[0])
    if math.isnan(tau):
        return None
    rng = np.random.default_rng(0)
    methods, draws = len(first[0]), min(DRAWS, first[1].shape[1], second[1].shape[1])
    ones, others = (rng.permutation(side[1].shape[1])[:draws] for side in (first, second))
    if same_pictures:
        others = ones
    drawn = []
    for one, other in zip(ones, others, strict=True):
        chosen = rng.integers(methods, size=methods)
        drawn.append(kendall_tau(first[1][chosen, one], second[1][chosen, other]))
    spread = norm.ppf((1 + level) / 2) * float(np.nanstd(_fisher(drawn)))
    low, high = (float(math.tanh(_fisher([tau])[0] + side)) for side in (-spread, spread))
    # Resamples are to the scores what these are to the truth, on either side.
    kept = [
        np.nanmean([kendall_tau(scores, drawn) for drawn in resamples.T[:draws]])
        for scores, resamples in (first, second)
    ]
    return tau, [min(low, tau), max(high, tau)], float(kept[0] * kept[1])


def _fisher(taus: Sequence[float]) -> NDArray[np.float64]:
    """Fisher's z of correlations, finite at 1 and -1."""
    return np.arctanh(np.clip(taus, -CERTAIN, CERTAIN))


def kendall_tau(first: NDArray[np.float64], second: NDArray[np.float64]) -> float:
    """Kendall's tau-b of two lists of scores; nan where one holds a single value.

    As ``scipy.stats.kendalltau``, which takes twelve times as long because it also computes p.
    """
    one, other = (np.sign(side[:, None] - side) for side in (first, second))
    pairs = float((one**2).sum() * (other**2).sum())
    return float((one * other).sum()) / math.sqrt(pairs) if pairs else math.nan
