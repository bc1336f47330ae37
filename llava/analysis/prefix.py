"""Many plans that leave the first layers alone: their part of a batch is computed once for all plans."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor

from llava.eval.ask.subject import Generation, LlavaSubject, Reply
from llava.model.engine import CACHE
from llava.reduction import Stage, spelled_out

from .observe import MeasuringSubject


@dataclass(frozen=True)
class _Pass:
    """What one layer made of a batch's prompts: its input and output (B, S, D), and its cached keys and values."""

    entered: Tensor
    left: Tensor
    cached: tuple[Tensor, Tensor] | None

    def fits(self, entered: Tensor) -> bool:
        """Whether these are the prompts of this pass again; padding is zero, so equal embeddings are padded alike."""
        return entered is self.entered or (entered.shape == self.entered.shape and torch.equal(entered, self.entered))


class SharedPrefix(MeasuringSubject):
    """Answers as ``subject`` does; a batch that is asked again runs through the first ``layers`` decoder layers only once.

    The plans of the questions must leave the tokens alone before layer ``layers``; the answers are then the same to the last
    bit. The states of these layers are held for one batch. ``replayed`` says whether the last answer used them. Raises
    ValueError for ``layers`` beyond the model.
    """

    def __init__(self, subject: LlavaSubject, layers: int):
        super().__init__(subject)
        if not 0 <= layers <= len(self.decoder.layers):
            raise ValueError(f"layers={layers} must lie between 0 and the model's {len(self.decoder.layers)}")
        self.layers, self.replayed = layers, False
        self._held: dict[int, _Pass] = {}

    def answer(
        self, texts: Sequence[str], features: Sequence[Any], plan: list[Stage], generation: Generation
    ) -> list[Reply]:
        """Replies of the subject inside."""
        stages = spelled_out(plan, len(self.decoder.layers))
        early = [str(stage) for stage in stages if stage.layer is not None and stage.layer < self.layers]
        if early:
            raise ValueError(f"{early[0]} begins before layer {self.layers}, up to which the layers are shared")
        self.replayed = False
        with self._sharing():
            return self.subject.answer(texts, features, plan, generation)

    @contextmanager
    def _sharing(self) -> Iterator[None]:
        """Put the memory in front of the layers' own forward."""
        shared = self.decoder.layers[: self.layers]
        for number, layer in enumerate(shared):
            layer.forward = partial(self._through, number, layer.forward)
        try:
            yield
        finally:
            for layer in shared:
                del layer.forward

    def _through(self, number: int, forward: Callable, entered: Tensor, *given: Any, **named: Any) -> Tensor:
        cache = named.get(CACHE)
        if entered.shape[1] == 1:
            return forward(entered, *given, **named)
        held = self._held.get(number)
        if held is not None and held.fits(entered) and (held.cached is None) == (cache is None):
            self.replayed = True
            if cache is not None and held.cached is not None:
                cache.update(*held.cached, number)
            return held.left
        left = forward(entered, *given, **named)
        cached = None if cache is None else (cache.layers[number].keys, cache.layers[number].values)
        self._held[number] = _Pass(entered, left, cached)
        return left
