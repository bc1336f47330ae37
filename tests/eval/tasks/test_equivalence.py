"""Detectable differences, equivalence and ratios: by hand, against scipy, and by how often they are right."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy.stats import ttest_1samp

from llava.eval.tasks import statistics
from llava.eval.tasks.statistics import (
    Contributions,
    detectable_difference,
    difference_interval,
    equivalence_margin,
    mean_ratio,
    ratio_interval,
)

Pair = tuple[list[Contributions], list[Contributions]]


def pictures(value: NDArray[np.float64], limit: float | None = 1.0) -> list[Contributions]:
    """One run, one question a picture."""
    return [Contributions(value, np.ones(len(value)), limit=limit)]


def answers(rng: np.random.Generator, count: int, right: float, lost: float, gained: float) -> Pair:
    """A reduced run that loses and gains answers of the unreduced one at these rates, and that."""
    full, change = rng.random(count) < right, rng.random(count)
    reduced = np.where(full, change >= lost, change < gained)
    return pictures(reduced.astype(float)), pictures(full.astype(float))


def eight_of_400() -> Pair:
    """400 pictures on eight of which two runs differ, four in favour of either."""
    first = np.repeat([1.0, 0.0], 200)
    second = first.copy()
    second[[0, 1, 2, 3]], second[[396, 397, 398, 399]] = 0, 1
    return pictures(first), pictures(second)


def test_equivalence_by_hand():
    """Of 400 pictures the runs differ on 8, by nothing on average: s^2 = 8 / 399, so s / sqrt(400) = 0.00708.

    With two pictures more the standard error is sqrt((400 / 402 * 0.00708)^2 + (1 / 402)^2) = 0.00747, and t(399) = 1.649 at
    0.95 makes the 90 % interval +- 0.0123: equivalent within 1.3 points.
    """
    assert equivalence_margin(*eight_of_400(), questions=400) == pytest.approx(0.0123, abs=3e-4)


def test_equal_answers_to_few_questions_prove_little():
    """400 questions all alike: Wilson's bound of 0 of 400 is t^2 / (400 + t^2) = 2.718 / 402.7, 0.67 points."""
    first, _ = eight_of_400()
    assert equivalence_margin(first, first, questions=400) == pytest.approx(1.6487**2 / (400 + 1.6487**2), rel=1e-3)
    fewer = pictures(np.ones(100))
    assert equivalence_margin(fewer, fewer, questions=100) > 0.026
    unlimited = pictures(np.ones(100), limit=None)
    assert equivalence_margin(unlimited, unlimited, questions=100) == 0


def test_equivalence_agrees_with_two_one_sided_t_tests():
    """scipy's paired t tests against either margin; samples whose p lies near 0.05 may fall either way and are left out."""
    rng, verdicts = np.random.default_rng(0), []
    for _ in range(60):
        first, second = answers(rng, 500, right=0.8, lost=rng.uniform(0.02, 0.06), gained=rng.uniform(0.05, 0.2))
        differences = np.asarray(first[0].value) - np.asarray(second[0].value)
        p = max(
            ttest_1samp(differences, -0.03, alternative="greater").pvalue,
            ttest_1samp(differences, 0.03, alternative="less").pvalue,
        )
        if not 0.03 < p < 0.07:
            equivalent = equivalence_margin(first, second, questions=500) < 0.03
            assert equivalent == (p < 0.05), p
            verdicts.append(equivalent)
    assert 10 < sum(verdicts) < len(verdicts) - 10


@pytest.mark.parametrize("count", [100, 400])
@pytest.mark.parametrize(("lost", "gained"), [(0.03, 0.0), (0.06, 0.12)])
def test_runs_that_differ_by_the_margin_are_rarely_called_equivalent(monkeypatch, count, lost, gained):
    """The true difference is 2.4 points: of 400 samples at most 5 % and chance, 0.075, are called equivalent within that."""
    monkeypatch.setattr(statistics, "RESAMPLES", 400)
    rng = np.random.default_rng(0)
    pairs = (answers(rng, count, right=0.8, lost=lost, gained=gained) for _ in range(400))
    margin = abs(0.8 * lost - 0.2 * gained)
    passed = [equivalence_margin(*pair, questions=count) < margin for pair in pairs]
    assert np.mean(passed) <= 0.075


def test_the_detectable_difference_by_hand():
    """As above: t(399) = 1.966 at 0.975 times 0.00747 * 402 / 400, and t(399) = 0.843 at 0.8 times 0.00708: 0.0207."""
    assert detectable_difference(*eight_of_400()) == pytest.approx(0.0207, abs=5e-4)
    first, second = eight_of_400()
    unlimited = [pictures(np.asarray(run[0].value), limit=None) for run in (first, second)]
    assert detectable_difference(*unlimited) == pytest.approx((1.966 + 0.843) * 0.00708, abs=5e-4)


def test_equal_runs_still_have_a_detectable_difference():
    """Nothing but the two pictures more: 1 / 402 of them, 1.966 times, over 400 / 402."""
    first, _ = eight_of_400()
    assert detectable_difference(first, first) == pytest.approx(1.966 / 400, abs=1e-4)


def test_the_detectable_difference_is_detected_four_times_of_five(monkeypatch):
    """Runs that differ on 10 % of 300 pictures; then runs that truly differ by as much as was called detectable there."""
    monkeypatch.setattr(statistics, "RESAMPLES", 400)
    rng = np.random.default_rng(0)
    sizes = [detectable_difference(*answers(rng, 300, right=0.5, lost=0.15, gained=0.05), power=0.8) for _ in range(20)]
    size = float(np.mean(sizes))
    rates = {"lost": 0.1 + size, "gained": 0.1 - size}  # half of the pictures each, so they differ by the size
    found = []
    for _ in range(300):
        low, high = difference_interval(*answers(rng, 300, right=0.5, **rates))
        found.append(low > 0 or high < 0)
    assert 0.73 <= np.mean(found) <= 0.87


# ------------------------------------------------------------------------------------------------------------- ratios


def test_the_mean_of_ratios_by_hand():
    """30 of 40 against 36 of 40, and 9 of 20 against 10 of 20: (0.8333 + 0.9) / 2."""

    def run(right: int, count: int) -> list[Contributions]:
        return pictures(np.repeat([1.0, 0.0], [right, count - right]))

    benchmarks = [(run(30, 40), run(36, 40)), (run(9, 20), run(10, 20))]
    assert mean_ratio(benchmarks) == pytest.approx((30 / 36 + 9 / 10) / 2)
    low, high = ratio_interval(benchmarks)
    assert low < mean_ratio(benchmarks) < high
    assert ratio_interval(benchmarks, level=0.5)[0] > low


def test_the_variance_of_a_ratio_by_hand():
    """Without a limit: r = 0.8, and s - r f is 0 on 80 pictures, -0.8 on the 20 lost, so its error is 0.8 * 0.4 / sqrt(99)."""
    full, reduced = np.ones(100), np.repeat([1.0, 0.0], [80, 20])
    low, high = ratio_interval([(pictures(reduced, None), pictures(full, None))])
    error = np.std(reduced - 0.8 * full) / np.sqrt(99)
    assert (high - low) / 2 == pytest.approx(1.984 * error, rel=0.06)


def test_a_ratio_of_equal_runs_is_one_and_certain_only_without_a_limit():
    value = np.repeat([1.0, 0.0], [90, 10])
    assert ratio_interval([(pictures(value, None), pictures(value, None))]) == [1.0, 1.0]
    low, high = ratio_interval([(pictures(value), pictures(value))])
    assert low == pytest.approx(1 - 1.984 / 102 / 0.9, abs=1e-3) and high == pytest.approx(2 - low)


def test_an_unreduced_run_without_a_right_answer_has_no_ratio():
    zero = pictures(np.zeros(4))
    with pytest.raises(ValueError, match="scores 0"):
        mean_ratio([(zero, zero)])


@pytest.mark.parametrize("counts", [(400, 200, 100), (40, 20, 10), (10,)], ids=str)
def test_coverage_of_the_mean_of_ratios(monkeypatch, counts):
    """Benchmarks of different size and difficulty: at least 0.93 of 300 intervals contain the true mean of ratios."""
    monkeypatch.setattr(statistics, "RESAMPLES", 400)
    rates = [dict(right=0.85, lost=0.1, gained=0.2), dict(right=0.6, lost=0.2, gained=0.1)]
    rates += [dict(right=0.7, lost=0.3, gained=0.0)]
    truth = np.mean([1 - one["lost"] + (1 / one["right"] - 1) * one["gained"] for one in rates[: len(counts)]])
    rng, covered = np.random.default_rng(0), []
    for _ in range(300):
        low, high = ratio_interval([answers(rng, count, **one) for count, one in zip(counts, rates)])
        covered.append(low <= truth <= high)
    assert np.mean(covered) >= 0.93
