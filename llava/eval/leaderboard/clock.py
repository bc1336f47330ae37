"""How long the cells of a grid will take: from runs that are finished, else from a few questions that are timed."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median

import numpy as np
from scipy.optimize import nnls

from llava.files import read_json
from llava.reduction import plan_from

from ..ask.loop import answers
from ..ask.record import QUESTIONS
from ..ask.subject import Generation, Subject
from ..tasks.base import Task, sample_evenly
from .cells import Job

TIMED = 8  # questions that are asked under two plans where nothing has been measured
CHEAP = "random@features:16"


@dataclass(frozen=True)
class Timing:
    """One plan's seconds a question, its picture's seconds in the tower, and its share of the dense prefill."""

    name: str
    share: float
    seconds: float
    tower: float


@dataclass(frozen=True)
class Clock:
    """Seconds a question: ``fixed``, and ``dense`` times the share of the dense prefill's operations that a plan takes.

    ``tower``: seconds a picture. ``factors``: by method, how much longer than that it took where it was measured.
    """

    fixed: float
    dense: float
    tower: float
    factors: dict[str, float] = field(default_factory=dict)

    @classmethod
    def from_timings(cls, timings: Sequence[Timing]) -> Clock:
        """The clock that fits best; two plans of different cost at least. Raises ValueError for fewer."""
        if len({timing.share for timing in timings}) < 2:
            raise ValueError(f"timings of {len(timings)} plans do not tell how time grows; give two of different cost")
        costs = np.array([[1.0, timing.share] for timing in timings])
        (fixed, dense), _ = nnls(costs, np.array([timing.seconds for timing in timings]))
        clock = cls(float(fixed), float(dense), median(timing.tower for timing in timings))
        by_name: dict[str, list[float]] = {}
        for timing in timings:
            by_name.setdefault(timing.name, []).append(timing.seconds / max(1e-9, clock.question(timing.share)))
        return cls(clock.fixed, clock.dense, clock.tower, {name: median(found) for name, found in by_name.items()})

    def question(self, share: float, name: str = "") -> float:
        """Seconds of one question under a plan of that share, of the method ``name`` where it was measured."""
        return (self.fixed + self.dense * share) * self.factors.get(name, 1.0)

    def cell(self, job: Job, task: Task, answered: int, samples: int, together: int) -> float:
        """Seconds until a cell is finished of which this many questions are answered.

        ``samples`` pictures are asked about once more for the page; the tower is shared by ``together`` plans.
        """
        questions = max(0, len(task.examples) - answered)
        if not questions:
            return 0.0
        pictures = len({example.picture for example in task.examples}) * questions / len(task.examples)
        asked = questions + min(samples * QUESTIONS, len(task.examples))
        return asked * self.question(job.share, job.cell.name) + (pictures + samples) * self.tower / together


def finished_timings(folder: Path, jobs: Sequence[Job]) -> list[Timing]:
    """What the finished runs of a folder took. Raises ValueError for a cost file that is none."""
    timings = []
    for job in jobs:
        file = folder / (job.cell.plan or ".") / "cost.json"
        if job.plan is None or not file.is_file():
            continue
        cost = read_json(file, hint="remove it and run again")
        if "ms_per_question" in cost:
            seconds, tower = cost["ms_per_question"] / 1000, cost.get("tower_ms_per_picture", 0.0) / 1000
            timings.append(Timing(job.cell.name, job.share, seconds, tower))
    return timings


def trial_timings(subject: Subject, task: Task, cheap: float) -> list[Timing]:
    """The time of a few questions under the full model and under few tokens, whose share is ``cheap``; nothing is kept."""
    plans = [plan_from("full"), plan_from(CHEAP)]
    generation, chosen = Generation(max_new_tokens=task.max_new_tokens), sample_evenly(task.examples, 2 * TIMED)
    replies = list(answers(subject, plans, chosen, prompt=task.prompt, batch_size=TIMED, generation=generation))
    timings = []
    for number, (name, share) in enumerate((("full", 1.0), ("random", cheap))):
        mine = [answer for answer in replies if answer.number == number and answer.reply is not None]
        if mine:
            # The first batch also warms the caches up, so that the fastest tells more than the mean.
            seconds, tower = min(answer.seconds for answer in mine), median(answer.tower_seconds for answer in mine)
            timings.append(Timing(name, share, seconds, tower))
    return timings


def words(seconds: float) -> str:
    """A length of time as people say it: ``40 s``, ``12 min``, ``3 h 20 min``."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    return f"{minutes} min" if minutes < 90 else f"{minutes // 60} h {minutes % 60:02} min"
