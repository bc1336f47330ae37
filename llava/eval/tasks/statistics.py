"""What chance does to a score: intervals, paired comparisons of two runs, and the price of making many of them.

Two runs that answered the same questions are compared question by question and picture by picture: what is hard for both
cancels, so a paired interval is far narrower than the two intervals side by side suggest.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from scipy.stats import binomtest

RESAMPLES = 2000
AT_ONCE = 2**22  # numbers drawn in one go: 32 MB, whatever the size of the benchmark
ALIKE = "not distinguishable"
ROUNDING = 1e-9  # a bound this near to 0 is 0


def total(value: Sequence[float], size: Sequence[float], strata: Sequence[str] | None = None) -> float:
    """Sum over strata of (sum of values / sum of sizes): the figure that ``bootstrap`` gives the interval of."""
    value, size = np.asarray(value, dtype=float), np.asarray(size, dtype=float)
    return float(sum(_ratio(value[inside].sum(), size[inside].sum()) for inside in _strata(len(value), strata)))


def bootstrap(
    value: Sequence[float],
    size: Sequence[float],
    strata: Sequence[str] | None = None,
    level: float = 0.95,
    seed: int = 0,
) -> list[float]:
    """Percentile bootstrap of ``sum over strata of (sum of value / sum of size)``: [low, high].

    Each entry is one picture, drawn with replacement within its stratum (default: one stratum for all), 2,000 times from
    ``seed``. With ``value`` the right answers and ``size`` the questions of every picture this is the interval of accuracy.
    """
    return percentiles(resampled(value, size, strata, seed), level)


def resampled(
    value: Sequence[float], size: Sequence[float], strata: Sequence[str] | None = None, seed: int = 0
) -> np.ndarray:
    """The 2,000 totals of the bootstrap: (RESAMPLES,).

    The draws depend on ``strata`` and ``seed`` alone, so that the totals of two runs over the same pictures are pairs: the
    percentiles of their differences are the interval of the paired difference.
    """
    value, size = np.asarray(value, dtype=float), np.asarray(size, dtype=float)
    rng, found = np.random.default_rng(seed), np.zeros(RESAMPLES)
    for inside in _strata(len(value), strata):
        step = max(1, AT_ONCE // len(inside))
        for start in range(0, RESAMPLES, step):
            part = slice(start, min(start + step, RESAMPLES))
            drawn = rng.choice(inside, size=(part.stop - start, len(inside)))
            found[part] += _ratio(value[drawn].sum(axis=1), size[drawn].sum(axis=1))
    return found


def percentiles(totals: np.ndarray, level: float = 0.95) -> list[float]:
    """[low, high], between which the middle ``level`` of the totals lies."""
    rest = 50 * (1 - level)
    return [float(bound) for bound in np.percentile(totals, [rest, 100 - rest])]


def mcnemar(first: Sequence[bool], second: Sequence[bool]) -> float:
    """Two-sided exact p of McNemar's test that two runs are right equally often; not the mid-p, so never too small.

    ``first`` and ``second`` say of the same questions whether each was right. Only the questions that one alone had right
    count: under the hypothesis they are tosses of a coin. 1 where there is none. Questions of one picture are taken as
    independent, which the bootstrap over pictures does not assume. Raises ValueError for different numbers of questions.
    """
    first, second = np.asarray(first, dtype=bool), np.asarray(second, dtype=bool)
    if first.shape != second.shape:
        raise ValueError(f"second={second.shape} and first={first.shape} must be answers to the same questions")
    only_first, only_second = int((first & ~second).sum()), int((second & ~first).sum())
    apart = only_first + only_second
    return float(binomtest(only_first, apart, 0.5).pvalue) if apart else 1.0


def holm(p: Sequence[float]) -> list[float]:
    """The p values as they stand after Holm's correction: each may be held against 0.05 however many there are."""
    order, corrected, largest = np.argsort(p, kind="stable"), [0.0] * len(p), 0.0
    for rank, place in enumerate(order):
        largest = max(largest, min(1.0, (len(p) - rank) * float(p[place])))
        corrected[place] = largest
    return corrected


def verdict(interval: Sequence[float]) -> str:
    """``better``, ``worse``, or ``not distinguishable`` where the interval of a difference holds 0."""
    low, high = interval
    if low <= ROUNDING and high >= -ROUNDING:
        return ALIKE
    return "better" if low > 0 else "worse"


def _ratio(value: np.ndarray, size: np.ndarray) -> np.ndarray:
    """Their ratio; 0 where there is nothing to divide by, as with the F1 of a draw without a yes."""
    return np.divide(value, size, out=np.zeros_like(value), where=np.asarray(size) != 0)


def _strata(count: int, strata: Sequence[str] | None) -> list[np.ndarray]:
    """Which entries each stratum holds, in order of first appearance."""
    if strata is None:
        return [np.arange(count)]
    labels = np.asarray(strata)
    return [np.flatnonzero(labels == label) for label in dict.fromkeys(labels.tolist())]
