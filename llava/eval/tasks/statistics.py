"""Bootstrap intervals over pictures, paired tests of difference and of equivalence, and Holm correction.

Two runs that answered the same questions are compared question by question and picture by picture: what is hard for both
cancels, so a paired interval is far narrower than the two separate intervals suggest.

The bootstrap alone is too narrow for few pictures, and has no width at all where all pictures of a stratum score alike.
Four published corrections bring it to its nominal level:

- Each resample of a stratum of n pictures draws n - 1 of them, which makes the variance unbiased
  (Rao and Wu 1988, "Resampling inference with complex survey data", JASA 83).
- Strata of one picture are pooled (collapsed strata: Cochran 1977, "Sampling Techniques", 5A.12).
- A score with a largest and a smallest value has Wilson's interval at the effective sample size that the resampled variance
  gives, with Student's t (Korn and Graubard 1998, Survey Methodology 24); a score without these has percentiles that
  are widened by Student's t (Hesterberg 2015, "What teachers should know about the bootstrap", The American
  Statistician 69).
- A paired difference counts two pictures more, on which the runs differ by half of the largest difference in either
  direction (Agresti and Min 2005, Statistics in Medicine 24).
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray
from scipy.stats import binomtest, norm, t

RESAMPLES = 2000
DRAWS_PER_STEP = 2**22  # 32 MB of random numbers, whatever the size of the benchmark
LEVEL = 0.95
EQUIVALENCE_LEVEL = 0.9  # of the interval that two one-sided tests at 0.05 amount to
POWER = 0.8
INDISTINCT = "not distinguishable"
ROUNDING = 1e-9  # a bound this near to 0 is 0


@dataclass(frozen=True)
class Contributions:
    """What each picture contributes to a score: the sum over strata of (sum of values / sum of sizes).

    With ``value`` the right answers and ``size`` the questions of every picture the score is the accuracy. ``strata`` names
    each picture's stratum (default: one for all). ``limit``: the largest score that is possible, the smallest being 0; None
    for a score without one.
    """

    value: Sequence[float]
    size: Sequence[float]
    strata: Sequence[str] | None = None
    limit: float | None = None

    @cached_property
    def resamples(self) -> NDArray[np.float64]:
        """``resampled`` of these pictures, drawn once however many comparisons need it: (RESAMPLES,)."""
        return resampled(self)


def total(pictures: Contributions) -> float:
    """The score itself."""
    value, size = _arrays(pictures)
    return float(sum(_ratio(value[members].sum(), size[members].sum()) for members in _strata(pictures)))


def bootstrap(
    value: Sequence[float],
    size: Sequence[float],
    strata: Sequence[str] | None = None,
    limit: float | None = None,
    level: float = LEVEL,
) -> list[float]:
    """Interval of one score, [low, high]; the arguments are those of ``Contributions``."""
    return score_interval([Contributions(value, size, strata, limit)], level)


def score_interval(runs: Sequence[Contributions], level: float = LEVEL) -> list[float]:
    """Interval of the mean score of several runs over the same pictures: [low, high], which contains the mean."""
    score, limit = float(np.mean([total(run) for run in runs])), runs[0].limit
    totals, quantile = _mean_resampled(runs), _quantile(runs[0], level)
    if limit is None:
        return containing(score, percentiles(totals, float(norm.sf(quantile))))
    share, variance = min(1.0, max(0.0, score / limit)), float(totals.var()) / limit**2
    if share * (1 - share) > ROUNDING and variance > ROUNDING**2:
        trials = share * (1 - share) / variance
    else:  # all pictures score alike, and each of them is one trial
        trials = len(runs[0].value)
    return containing(score, [limit * min(1.0, max(0.0, bound)) for bound in _wilson(share, trials, quantile)])


def difference_interval(
    first: Sequence[Contributions], second: Sequence[Contributions], level: float = LEVEL
) -> list[float]:
    """Interval of the paired difference of two mean scores over the same pictures: [low, high], which contains it.

    Each side is one run or several seeds of one. All must have the same pictures in the same order.
    """
    difference, totals = _difference(first, second)
    quantile, limit = _quantile(first[0], level), first[0].limit
    if limit is None:
        return containing(difference, percentiles(totals, float(norm.sf(quantile))))
    share, error = _with_two_more(totals, len(first[0].value), limit)
    centre, spread = share * difference, quantile * error
    return containing(difference, [max(-limit, centre - spread), min(limit, centre + spread)])


def detectable_difference(
    first: Sequence[Contributions], second: Sequence[Contributions], level: float = LEVEL, power: float = POWER
) -> float:
    """The smallest true difference that ``difference_interval`` tells from 0 with a chance of ``power``.

    It follows from how many pictures there are and from how much the two runs differ on each of them, as measured: the
    distance from 0 at which the interval begins to exclude it, plus the quantile of the power times the standard
    error (Cohen 1988, "Statistical Power Analysis for the Behavioral Sciences", with Student's t for the normal). A
    smaller difference that was found all the same is probably an overestimate of the true one. Arguments are those of
    ``difference_interval``.
    """
    _, totals = _difference(first, second)
    limit, error = first[0].limit, float(totals.std())
    share, widened = (1.0, error) if limit is None else _with_two_more(totals, len(first[0].value), limit)
    threshold = _quantile(first[0], level) * widened / share
    return threshold + float(t.ppf(power, _freedom(first[0]))) * error


def equivalence_margin(first: Sequence[Contributions], second: Sequence[Contributions], questions: int) -> float:
    """The smallest margin within which two runs are shown to be equivalent; arguments as for ``difference_interval``.

    Paired TOST, two one-sided tests at 0.05 each (Schuirmann 1987, Journal of Pharmacokinetics and Biopharmaceutics 15): the
    runs are equivalent within a margin where the 90 % interval of their difference lies inside it. That interval is too
    narrow where only a few answers differ, so the variance is at least what independent answers have at the margin, as in a
    score test: of 200 ``questions`` that two runs answer alike, 2 may truly differ, and the margin is 1.3 %, not 0.
    With p the difference as a share of the largest score, this second bound is Wilson's for p out of ``questions``.
    """
    difference, _ = _difference(first, second)
    margin = max(map(abs, difference_interval(first, second, EQUIVALENCE_LEVEL)))
    limit, quantile = first[0].limit, _quantile(first[0], EQUIVALENCE_LEVEL)
    if limit is None:
        return margin
    return max(margin, limit * _wilson(min(1.0, abs(difference) / limit), questions, quantile)[1])


def mean_ratio(benchmarks: Sequence[tuple[Sequence[Contributions], Sequence[Contributions]]]) -> float:
    """The mean over benchmarks of (score of a run / score of the unreduced run), the "Rel." of the papers.

    Each benchmark is a pair of the two, either of which is one run or several seeds of it. Raises ValueError where an
    unreduced run scores 0.
    """
    return float(np.mean([_score_ratio(reduced, full)[0] for reduced, full in benchmarks]))


def ratio_interval(
    benchmarks: Sequence[tuple[Sequence[Contributions], Sequence[Contributions]]], level: float = LEVEL
) -> list[float]:
    """Interval of ``mean_ratio``: [low, high]. The two runs of a benchmark must have the same pictures in the same order.

    Pictures are resampled within each benchmark, the same ones for both runs, so that what is hard for both cancels. With r
    = s / f the resampled variance is that of (s - r f) / f, the ratio to first order (Cochran 1977, "Sampling Techniques",
    6.4), and counts two pictures more, as a paired difference does. Benchmarks are independent: their variances add,
    and Student's t has the degrees of freedom of Welch and Satterthwaite.
    """
    variances, freedoms = [], []
    for reduced, full in benchmarks:
        ratio, unreduced = _score_ratio(reduced, full)
        totals = _mean_resampled(reduced) - ratio * _mean_resampled(full)
        two_more = (full[0].limit or 0.0) / (len(full[0].value) + 2)
        variances.append((float(totals.var()) + two_more**2) / unreduced**2)
        freedoms.append(_freedom(full[0]))
    ratio, variance = mean_ratio(benchmarks), sum(variances)
    if not variance:
        return [ratio, ratio]
    freedom = variance**2 / sum(each**2 / count for each, count in zip(variances, freedoms, strict=True))
    spread = float(t.ppf((1 + level) / 2, freedom)) * math.sqrt(variance) / len(variances)
    return [max(0.0, ratio - spread), ratio + spread]


def resampled(pictures: Contributions, seed: int = 0) -> NDArray[np.float64]:
    """The scores of 2,000 resamples: (RESAMPLES,). Their variance is that of the score, without bias.

    The draws depend on the strata and ``seed`` alone, so that the scores of two runs over the same pictures are pairs.
    """
    value, size = _arrays(pictures)
    strata = _strata(pictures)
    rng, totals = np.random.default_rng(seed), np.zeros(RESAMPLES)
    for members in (members for members in strata if len(members) > 1):
        for part, drawn in _draws(rng, members, len(members) - 1):
            totals[part] += _ratio(value[drawn].sum(axis=1), size[drawn].sum(axis=1))
    single = np.array([members[0] for members in strata if len(members) == 1], dtype=int)
    ratios = _ratio(value, size)
    # A single stratum of one picture borrows the spread of all pictures.
    pool = single if len(single) > 1 else np.arange(len(value))
    totals += ratios[single].sum()
    if len(single) and len(pool) > 1:
        widened, centre = math.sqrt(len(pool) / (len(pool) - 1)), ratios[pool].mean()
        for part, drawn in _draws(rng, pool, len(single)):
            totals[part] += widened * (ratios[drawn] - centre).sum(axis=1)
    return totals


def percentiles(totals: NDArray[np.float64], tail: float = (1 - LEVEL) / 2) -> list[float]:
    """[low, high]: the share ``tail`` of the totals lies below, and as much above."""
    return [float(bound) for bound in np.quantile(totals, [tail, 1 - tail])]


def containing(estimate: float, interval: Sequence[float]) -> list[float]:
    """The interval, widened to its estimate where rounding left that outside."""
    low, high = interval
    return [min(low, estimate), max(high, estimate)]


def mcnemar(first: Sequence[bool], second: Sequence[bool]) -> float:
    """Two-sided exact p of McNemar's test that two runs are right equally often; not the mid-p, so never too small.

    ``first`` and ``second`` say of the same questions whether each was right. Only the questions that exactly one run
    got right count: under the null hypothesis they are tosses of a coin. 1 where there is none. Questions of one
    picture are taken as independent, which the bootstrap over pictures does not assume. Raises ValueError for different
    numbers of questions.
    """
    first_right, second_right = np.asarray(first, dtype=bool), np.asarray(second, dtype=bool)
    if first_right.shape != second_right.shape:
        raise ValueError(
            f"second={second_right.shape} and first={first_right.shape} must be answers to the same questions"
        )
    only_first, only_second = int((first_right & ~second_right).sum()), int((second_right & ~first_right).sum())
    discordant = only_first + only_second
    return float(binomtest(only_first, discordant, 0.5).pvalue) if discordant else 1.0


def holm(p: Sequence[float]) -> list[float]:
    """The p values after Holm's correction: each may be compared with 0.05 however many there are."""
    order, corrected, largest = np.argsort(p, kind="stable"), [0.0] * len(p), 0.0
    for rank, index in enumerate(order):
        largest = max(largest, min(1.0, (len(p) - rank) * float(p[index])))
        corrected[index] = largest
    return corrected


def verdict(interval: Sequence[float]) -> str:
    """``better``, ``worse``, or ``not distinguishable`` where the interval of a difference contains 0."""
    low, high = interval
    if low <= ROUNDING and high >= -ROUNDING:
        return INDISTINCT
    return "better" if low > 0 else "worse"


def _wilson(share: float, trials: float, quantile: float) -> tuple[float, float]:
    """Wilson's score interval of a share (Wilson 1927, "Probable inference", JASA 22)."""
    excess = quantile**2 / trials
    centre = (share + excess / 2) / (1 + excess)
    spread = math.sqrt(excess * (share * (1 - share) + excess / 4)) / (1 + excess)
    return centre - spread, centre + spread


def _difference(first: Sequence[Contributions], second: Sequence[Contributions]) -> tuple[float, NDArray[np.float64]]:
    """The difference of two mean scores over the same pictures, and those of the resamples: (RESAMPLES,)."""
    difference = np.mean([total(run) for run in first]) - np.mean([total(run) for run in second])
    return float(difference), _mean_resampled(first) - _mean_resampled(second)


def _with_two_more(totals: NDArray[np.float64], pictures: int, limit: float) -> tuple[float, float]:
    """What counting two more pictures, which differ by ``limit`` either way, does to a difference and its error.

    Returns the share of the difference that is left, and its standard error.
    """
    share = pictures / (pictures + 2)
    return share, math.sqrt(share**2 * float(totals.var()) + (limit / (pictures + 2)) ** 2)


def _score_ratio(reduced: Sequence[Contributions], full: Sequence[Contributions]) -> tuple[float, float]:
    """The ratio of two mean scores, and the second of them."""
    unreduced = float(np.mean([total(run) for run in full]))
    if unreduced == 0:
        raise ValueError("the unreduced run scores 0, so that nothing can be a share of its score; give another model")
    return float(np.mean([total(run) for run in reduced])) / unreduced, unreduced


def _quantile(pictures: Contributions, level: float) -> float:
    """Student's t for the pictures' degrees of freedom."""
    return float(t.ppf((1 + level) / 2, _freedom(pictures)))


def _freedom(pictures: Contributions) -> int:
    """Degrees of freedom: one less than the pictures of each stratum, those of one picture together; at least 1."""
    strata = _strata(pictures)
    single = sum(len(members) == 1 for members in strata)
    return max(1, len(pictures.value) - (len(strata) - single) - min(1, single))


def _mean_resampled(runs: Sequence[Contributions]) -> NDArray[np.float64]:
    return np.mean([run.resamples for run in runs], axis=0)


def _draws(rng: np.random.Generator, members: NDArray[np.int_], count: int) -> Iterator[tuple[slice, NDArray[np.int_]]]:
    """Slices of the resamples, each with ``count`` of the members drawn with replacement: (resamples, count)."""
    step = max(1, DRAWS_PER_STEP // count)
    for start in range(0, RESAMPLES, step):
        part = slice(start, min(start + step, RESAMPLES))
        yield part, rng.choice(members, size=(part.stop - start, count))


def _arrays(pictures: Contributions) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    return np.asarray(pictures.value, dtype=float), np.asarray(pictures.size, dtype=float)


def _ratio(value: NDArray[np.float64], size: NDArray[np.float64]) -> NDArray[np.float64]:
    """Their ratio; 0 where there is nothing to divide by, as with the F1 of a resample without a yes."""
    return np.divide(value, size, out=np.zeros_like(value), where=np.asarray(size) != 0)


def _strata(pictures: Contributions) -> list[NDArray[np.int_]]:
    """Which pictures each stratum holds, in order of first appearance."""
    if pictures.strata is None:
        return [np.arange(len(pictures.value))]
    labels = np.asarray(pictures.strata)
    return [np.flatnonzero(labels == label) for label in dict.fromkeys(labels.tolist())]
