"""Which methods may be the best, and whether rankings agree."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from scipy.stats import kendalltau

from llava.eval.leaderboard.agreement import agreements, kendall_tau, rank_correlation
from llava.eval.leaderboard.contenders import comparable, contenders
from llava.eval.report.compare import SETTINGS, Answers
from llava.eval.tasks.statistics import Contributions


def run(right: np.ndarray, asked: str = "these") -> Answers:
    """The answers of a run to one question of each picture."""
    scores = [Contributions((100.0 * right).tolist(), [1.0] * len(right), limit=100.0)]
    accuracy = [Contributions(right.astype(float).tolist(), [1.0] * len(right), limit=1.0)]
    pictures = np.arange(len(right)).astype(str)
    return Answers(asked, (None,) * len(SETTINGS), right[None].astype(bool), pictures, accuracy, scores, 1.0, {})


def drawn(shares, pictures: int = 200, seed: int = 0) -> list[Answers]:
    """Runs that are right so often, questions hard for one being hard for all."""
    rng = np.random.default_rng(seed)
    hardness = rng.random(pictures)
    return [run(0.5 * hardness + 0.5 * rng.random(pictures) < share) for share in shares]


def test_equals_may_all_be_best_and_the_far_behind_may_not():
    runs = drawn([0.7, 0.7, 0.68, 0.4])
    assert contenders(runs) == [True, True, True, False]
    assert contenders([runs[0], runs[0]]) == [True, True]
    assert contenders(runs[:1]) == [True] and contenders([]) == []


def test_the_one_that_is_clearly_best_stands_alone():
    assert contenders(drawn([0.9, 0.5, 0.45])) == [True, False, False]


def test_two_pictures_decide_nothing():
    assert contenders([run(np.array([1, 1])), run(np.array([0, 0]))]) == [True, True]


def test_the_best_is_among_them_nineteen_times_of_twenty():
    """Of six, one truly best by a point: it is left out in at most one of twenty samples, by chance two of forty."""
    left_out = sum(not contenders(drawn([0.6, 0.59, 0.59, 0.59, 0.59, 0.59], seed=seed))[0] for seed in range(40))
    assert left_out <= 4


def test_runs_that_were_asked_something_else_are_not_compared():
    ones, other = drawn([0.5, 0.6]), run(np.ones(200), asked="others")
    assert comparable([ones[0], None, other, ones[1]]) == [0, 3]
    assert comparable([None]) == []
    assert comparable([ones[0], replace(ones[1], score=[])]) == [0]


def test_tau_is_scipys():
    rng = np.random.default_rng(0)
    for _ in range(20):
        first, second = rng.integers(6, size=(2, 12)).astype(float)
        assert kendall_tau(first, second) == pytest.approx(kendalltau(first, second)[0], nan_ok=True)
    assert np.isnan(kendall_tau(np.ones(5), np.arange(5.0)))


def test_a_correlation_has_an_interval_that_chance_widens():
    scores = np.linspace(50, 90, 20)
    still, shaken = (scores[:, None] + np.random.default_rng(0).normal(size=(20, 500)) * noise for noise in (0.01, 9))
    tau, (low, high), attainable = rank_correlation((scores, still), (scores, still))
    assert tau == 1.0 and low > 0.95 and high == 1.0 and attainable > 0.99
    other = scores + np.random.default_rng(1).normal(size=20) * 8
    widths = []
    for resamples in (still, shaken):
        tau, (low, high), _ = rank_correlation((scores, resamples), (other, resamples + (other - scores)[:, None]))
        assert 0.5 < tau < 0.9 and low < tau < high
        widths.append(high - low)
    assert widths[1] > 1.1 * widths[0] > 0.1
    assert rank_correlation((scores, still), (-scores, -still))[0] == -1.0
    assert rank_correlation((np.ones(20), still), (scores, still)) is None


def test_what_two_equal_rankings_would_show_is_told():
    """Two samples of one truth, whose noise is half of what methods differ by: the tau found is near the attainable one."""
    rng = np.random.default_rng(0)
    found, told = [], []
    for _ in range(20):
        truth = rng.normal(size=40) * 4
        sides = [
            (scores := truth + rng.normal(size=40) * 2, scores[:, None] + rng.normal(size=(40, 50)) * 2) for _ in "ab"
        ]
        tau, _, attainable = rank_correlation(*sides)
        found.append(tau)
        told.append(attainable)
    assert 0.4 < np.mean(found) < 0.8 and np.mean(told) == pytest.approx(np.mean(found), abs=0.08)


def test_models_are_compared_on_a_task_tasks_on_a_model_and_means_on_both():
    names = [f"method {number}" for number in range(6)]
    shares = np.linspace(0.3, 0.9, 6)
    ranked = {
        ("shapes", "mme", 64): dict(zip(names, drawn(shares, seed=1))),
        ("things", "mme", 64): dict(zip(names, drawn(shares, seed=2))),
        ("shapes", "pope", 64): dict(zip(names, drawn(shares[::-1], seed=3))),
        ("shapes", "mme", 16): dict(zip(names[:4], drawn(shares[:4], seed=4))),
        ("things", "mme", 16): dict(zip(names[:4], drawn(shares[:4], seed=5))),
        ("shapes", "pope", 192): dict(zip(names, drawn(shares, seed=6))),
    }
    means, models, tasks = agreements(ranked)
    assert (means.between, means.within, means.mean) == ("means", "shapes on pope", None)
    assert (means.first, means.second) == ("192 tokens", "64 tokens") and means.tau < -0.6
    assert (models.between, models.within, models.first, models.second) == ("models", "mme", "shapes", "things")
    assert (tasks.between, tasks.within, tasks.first, tasks.second) == ("tasks", "shapes", "mme", "pope")
    assert models.tau > 0.6 and tasks.tau < -0.6 and models.methods == tasks.methods == 6
    assert models.interval[0] <= models.tau <= models.interval[1] <= 1


def test_one_scores_ranking_agrees_with_itself_more_surely_on_the_same_pictures():
    rng = np.random.default_rng(5)
    scores = rng.normal(size=12)
    side = scores, scores[:, None] + rng.normal(size=(12, 400))
    together, apart = (rank_correlation(side, side, same) for same in (True, False))
    assert together[0] == apart[0] == 1.0 and together[1][0] > apart[1][0]
