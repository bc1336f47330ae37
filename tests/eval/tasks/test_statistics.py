"""Intervals, exact tests and corrections, against numbers worked out by hand and the width that theory gives."""

from __future__ import annotations

import numpy as np
import pytest

from llava.eval.tasks import statistics
from llava.eval.tasks.statistics import bootstrap, holm, mcnemar, percentiles, resampled, total, verdict


def test_total_adds_the_ratios_of_the_strata():
    """Stratum a: (1 + 2) / (2 + 2) = 0.75; b: 3 / 1 = 3; c has nothing to divide by and adds nothing."""
    assert total([1, 3, 2, 5], [2, 1, 2, 0], ["a", "b", "a", "c"]) == 3.75
    assert total([1, 2], [2, 2]) == 0.75


def test_draws_in_small_portions_are_the_same_draws(monkeypatch):
    value, strata = np.arange(30.0), ["a"] * 11 + ["b"] * 19
    at_once = bootstrap(value, np.ones(30), strata)
    monkeypatch.setattr(statistics, "AT_ONCE", 100)
    assert bootstrap(value, np.ones(30), strata) == at_once


def test_a_paired_difference_is_narrower_than_two_intervals_suggest():
    """Both runs fail where the questions are hard; the second has 10 of 200 more right and none less.

    The difference of one draw of 200 is binomial around 10 with deviation sqrt(200 * 0.05 * 0.95) = 3.1, so the interval is
    0.05 +- 0.030, while each run's own is +- 0.069.
    """
    hard = np.arange(200) % 2 == 0
    first, second = (~hard).astype(float), (~hard).astype(float)
    second[np.flatnonzero(hard)[:10]] = 1
    ones = np.ones(200)
    low, high = percentiles(resampled(second, ones) - resampled(first, ones))
    assert low == pytest.approx(0.02, abs=0.006) and high == pytest.approx(0.08, abs=0.006)
    own = bootstrap(second, ones)
    assert own[1] - own[0] > 2 * (high - low)


def test_mcnemar_counts_the_questions_that_one_alone_had_right():
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
