"""The answers of a batch while they are written: words as they come, each row's own end, and rows that nobody waits for."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, cast

import torch
from torch import BoolTensor, Tensor
from transformers import StoppingCriteria

from .chat import End, Job, Piece, Usage

_UNFINISHED = "\N{REPLACEMENT CHARACTER}"  # what a decoder shows for the first bytes of a character


class AnswerText:
    """The text of one answer from its ids: without spaces at its ends, and cut before the first of the stop strings.

    ``add`` and ``close`` give the text that has become certain. ``stopped``: a stop string was found.
    """

    def __init__(self, tokenizer: Any, stops: Sequence[str]):
        self.tokenizer, self.stops = tokenizer, stops
        self.stopped = False
        self._ids: list[int] = []
        self._known = self._read = 0  # ids before which nothing, and up to which everything, has been read
        self._held, self._begun = "", False

    def add(self, token: int) -> str:
        """The text that is certain after one more id."""
        self._ids.append(token)
        known = self._decoded(self._ids[self._known : self._read])
        text = self._decoded(self._ids[self._known :])
        if text.endswith(_UNFINISHED):
            return ""
        self._known, self._read = self._read, len(self._ids)
        self._held += text[len(known) :]
        return self._release()

    def close(self) -> str:
        """The rest, when no id follows."""
        if not self.stopped:
            known = self._decoded(self._ids[self._known : self._read])
            self._held += self._decoded(self._ids[self._known :])[len(known) :]
        released = self._release()
        rest = self._held.rstrip()
        self._held = ""
        return released + (rest if self._begun or released else rest.lstrip())

    def _release(self) -> str:
        """The held text that no stop string and no space at the end can take back."""
        found = [place for stop in self.stops if (place := self._held.find(stop)) >= 0]
        if found and not self.stopped:
            self.stopped = True
            certain, self._held = self._held[: min(found)].rstrip(), ""
        elif self.stopped:
            certain, self._held = "", ""
        else:
            begun = [
                length for stop in self.stops for length in range(1, len(stop)) if self._held.endswith(stop[:length])
            ]
            certain = self._held[: len(self._held) - max(begun, default=0)].rstrip()
            self._held = self._held[len(certain) :]
        if not self._begun:
            certain = certain.lstrip()
        self._begun = self._begun or bool(certain)
        return certain

    def _decoded(self, ids: list[int]) -> str:
        return self.tokenizer.decode(ids, skip_special_tokens=True)


class Progress(StoppingCriteria):
    """Hands the new ids of every row to its job, and ends each row separately.

    texts: of each row. ends: ids that end an answer. visual_per_layer: asked once the prompt has been read, gives each
    row's visual tokens in every layer. Works for a ``generate`` from embeddings, which returns only the new ids;
    where a prompt stands in front, ``prompt`` is its length.
    """

    def __init__(
        self,
        jobs: Sequence[Job],
        texts: Sequence[AnswerText],
        ends: frozenset[int],
        visual_per_layer: Callable[[], Sequence[Sequence[int]]],
        prompt: int = 0,
    ):
        self.jobs, self.texts, self.ends, self.prompt = jobs, texts, ends, prompt
        self._visual_per_layer = visual_per_layer
        self._layers: Sequence[Sequence[int]] | None = None
        self._done = [False] * len(jobs)

    def __call__(self, input_ids: Tensor, scores: Any = None, **kwargs: Any) -> BoolTensor:
        """(B,) bool: which rows are done."""
        if self._layers is None:
            self._layers = self._visual_per_layer()
        count = input_ids.shape[1] - self.prompt
        for row, token in enumerate(input_ids[:, -1].tolist()):
            self._done[row] = self._done[row] or self._advance(row, token, count)
        return cast(BoolTensor, torch.tensor(self._done, dtype=torch.bool, device=input_ids.device))

    def _advance(self, row: int, token: int, count: int) -> bool:
        """One more id of a row; whether the row is done."""
        job, text = self.jobs[row], self.texts[row]
        if job.cancelled.is_set():
            return True
        ended = token in self.ends
        piece = "" if ended else text.add(token)
        if piece:
            job.send(Piece(piece))
        if not (ended or text.stopped or count >= job.prompt.max_tokens):
            return False
        if rest := text.close():
            job.send(Piece(rest))
        layers = (self._layers or [])[row]
        usage = Usage(job.prompt.positions, count, job.prompt.visual, layers)
        job.send(End("stop" if ended or text.stopped else "length", usage))
        return True
