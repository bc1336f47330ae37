"""Which methods may be the best: those that an interval for the best method, at 95 %, does not exclude.

Comparing every method with the one that happened to score best ignores that the best was chosen by its score. Here a
method is excluded where the largest of its paired deficits against all others, each in units of its standard error, is
larger than what resampling gives where all are equal (multiple comparisons with the best: Hsu 1996, "Multiple
Comparisons", chapter 4; by bootstrap over pictures). The truly best method is among the others with a chance of 95 %.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from scipy.stats import t

from ..report.compare import Answers, obstacle
from ..tasks.statistics import LEVEL, Contributions, total


def contributions(answers: Answers) -> list[Contributions]:
    """What the score is made of, one for each seed; the accuracy's where the score is no sum over pictures."""
    return answers.score or answers.accuracy


def resampled_scores(runs: Sequence[Answers]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Scores (methods,) and those of the resamples (methods, RESAMPLES), the same pictures drawn for all."""
    parts = [contributions(run) for run in runs]
    scores = np.array([sum(map(total, seeds)) / len(seeds) for seeds in parts])
    return scores, np.stack([np.mean([each.resamples for each in seeds], axis=0) for seeds in parts])


def contenders(runs: Sequence[Answers], level: float = LEVEL) -> list[bool]:
    """For each method whether it may be the best. All must have been asked the same; ``comparable`` picks such runs.

    The variance of a difference counts two pictures more, on which the two differ by the largest score either way, so that
    equal answers of few pictures do not count as certain.
    """
    if len(runs) < 2:
        return [True] * len(runs)
    scores, resamples = resampled_scores(runs)
    first = contributions(runs[0])[0]
    floor = ((first.limit or 0.0) / (len(first.value) + 2)) ** 2
    single = float(t.ppf(level, max(1, len(first.value) - 1)))  # for one comparison, where resamples do not spread
    centred = resamples - scores[:, None]
    possible = []
    for index in range(len(runs)):
        deficits = centred - centred[index]  # (methods, RESAMPLES), of chance alone
        error = np.sqrt(deficits.var(axis=1) + floor)
        error[index] = np.inf  # a method has no deficit against itself
        largest = ((scores - scores[index]) / error).max()
        threshold = max(single, float(np.quantile((deficits / error[:, None]).max(axis=0), level)))
        possible.append(bool(largest <= threshold))
    return possible


def comparable(runs: Sequence[Answers | None]) -> list[int]:
    """The indices of the runs that were asked what most of them were: only those can be compared with one another."""
    groups: list[list[int]] = []
    for index, run in enumerate(runs):
        if run is None:
            continue
        for group in groups:
            other = runs[group[0]]
            if other is not None and obstacle(run, other) is None and bool(run.score) == bool(other.score):
                group.append(index)
                break
        else:
            groups.append([index])
    return max(groups, key=len, default=[])
