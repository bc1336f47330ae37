"""Intervals, exact tests and corrections, against numbers worked out by hand and the coverage that they promise."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
from numpy.typing import NDArray

from llava.eval.tasks import statistics
from llava.eval.tasks.statistics import (
    Contributions,
    bootstrap,
    containing,
    difference_interval,
    holm,
    mcnemar,
    percentiles,
    resampled,
    score_interval,
    total,
    verdict,
)


def test_total_adds_the_ratios_of_the_strata():
    """Stratum a: (1 + 2) / (2 + 2) = 0.75; b: 3 / 1 = 3; c has nothing to divide by and adds nothing."""
    assert total(Contributions([1, 3, 2, 5], [2, 1, 2, 0], ["a", "b", "a", "c"])) == 3.75
    assert total(Contributions([1, 2], [2, 2])) == 0.75


def test_draws_in_small_steps_are_the_same_draws(monkeypatch):
    pictures = Contributions(np.arange(30.0), np.ones(30), ["a"] * 10 + ["b"] * 18 + ["c", "d"])
    in_one_step = resampled(pictures)
    monkeypatch.setattr(statistics, "DRAWS_PER_STEP", 100)
    assert np.array_equal(resampled(pictures), in_one_step)


def test_resamples_have_the_variance_of_the_score_without_bias():
    """Two strata of 4 and 2 pictures: the sum of s^2 / n, s^2 with n - 1 below; two single ones: twice their s^2."""
    value = np.array([0, 4, 8, 0, 1, 5, 3, 9], dtype=float)
    variance = value[:4].var(ddof=1) / 4 + value[4:6].var(ddof=1) / 2 + 2 * value[6:].var(ddof=1)
    pictures = Contributions(value, np.ones(8), ["a"] * 4 + ["b"] * 2 + ["c", "d"])
    assert resampled(pictures).var() == pytest.approx(variance, rel=0.07)
    assert resampled(pictures).mean() == pytest.approx(total(pictures), abs=0.2)


def test_a_single_stratum_of_one_picture_borrows_the_spread_of_all():
    value = np.array([0, 4, 8, 0, 3], dtype=float)
    totals = resampled(Contributions(value, np.ones(5), ["a"] * 4 + ["b"]))
    assert totals.var() == pytest.approx(value[:4].var(ddof=1) / 4 + value.var(ddof=1), rel=0.07)


def test_a_share_has_wilsons_interval():
    """90 of 100 pictures right: with t(99) = 1.984 Wilson gives [0.8247, 0.9451]; at 90 % it would be [0.8405, 0.9390]."""
    low, high = bootstrap([1] * 90 + [0] * 10, [1] * 100, limit=1)
    assert low == pytest.approx(0.8247, abs=0.004) and high == pytest.approx(0.9451, abs=0.002)


def test_a_score_without_a_limit_has_percentiles_widened_by_students_t():
    """Ten normal scores of mean 0: t(9) = 2.262 standard errors to both sides; the normal quantile would be 13 % narrower."""
    value = np.random.default_rng(3).normal(size=10)
    error = value.std(ddof=1) / np.sqrt(10)
    low, high = bootstrap(value, np.ones(10))
    assert (high - low) / error == pytest.approx(2 * 2.262, rel=0.06)


def test_intervals_are_deterministic():
    value = np.random.default_rng(1).integers(0, 3, 40)
    assert bootstrap(value, [2] * 40) == bootstrap(value, [2] * 40)


def test_percentiles_leave_a_fortieth_out_at_either_end():
    assert percentiles(np.arange(401.0)) == pytest.approx([10, 390])


def test_a_paired_difference_is_narrower_than_two_separate_intervals():
    """Both runs fail where the questions are hard; the second has 10 of 200 more right and none fewer.

    Two more pictures make the difference 10 / 202 = 0.0495 and its standard error
    sqrt((0.05 * 0.95 / 199) * (200 / 202)^2 + 1 / 202^2) = 0.0161, so the interval is 0.0495 +- 0.0317 with t(199) = 1.972,
    while each run's own is +- 0.069.
    """
    hard = np.arange(200) % 2 == 0
    first, second = (~hard).astype(float), (~hard).astype(float)
    second[np.flatnonzero(hard)[:10]] = 1
    pictures = [Contributions(value, np.ones(200), limit=1) for value in (first, second)]
    low, high = difference_interval(pictures[1:], pictures[:1])
    assert low == pytest.approx(0.0178, abs=0.002) and high == pytest.approx(0.0812, abs=0.002)
    own = score_interval(pictures[1:])
    assert own[1] - own[0] > 2 * (high - low)


STRATA = {"one each": [f"{number}" for number in range(8)], "one for all": ["all"] * 8, "lone": ["a"] * 7 + ["b"]}


@pytest.mark.parametrize("strata", STRATA.values(), ids=STRATA)
@pytest.mark.parametrize("value", [[1.0] * 8, [0.0] * 8, [0.5] * 8, [1.0] * 7 + [0.0]])
def test_no_interval_of_few_pictures_has_zero_width(strata, value):
    """Eight pictures leave at least a tenth of the score open, however they score; so does the difference of equal runs."""
    pictures = Contributions(value, [1.0] * 8, strata, limit=float(len(set(strata))))
    low, high = score_interval([pictures])
    assert 0 <= low <= total(pictures) <= high <= pictures.limit and high - low > 0.1 * pictures.limit
    low, high = difference_interval([pictures], [pictures])
    assert low < -0.1 * pictures.limit and high > 0.1 * pictures.limit and verdict([low, high]) == "not distinguishable"


@pytest.mark.parametrize("count", [3, 7, 10, 30, 90])
def test_an_interval_contains_its_score(count):
    """Thirds that add up to 100.00000000000003, as the mean F1 of three categories does."""
    value, size, strata = [100 / 3 * 2] * 3 * count, [2.0] * 3 * count, ["a", "b", "c"] * count
    pictures = Contributions(value, size, strata, limit=100.0)
    low, high = score_interval([pictures])
    assert low <= total(pictures) <= high
    low, high = bootstrap(value, size, strata)
    assert low <= total(pictures) <= high
    assert containing(1.0, [1.5, 2.0]) == [1.0, 2.0] and containing(3.0, [1.5, 2.0]) == [1.5, 3.0]


def test_one_picture_alone_tells_next_to_nothing():
    low, high = bootstrap([1.0], [1.0], limit=1)
    assert low < 0.05 and high == 1


# Coverage: of many samples from a known population, the share whose interval contains the truth.

SAMPLES = 250
SCORES = np.array([0.0, 50.0, 200.0])  # a picture of MME with none, one and both of its two answers right


def covered(sample: Callable[[np.random.Generator], tuple[list[float], float]]) -> float:
    """The share of the samples whose interval contains the truth; ``sample`` gives an interval and the truth."""
    rng = np.random.default_rng(0)
    drawn = [sample(rng) for _ in range(SAMPLES)]
    return float(np.mean([low <= truth <= high for (low, high), truth in drawn]))


def chances(accuracy: NDArray[np.float64]) -> NDArray[np.float64]:
    """Of none, one and both answers right, the two correlated by 0.3: (..., 3)."""
    both = accuracy**2 + 0.3 * accuracy * (1 - accuracy)
    return np.stack([1 - 2 * accuracy + both, 2 * (accuracy - both), both], axis=-1)


@pytest.mark.parametrize("accuracy", [0.6, 0.85, 0.97])
@pytest.mark.parametrize("pictures", [1, 2, 5, 25])
def test_coverage_of_mmes_score(monkeypatch, pictures, accuracy):
    """14 subtasks of different difficulty: at least 0.92 of 250 intervals contain the score (0.93 less chance).

    The uncorrected percentile bootstrap covers 0, 0.8, 0.89 and 0.94 of them with 1, 2, 5 and 25 pictures a subtask.
    """
    monkeypatch.setattr(statistics, "RESAMPLES", 400)
    subtasks = chances(np.clip(accuracy + np.linspace(-0.1, 0.1, 14), None, 0.99))
    strata = np.repeat(np.arange(14), pictures).astype(str)

    def sample(rng: np.random.Generator) -> tuple[list[float], float]:
        value = np.concatenate([SCORES[rng.choice(3, pictures, p=subtask)] for subtask in subtasks])
        return bootstrap(value, np.ones(len(value)), strata, limit=2800), float((subtasks @ SCORES).sum())

    assert covered(sample) >= 0.92


@pytest.mark.parametrize(("subtasks", "pictures"), [(14, 1), (14, 5), (1, 10), (1, 100)])
def test_coverage_of_a_paired_difference(monkeypatch, subtasks, pictures):
    """The second run loses 5 % of the first's right answers and gains 5 % of its wrong ones."""
    monkeypatch.setattr(statistics, "RESAMPLES", 400)
    strata = np.repeat(np.arange(subtasks), pictures).astype(str)

    def scores(right: NDArray[np.bool_]) -> NDArray[np.float64]:
        return SCORES[right.sum(axis=-1)]

    def runs(rng: np.random.Generator, count: int) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        first = rng.random((count, 2)) < 0.85
        change = rng.random((count, 2)) < 0.05
        return scores(first), scores(first ^ change)

    large = runs(np.random.default_rng(1), 10**6)
    truth = subtasks * float(np.mean(large[1] - large[0]))

    def sample(rng: np.random.Generator) -> tuple[list[float], float]:
        first, second = (
            Contributions(value, np.ones(len(value)), strata, limit=200.0 * subtasks)
            for value in runs(rng, subtasks * pictures)
        )
        return difference_interval([second], [first]), truth

    assert covered(sample) >= 0.93


def test_mcnemar_counts_the_questions_that_one_run_alone_had_right():
    """One against five: 2 * (C(6, 0) + C(6, 1)) / 2^6 = 14 / 64; what both or neither had right changes nothing."""
    first = [True] + [False] * 5 + [True, False] * 10
    second = [False] + [True] * 5 + [True, False] * 10
    assert mcnemar(first, second) == pytest.approx(14 / 64)
    assert mcnemar(second, first) == mcnemar(first, second)
    assert mcnemar(first, first) == 1


def test_mcnemar_refuses_other_questions():
    with pytest.raises(ValueError, match=r"second=\(2,\) and first=\(1,\)"):
        mcnemar([True], [True, False])


def test_holm_by_hand():
    """Sorted 0.01, 0.03, 0.04: times 3, 2, 1 gives 0.03, 0.06, 0.04, and none may be below the one before."""
    assert holm([0.01, 0.04, 0.03]) == pytest.approx([0.03, 0.06, 0.06])
    assert holm([0.9, 0.8]) == [1, 1]
    assert holm([]) == []


@pytest.mark.parametrize(
    ("interval", "word"),
    [
        ([1, 2], "better"),
        ([-2, -1], "worse"),
        ([-1, 2], "not distinguishable"),
        ([0, 3], "not distinguishable"),
        ([-3, 1e-13], "not distinguishable"),
        ([0, 0], "not distinguishable"),
    ],
)
def test_verdict(interval, word):
    assert verdict(interval) == word
