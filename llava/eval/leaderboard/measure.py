"""The cells of a grid measured: groups of plans under one loaded model, resumable, with the time that is left."""

from __future__ import annotations

import logging
import time
from collections.abc import Sequence
from datetime import datetime, timedelta
from typing import Any

from PIL import Image
from rich.console import Console

from llava.reduction import Stage, plan_from, plan_name

from ..ask.measure import measure
from ..ask.pricing import pricing_of
from ..ask.subject import Generation, LlavaSubject, QuestionError, Reply
from .clock import CHEAP, Clock, finished_timings, trial_timings, words
from .work import Work

logger = logging.getLogger(__name__)

TOGETHER = 8  # plans that share one pass over the pictures


class RefusedError(ValueError):
    """A plan that a model refuses when it is asked a question under it: the plan's name, and why."""

    def __init__(self, plan: Sequence[Stage], reason: str):
        super().__init__(reason)
        self.plan = plan_name(list(plan))


class RefusingSubject(LlavaSubject):
    """A loaded model that says which of several plans it refuses."""

    def encode(self, images: Sequence[Image.Image], plan: Sequence[Stage] = ()) -> list[Any]:
        """As the model does. Raises RefusedError."""
        try:
            return super().encode(images, plan)
        except ValueError as error:
            raise RefusedError(plan, str(error)) from error

    def answer(
        self,
        texts: Sequence[str],
        features: Sequence[Any],
        plan: list[Stage],
        generation: Generation = Generation(),  # noqa: B008
    ) -> list[Reply]:
        """As the model does. Raises RefusedError, and QuestionError for a question that cannot be asked."""
        try:
            return super().answer(texts, features, plan, generation)
        except QuestionError:
            raise
        except ValueError as error:
            raise RefusedError(plan, str(error)) from error


class Measuring:
    """A grid's works, the one model that is loaded, and what is known of the time they take.

    together: how many plans share one pass over the pictures, each encoded once for all of them; a run that stopped is
    resumed at the question it had reached.
    """

    def __init__(self, works: Sequence[Work], console: Console | None = None, together: int = TOGETHER):
        self.works, self.console, self.together = works, console, together
        self.clocks: dict[int, Clock] = {}
        self.predicted = self.took = 0.0  # seconds, of the groups of this session
        self._loaded: tuple[str, LlavaSubject] | None = None

    def run(self) -> None:
        """Measure every cell that is left, model by model, and say after each group how long the rest will take."""
        for work in self.works:
            while work.left():
                self._group(work)

    def seconds_left(self) -> float:
        """About how long the cells that are left will take, by what those of this session took."""
        return sum(sum(self.seconds(work).values()) for work in self.works) * self.correction

    def seconds(self, work: Work) -> dict[str, float]:
        """By the plan's name, about how long each cell that is left will take; nothing measured yet is timed first."""
        left = work.left()
        if not left or work.evaluation is None:
            return {}
        settings, clock = work.evaluation.settings, self._clock(work)
        return {
            job.cell.plan or "": clock.cell(
                job, work.evaluation.task, work.answered(job), settings.samples, self.together
            )
            for job in left
        }

    @property
    def correction(self) -> float:
        """How much longer than predicted the groups of this session took: 1 before the first."""
        return min(4.0, max(0.25, self.took / self.predicted)) if self.predicted else 1.0

    def _group(self, work: Work) -> None:
        group = work.left()[: self.together]
        if work.evaluation is None:
            raise ValueError(f"{work.folder} has no evaluation, so that nothing can be left there")
        seconds = self.seconds(work)
        predicted = sum(seconds[job.cell.plan or ""] for job in group)
        subject, start = self._subject(work), time.perf_counter()
        try:
            measure(
                work.evaluation, [job.plan for job in group if job.plan is not None], lambda _: subject, self.console
            )
        except RefusedError as refusal:
            for job in [job for job in group if job.cell.plan == refusal.plan]:
                logger.warning("%s cannot have %s: %s", work.model.name, refusal.plan, refusal)
                work.refuse(job, str(refusal))
            return
        self.predicted, self.took = self.predicted + predicted, self.took + time.perf_counter() - start
        self.clocks.pop(id(work), None)  # the runs that are finished now give a better estimate
        if cells := sum(len(other.left()) for other in self.works):
            rest = self.seconds_left()
            until = datetime.now() + timedelta(seconds=rest)
            logger.info("%d cells are left, about %s, until %s", cells, words(rest), f"{until:%A %H:%M}")

    def _clock(self, work: Work) -> Clock:
        """The clock of a model on a task: from its finished runs, else from a few questions."""
        if id(work) not in self.clocks:
            timings = finished_timings(work.folder, work.jobs)
            if len({timing.share for timing in timings}) < 2 and work.evaluation is not None:
                pricing = pricing_of(work.evaluation)
                cheap = 0.1 if pricing is None else pricing.flops(plan_from(CHEAP))
                timings = trial_timings(self._subject(work), work.evaluation.task, cheap)
            self.clocks[id(work)] = Clock.from_timings(timings)
        return self.clocks[id(work)]

    def _subject(self, work: Work) -> LlavaSubject:
        """The model of a work, loaded once; the one before it is released."""
        if self._loaded is None or self._loaded[0] != work.model.name:
            self._loaded = None
            if work.evaluation is None:
                raise ValueError(f"{work.folder} has no evaluation, so that no model is needed")
            loaded = work.evaluation.model.subject()
            refusing = RefusingSubject(loaded.tokenizer, loaded.model, loaded.image_processor, loaded.conv_mode)
            self._loaded = work.model.name, refusing
        return self._loaded[1]
