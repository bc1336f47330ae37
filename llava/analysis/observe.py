"""Attention, seen while a model answers: every decoder layer of every prompt is shown once and nothing of it is kept.

    observer = Observer(subject, measure)          # measure(attention) -> a few numbers
    for answer in answers(observer, [plan], task.examples, prompt=task.prompt):
        answer.reply.layers                        # what ``measure`` returned, layer by layer

The model answers as always, whatever its attention backend; a layer's rows are computed from what went into it, a chunk at a
time. Memory depends neither on the number of layers nor on the number of samples.

Shapes: S rows of one prompt that entered a layer, padding left out, H heads, R query rows, D width.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field, replace
from functools import cached_property, partial
from typing import Any

import torch
from torch import Tensor, nn

from llava.eval.ask.subject import Generation, LlavaSubject, Reply, SubjectWrapper
from llava.model.engine import Rope, both
from llava.model.language_model.reducible_family import ReducibleFamily
from llava.reduction import Ledger, Stage, attention_rows, spelled_out
from llava.reduction.evidence import layer_keys

GROUPS = ("bos", "system", "visual", "text")
CHUNK = 128  # query rows at a time


def token_groups(ledger: Ledger, row: int) -> dict[str, Tensor]:
    """Columns of one prompt by what they are, padding not counted: ``bos``, ``system``, ``visual``, ``text``.

    ``bos`` is the prompt's first token, an attention sink, as a group of its own; ``system`` the other words before the
    first picture, which never see it; ``visual`` the picture's tokens that may be seen; ``text`` the words after it, up
    to the last. A prompt without a picture is all text except its first token. The documents' programs count BOS and
    "USER:" as text, which dilutes their averages.
    """
    valid = ledger.valid[row]
    visual, visible = ledger.visual[row][valid] > 0, ledger.visible[row][valid]
    place = torch.arange(len(visual), device=visual.device)
    first = int(visual.nonzero()[0, 0]) if visual.any() else 0
    chosen = {
        "bos": place == 0,
        "system": (place > 0) & (place < first),
        "visual": visual & visible & (place > 0),
        "text": ~visual & (place > max(first, 0)),
    }
    return {name: here.nonzero()[:, 0] for name, here in chosen.items()}


class LayerAttention:
    """One prompt in one decoder layer: who attends to whom, post-softmax, in float32, computed when asked.

    ``layer`` its number, ``columns`` those of every group of ``token_groups``, ``origin`` (N,) which of the prompt's visual
    tokens, counted before any reduction, the visual columns are.
    """

    def __init__(self, number: int, layer: Any, entered: Tensor, rope: Rope, ledger: Ledger, first: Ledger, row: int):
        device = entered.device
        valid = ledger.valid[row].to(device)
        self.layer, self._module = number, layer
        self._entered = entered[row : row + 1, valid]  # (1, S, D)
        self._rope = both(rope, lambda part: part.expand(len(entered), -1, -1)[row : row + 1, valid])
        self._visible = ledger.visible[row].to(device)[None, valid]
        self.columns = {name: columns.to(device) for name, columns in token_groups(ledger, row).items()}
        order = (first.visual[row] > 0).long().cumsum(0).to(device) - 1
        self.origin = order[ledger.origin[row].to(device)[valid]][self.columns["visual"]]

    @cached_property
    def _keys(self) -> Tensor:
        return layer_keys(self._module, self._entered, self._rope)

    def rows(self, columns: Tensor) -> Tensor:
        """Attention (H, R, S) of the rows at ``columns`` (R,)."""
        return attention_rows(self._module, self._entered, self._rope, columns[None], self._visible, self._keys)[0]

    def chunks(self, group: str) -> Iterator[Tensor]:
        """The rows of a group, (H, r, S) at a time; nothing for a group that the prompt does not have."""
        for columns in self.columns[group].split(CHUNK):
            if len(columns):
                yield self.rows(columns)

    def block(self, queries: str, keys: str) -> Tensor:
        """Attention (H, Q, K) of one group's rows to another's columns."""
        parts = [chunk[..., self.columns[keys]] for chunk in self.chunks(queries)]
        if parts:
            return torch.cat(parts, dim=1)
        heads = self._module.self_attn.config.num_attention_heads
        return self._entered.new_zeros(heads, 0, len(self.columns[keys]), dtype=torch.float32)


Visit = Callable[[int, Tensor, Rope], None]


@contextmanager
def prefills(decoder: ReducibleFamily, numbers: Sequence[int], visit: Visit) -> Iterator[None]:
    """While open, ``visit(number, entered, rope)`` is called after these layers of every prefill; decoding is not."""

    def after(number: int, _layer: nn.Module, given: tuple, named: dict, _output: Any) -> None:
        if given[0].shape[1] > 1:
            visit(number, given[0], named["position_embeddings"])

    with ExitStack() as stack:
        for number in numbers:
            handle = decoder.layers[number].register_forward_hook(partial(after, number), with_kwargs=True)
            stack.callback(handle.remove)
        yield


@contextmanager
def watched(
    decoder: ReducibleFamily, visit: Callable[[int, LayerAttention], None], ledgers: Sequence[Ledger] = ()
) -> Iterator[None]:
    """While open, ``visit(row, attention)`` is called for every layer and prompt of a prefill, one layer after the other.

    ``ledgers``, one per layer, say which rows a plan leaves; without them the prefill must drop none in the decoder.
    """
    held = list(ledgers)

    def begin(_decoder: nn.Module, _given: tuple, named: dict) -> None:
        embeds, mask, visual = (named.get(name) for name in ("inputs_embeds", "attention_mask", "visual"))
        if ledgers or embeds is None or embeds.shape[1] == 1:
            return
        valid = torch.ones(embeds.shape[:2], dtype=torch.bool, device=embeds.device) if mask is None else mask.bool()
        visual = torch.zeros_like(valid, dtype=torch.long) if visual is None else visual
        position = torch.arange(valid.shape[1], device=valid.device)[None]
        held[:] = [Ledger.start(visual, valid, position)] * len(decoder.layers)

    def show(number: int, entered: Tensor, rope: Rope) -> None:
        for row in range(len(entered)):
            visit(row, LayerAttention(number, decoder.layers[number], entered, rope, held[number], held[0], row))

    handle = decoder.register_forward_pre_hook(begin, with_kwargs=True)
    try:
        with prefills(decoder, range(len(decoder.layers)), show):
            yield
    finally:
        handle.remove()


@dataclass(frozen=True)
class Measured(Reply):
    """A reply with what was measured meanwhile, one entry per decoder layer (or whatever the subject measures)."""

    layers: list[Any] = field(default_factory=list)


class MeasuringSubject(SubjectWrapper):
    """A subject that lets another subject do the work; a subclass's ``answer`` adds what is measured."""

    def __init__(self, subject: LlavaSubject):
        super().__init__(subject)
        self.decoder: ReducibleFamily = subject.model.get_model()


class Observer(MeasuringSubject):
    """Answers as ``subject`` does and calls ``measure(attention)`` for every prompt and decoder layer on the way.

    Under a plan with a stage in the decoder every batch is run twice: which rows a stage leaves is known only after the
    prefill.
    """

    def __init__(self, subject: LlavaSubject, measure: Callable[[LayerAttention], Any]):
        super().__init__(subject)
        self.measure = measure

    def answer(
        self, texts: Sequence[str], features: Sequence[Any], plan: list[Stage], generation: Generation
    ) -> list[Reply]:
        """Replies, each ``Measured`` with an entry for every layer."""
        ledgers: Sequence[Ledger] = ()
        if any(stage.site == "layer" for stage in spelled_out(plan, len(self.decoder.layers))):
            self.subject.answer(texts, features, plan, replace(generation, max_new_tokens=1))
            ledgers = self.decoder.last_ledgers
        layers: list[list[Any]] = [[] for _ in texts]
        with watched(self.decoder, lambda row, attention: layers[row].append(self.measure(attention)), ledgers):
            replies = self.subject.answer(texts, features, plan, generation)
        return [Measured(**vars(reply), layers=entries) for reply, entries in zip(replies, layers, strict=True)]
