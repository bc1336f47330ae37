"""Paired comparison of two runs over the same questions, and the reasons why two runs cannot be compared.

Runs are compared only where they were asked the same questions, in the same words, of the same checkpoint; else the
comparison is left out and its reason is reported.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import product
from pathlib import Path

import numpy as np

from ..tasks.base import Line, by_picture, get_task, list_tasks
from ..tasks.statistics import (
    Contributions,
    detectable_difference,
    difference_interval,
    equivalence_margin,
    mcnemar,
    total,
    verdict,
)

REPAIR = "remove the folder and run it again"
MARGIN = 1.0  # points within which runs are called equivalent, unless another margin is asked for
NOT_SHOWN = "not shown"
FIELDS = {"key": str, "picture": str, "category": str, "prompt": str, "label": str, "correct": bool}
# What two runs must agree on besides the questions, and the words for a difference
SETTINGS = {
    "model.fingerprint": "another checkpoint",
    "model.base": "another base model",
    "model.dtype": "another number format",
    "model.bits": "other weights' bits",
    "conv_mode": "another prompt template",
    "max_new_tokens": "another length of answers",
    "decoding": "another way of decoding",
}


@dataclass(frozen=True)
class Difference:
    """How a run differs from another one: paired differences with 95 % intervals, and exact McNemar p.

    ``score`` is None where the task's score is no sum over pictures, so that it cannot be resampled; the verdict then goes by
    accuracy. ``p_holm`` is p corrected for all comparisons of the table. With several seeds p is the largest of theirs.

    The rest is in points: 1 % of the largest score (``Task.point``), or of accuracy where the verdict goes by that.
    ``equivalence`` says "equivalent within 1 point" or "not shown" for the ``margin`` asked for, ``shown_within`` the smallest
    margin for which it would say the former, and ``detectable`` the smallest true difference that a comparison of these runs
    finds with power 0.8.
    """

    other: str
    score: float | None
    score_interval: list[float] | None
    accuracy: float
    accuracy_interval: list[float]
    verdict: str
    p: float
    margin: float
    equivalence: str
    shown_within: float
    detectable: float
    p_holm: float | None = None


@dataclass(frozen=True)
class Answers:
    """The answers of a run, or of the several seeds of one plan, as a comparison needs them.

    ``asked`` stands for all questions, their words and true answers; ``correct`` (seeds, questions) in order of the key;
    ``pictures`` (questions,) names the picture of each. ``accuracy`` and ``score`` are each picture's contributions, one for
    each seed, ``score`` empty where the task's score is no sum of them, and ``point`` is one point of that score;
    ``categories`` the accuracy of each category in per cent.
    """

    asked: str
    settings: tuple[object, ...]
    correct: np.ndarray
    pictures: np.ndarray
    accuracy: list[Contributions]
    score: list[Contributions]
    point: float
    categories: dict[str, float]

    @classmethod
    def from_lines(cls, lines: Sequence[Line], file: Path, task: str, score: float, config: Mapping) -> Answers:
        """From the lines of ``file``; ``score`` is that of the run's metrics, ``config`` its configuration.

        Raises ValueError naming file and line for a line without what a comparison needs.
        """
        for number, line in enumerate(lines, start=1):
            wrong = [name for name, kind in FIELDS.items() if not isinstance(line.get(name), kind)]
            if wrong:
                problem = "lacks" if wrong[0] not in line else "has no text, or no true or false, as its"
                raise ValueError(f"{file}:{number} {problem} {', '.join(wrong)}; {REPAIR}")
        if not lines:
            raise ValueError(f"{file} holds no answer although the run has its metrics; run it again")
        lines = sorted(lines, key=lambda line: line["key"])  # a run that was resumed or divided has another order
        asked = "\n".join(f"{line['key']}\t{line['picture']}\t{line['prompt']}\t{line['label']}" for line in lines)
        pictures = by_picture(lines).values()
        right = [sum(line["correct"] for line in group) for group in pictures]
        contributions = _score_contributions(file, task, lines, score)
        limit = contributions[0].limit if contributions else None
        return cls(
            asked=hashlib.sha256(asked.encode("utf-8", "surrogatepass")).hexdigest(),
            settings=tuple(_setting(config, name) for name in SETTINGS),
            correct=np.array([[line["correct"] for line in lines]], dtype=bool),
            pictures=np.array([line["picture"] for line in lines]),
            accuracy=[Contributions(right, [len(group) for group in pictures], limit=1.0)],
            score=contributions,
            point=get_task(task).point(limit) if limit else 1.0,
            categories=_categories(lines),
        )

    @classmethod
    def merged(cls, runs: Sequence[Answers]) -> Answers:
        """One for several seeds of a plan, which were asked the same questions."""
        first = runs[0]
        return cls(
            first.asked,
            first.settings,
            np.concatenate([run.correct for run in runs]),
            first.pictures,
            [pictures for run in runs for pictures in run.accuracy],
            [pictures for run in runs for pictures in run.score] if all(run.score for run in runs) else [],
            first.point,
            {name: float(np.mean([run.categories[name] for run in runs])) for name in first.categories},
        )

    @property
    def questions(self) -> int:
        return self.correct.shape[1]

    def accuracy_on(self, chosen: np.ndarray) -> list[Contributions]:
        """Each picture's accuracy on some questions alone, a mask (questions,) in order of the key; one for each seed."""
        _, picture, sizes = np.unique(self.pictures[chosen], return_inverse=True, return_counts=True)
        return [
            Contributions(np.bincount(picture, right[chosen]).tolist(), sizes.tolist(), limit=1.0)
            for right in self.correct
        ]


def obstacle(first: Answers, second: Answers) -> str | None:
    """Why ``first`` cannot be compared with ``second``, in words that follow "which was given"; None where it can."""
    if first.asked != second.asked:
        counts = "" if first.questions == second.questions else f" ({second.questions}, not {first.questions})"
        return f"other questions{counts}"
    pairs = zip(SETTINGS.values(), first.settings, second.settings, strict=True)
    return next((words for words, first_value, second_value in pairs if first_value != second_value), None)


def difference(first: Answers, second: Answers, other: str, margin: float = MARGIN) -> Difference:
    """By how much ``first`` is better than ``second``, whose plan is ``other``; equivalent within ``margin`` points or not.

    Raises ValueError for a margin that is not above 0.
    """
    if not margin > 0:
        raise ValueError(f"margin={margin:g} must be above 0: no sample shows that two runs are exactly alike")
    accuracy, accuracy_interval = _paired(first.accuracy, second.accuracy)
    scored = bool(first.score and second.score)
    score, score_interval = _paired(first.score, second.score) if scored else (None, None)
    runs, point = ((first.score, second.score), first.point) if scored else ((first.accuracy, second.accuracy), 0.01)
    shown_within = equivalence_margin(*runs, first.questions) / point
    return Difference(
        other=other,
        score=score,
        score_interval=score_interval,
        accuracy=accuracy,
        accuracy_interval=accuracy_interval,
        verdict=verdict(score_interval or accuracy_interval),
        p=max(mcnemar(*pair) for pair in product(first.correct, second.correct)),
        margin=margin,
        equivalence=equivalent_within(margin) if shown_within < margin else NOT_SHOWN,
        shown_within=shown_within,
        detectable=detectable_difference(*runs) / point,
    )


def equivalent_within(margin: float) -> str:
    """The words of a verdict: ``equivalent within 1 point``."""
    return f"equivalent within {margin:g} point{'' if margin == 1 else 's'}"


def _paired(first: Sequence[Contributions], second: Sequence[Contributions]) -> tuple[float, list[float]]:
    """Difference of two mean scores over the same pictures, and its interval."""
    difference = np.mean([total(run) for run in first]) - np.mean([total(run) for run in second])
    return float(difference), difference_interval(first, second)


def _score_contributions(file: Path, task: str, lines: list[Line], score: float) -> list[Contributions]:
    """What each picture contributes to the task's score; none where that does not add up to it."""
    if task not in list_tasks():
        return []
    try:
        pictures = get_task(task).contributions(lines)
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise ValueError(f"{file}: {error}; {REPAIR}") from None
    return [pictures] if np.isclose(total(pictures), score, rtol=1e-6, atol=1e-6) else []


def _categories(lines: list[Line]) -> dict[str, float]:
    groups: dict[str, list[bool]] = {}
    for line in lines:
        groups.setdefault(line["category"], []).append(line["correct"])
    return {name: 100 * float(np.mean(right)) for name, right in groups.items()}


def _setting(config: Mapping, dotted: str) -> object:
    """The value at a path such as ``model.dtype``; None where there is none."""
    value: object = config
    for name in dotted.split("."):
        value = value.get(name) if isinstance(value, Mapping) else None
    return value
