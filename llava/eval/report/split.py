"""Accuracy on the questions that a control answers wrongly ("hard") and on the others ("easy"), as VTC-Bench reports it.

Most questions of a benchmark can be answered from a smaller picture of the same cost; only the rest show what a method
keeps. Paper: https://arxiv.org/abs/2510.07143 (the control there is down-sampling; here any run will do).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from ..tasks.statistics import score_interval, total
from .compare import Answers


@dataclass(frozen=True)
class Part:
    """The questions of one side: how many, and the accuracy on them with its 95 % interval over pictures."""

    questions: int
    accuracy: float
    accuracy_interval: list[float]


@dataclass(frozen=True)
class Split:
    """A run's accuracy on both sides of the control that is the plan ``control``; None for a side without a question."""

    control: str
    hard: Part | None
    easy: Part | None


def split_answers(answers: Answers, control: Answers, plan: str) -> Split:
    """A run, or the seeds of one plan, split by what ``control``, the run of ``plan``, answers wrongly.

    Both must have been asked the same questions. Raises ValueError for a control of several seeds.
    """
    if len(control.correct) > 1:
        raise ValueError(
            f"--split-by {plan} has {len(control.correct)} seeds, which fail on different questions; give the folder of one"
        )
    (right,) = control.correct
    return Split(plan, _part(answers, ~right), _part(answers, right))


def _part(answers: Answers, chosen: np.ndarray) -> Part | None:
    if not chosen.any():
        return None
    runs = answers.accuracy_on(chosen)
    return Part(int(chosen.sum()), float(np.mean([total(run) for run in runs])), score_interval(runs))
