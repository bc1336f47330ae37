"""One question about a picture under several plans, one after another: words as they come, then what each plan cost."""

from __future__ import annotations

import logging
import queue
import time
from collections.abc import Callable, Generator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import ParamSpec, Self, TypeVar

import numpy as np
from PIL import Image

from ..openai.chat import Chat, End, Job, Piece, Prompt, Question, Sampling, Turn
from ..openai.errors import ApiError
from ..openai.images import open_picture, too_large
from ..openai.limits import Limits
from ..openai.plans import stranger_plan
from .observing import Kept, depth, kept_by_layer, prompt_flops, tower_view

logger = logging.getLogger(__name__)

SIDES = "AB"  # names of the plans
LONGEST_QUESTION = 2000  # characters


@dataclass(frozen=True, eq=False)
class Answer:
    """The outcome of a question under one plan.

    complete: the model ended it, not the limit of tokens. tokens: of the answer. visual: tokens of the picture before any
    reduction. visual_per_layer: in each decoder layer. flops: of the prompt; None where they are not counted. first_ms: until
    the first words; whole_ms: until the last; both of this request. kept: what each layer was given, empty where the
    picture's tokens are no single grid. view: the picture under that grid, (H, W, 3) in [0, 1].
    """

    plan: str
    text: str
    complete: bool
    tokens: int
    visual: int
    visual_per_layer: Sequence[int]
    flops: float | None
    first_ms: float
    whole_ms: float
    kept: Sequence[Kept]
    view: np.ndarray | None


Given = ParamSpec("Given")
Result = TypeVar("Result")
Event = tuple[int, str | Answer]  # the number of a plan, and its words so far or its answer


class Asker:
    """A model that is asked one question at a time; its block ends once the answer that is being written has ended.

    seconds: how long a question may take under all its plans, waiting included.
    """

    def __init__(self, chat: Chat, limits: Limits, seconds: float):
        self.chat, self.limits, self.seconds = chat, limits, seconds
        self.layers = depth(chat)
        self._worker = ThreadPoolExecutor(1, thread_name_prefix="answer")

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *stopped: object) -> None:
        self._worker.shutdown(cancel_futures=True)

    def picture_tokens(self) -> int | None:
        """Tokens of every picture before any reduction; None where that depends on the picture's shape."""
        counts = {
            self._prompt(Image.new("RGB", size), "?", "full").visual for size in ((336, 336), (672, 336), (336, 1344))
        }
        return counts.pop() if len(counts) == 1 else None

    def ask(self, file: str | Path | None, question: str, plans: Sequence[str]) -> Generator[Event, None, None]:
        """Words and answers. file: of the picture.

        Raises ValueError with one sentence for what cannot be asked, before anything is answered where that can be known,
        and TimeoutError when the time is up. Closing the iterator ends the answer at its next token.
        """
        end = time.monotonic() + self.seconds
        picture = self._picture(file)
        if not question.strip():
            raise ValueError("The question is empty; type one.")
        if len(question) > LONGEST_QUESTION:
            raise ValueError(f"The question has {len(question)} characters; at most {LONGEST_QUESTION} are read.")
        prompts = [_named(side, self._prompt, picture, question, plan) for side, plan in enumerate(plans)]
        for side, (plan, prompt) in enumerate(zip(plans, prompts, strict=True)):
            yield from self._answer(side, plan.strip(), picture, prompt, end)

    def _picture(self, file: str | Path | None) -> Image.Image:
        if file is None:
            raise ValueError("There is no picture; upload one or choose an example.")
        try:
            if Path(file).stat().st_size > self.limits.image_bytes:
                raise too_large(self.limits)
            return open_picture(Path(file).read_bytes(), self.limits)
        except ApiError as error:
            raise ValueError(_sentence(error.message)) from None

    def _prompt(self, picture: Image.Image, question: str, plan: str) -> Prompt:
        if not plan.strip():
            raise ValueError("the plan is empty; write full for no reduction")
        asked = Question([Turn("user", question, [picture])], Sampling(), stranger_plan(plan.strip()))
        return self.chat.prepare(asked, self.limits.max_tokens)

    def _answer(
        self, side: int, plan: str, picture: Image.Image, prompt: Prompt, end: float
    ) -> Generator[Event, None, None]:
        events: queue.SimpleQueue[Piece | End | Future[Answer | None]] = queue.SimpleQueue()
        clock = _Clock(events)
        job = Job(prompt, clock)
        future = self._worker.submit(self._run, job, clock, plan, picture)
        future.add_done_callback(events.put)
        text = ""
        try:
            while True:
                event = events.get(timeout=max(0.0, end - time.monotonic()))
                if isinstance(event, Future):
                    yield side, _named(side, _result, event)
                    return
                if isinstance(event, Piece):
                    text += event.text
                    yield side, text
        except queue.Empty:
            raise TimeoutError(f"Plan {SIDES[side]}: stopped, the {self.seconds:g} seconds are over.") from None
        finally:
            job.cancelled.set()
            future.cancel()

    def _run(self, job: Job, clock: _Clock, plan: str, picture: Image.Image) -> Answer | None:
        """Answer, and read what the model recorded, in the thread in which it did; None for a job that was cancelled."""
        clock.begin()
        self.chat.generate([job])
        if clock.end is None:
            return None
        usage = clock.end.usage
        kept = kept_by_layer(self.chat, job.prompt, usage.visual_per_layer[0])
        return Answer(
            plan=plan,
            text=clock.text,
            complete=clock.end.reason == "stop",
            tokens=usage.completion,
            visual=usage.visual,
            visual_per_layer=usage.visual_per_layer,
            flops=prompt_flops(self.chat),
            first_ms=clock.first_ms or clock.whole_ms,
            whole_ms=clock.whole_ms,
            kept=kept,
            view=tower_view(self.chat, job.prompt, picture) if kept else None,
        )


class _Clock:
    """Hands the events of one answer on, and notes its words and when they came (milliseconds)."""

    def __init__(self, events: queue.SimpleQueue):
        self._events = events
        self.text = ""
        self.end: End | None = None
        self.first_ms: float | None = None
        self.whole_ms = self._start = 0.0

    def begin(self) -> None:
        """Time runs from here."""
        self._start = time.perf_counter()

    def __call__(self, event: Piece | End) -> None:
        self.whole_ms = 1000 * (time.perf_counter() - self._start)
        self.first_ms = self.whole_ms if self.first_ms is None else self.first_ms
        if isinstance(event, Piece):
            self.text += event.text
        else:
            self.end = event
        self._events.put(event)


def _named(side: int, work: Callable[Given, Result], *given: Given.args, **options: Given.kwargs) -> Result:
    """The result of work for a plan; its ValueError becomes a sentence that says which plan it was."""
    try:
        return work(*given, **options)
    except ValueError as error:
        raise ValueError(f"Plan {SIDES[side]}: {_sentence(str(error))}") from None


def _result(future: Future[Answer | None]) -> Answer:
    """The answer of a thread. Raises ValueError for what the model cannot do, and where it failed."""
    error = future.exception()
    if error is not None and not isinstance(error, ValueError):
        logger.error("an answer failed", exc_info=error)
        raise ValueError(f"the model failed with {type(error).__name__}; the terminal says more")
    answer = future.result()
    if answer is None:
        raise ValueError("stopped")
    return answer


def _sentence(text: str) -> str:
    return text if text.endswith((".", "?", "!")) else f"{text}."
