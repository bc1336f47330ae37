"""A model's forward pass over questions with their answers, with the picture read once for all of its questions.

Shapes: B rows of a batch, S positions, A answer tokens and W words after the pictures of all rows together, V words of
the vocabulary, D the language model's width.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from llava.constants import IGNORE_INDEX, IMAGE_TOKEN_INDEX
from llava.model.language_model.llava_family import LlavaFamilyForCausalLM, LlavaFamilyModel

from ..shared import common_length, read_start, split, targets_of


@dataclass(frozen=True)
class ForwardPass:
    """A model's forward pass over a batch, rows one after another.

    ``logits`` (A, V) predict the answer tokens ``answers`` (A,); ``words`` (W, D) are the hidden states of all words
    after a picture, taken after one decoder layer; none where none were asked for or no token of a picture is left;
    ``counts`` is how many of both each row has. Text is never reduced, so A, W and their order are the same under every
    plan.
    """

    logits: Tensor
    answers: Tensor
    words: Tensor
    counts: list[tuple[int, int]]

    def rows(self) -> list[ForwardPass]:
        """Each row separately, in half precision on the CPU, to be kept."""
        answers, words = ([count[part] for count in self.counts] for part in (0, 1))
        parts = zip(self.logits.split(answers), self.answers.split(answers), self.words.split(words), self.counts)
        return [ForwardPass(a.half().cpu(), b.cpu(), c.half().cpu(), [count]) for a, b, c, count in parts]

    @classmethod
    def joined(cls, rows: Sequence[ForwardPass], device: torch.device) -> ForwardPass:
        """A batch of rows that were kept."""
        return cls(
            torch.cat([row.logits.float() for row in rows]).to(device),
            torch.cat([row.answers for row in rows]).to(device),
            torch.cat([row.words.float() for row in rows]).to(device),
            [count for row in rows for count in row.counts],
        )


def read(model: LlavaFamilyForCausalLM, batch: dict[str, Any], layer: int | None = None) -> ForwardPass:
    """Read a batch under the plan in force; ``layer``: the number of decoder layers after which words are taken."""
    spliced = model.splice(
        batch["input_ids"], batch["attention_mask"], batch["labels"], raw_vision_features=batch["raw_vision_features"]
    )
    decoder = model.get_model()
    with _layer_outputs(decoder, layer) as states:
        outputs = decoder(
            inputs_embeds=spliced.inputs_embeds,
            attention_mask=spliced.attention_mask,
            position_ids=spliced.position_ids,
            visual=spliced.visual,
            sample_seed=spliced.sample_seed,
            labels=spliced.labels,  # what a plan may look at ends where the answer begins
            use_cache=False,
        )
    targets = targets_of(spliced.labels)
    if outputs.trace:
        targets = outputs.ledger.labels(targets)
    if layer is None:
        return _forward_pass(model, outputs.last_hidden_state, targets)
    ledger = decoder.last_ledgers[layer - 1]
    return _forward_pass(
        model, outputs.last_hidden_state, targets, states[0], _is_after_picture(ledger.visual) & ledger.valid
    )


def read_together(
    model: LlavaFamilyForCausalLM, batch: dict[str, Any], pictures: Sequence[Any], layer: int | None = None
) -> ForwardPass:
    """``read`` for several questions per picture, where nothing before the decoder reads the question.

    ``pictures`` names each row's pictures; what a picture's rows have in common is run once (`llava.train.shared`). Where a
    picture is not in the common part, every row is read separately. Gradients flow as in ``read``.
    """
    ids = batch["input_ids"]
    numbers = {picture: row for row, picture in reversed(list(enumerate(pictures)))}
    firsts = torch.tensor([numbers[picture] for picture in pictures], device=ids.device)
    common = common_length(ids, batch["labels"], firsts)
    if not common:
        return read(model, batch, layer)
    features = list(split(batch["raw_vision_features"], (ids == IMAGE_TOKEN_INDEX).sum(1).tolist()))
    of_firsts = [feature for row in firsts.unique().tolist() for feature in features[row]]
    with _layer_outputs(model.get_model(), layer) as states:
        shared = read_start(model, batch, firsts, common, raw_vision_features=of_firsts)
        own = shared.read(torch.arange(len(ids), device=ids.device))
    if layer is None:
        return _forward_pass(model, own.states, own.targets)
    start, group = shared.start, shared.group
    words = torch.cat([states[0][group], states[1]], dim=1)
    after_picture = torch.cat([(_is_after_picture(start.visual) & start.attention_mask)[group], own.mask], dim=1)
    return _forward_pass(model, own.states, own.targets, words, after_picture)


def _forward_pass(
    model: LlavaFamilyForCausalLM,
    last: Tensor,
    targets: Tensor,
    states: Tensor | None = None,
    after_picture: Tensor | None = None,
) -> ForwardPass:
    """From the last states (B, S, D) and what comes after each (B, S), and the states to take words of and where."""
    learned = targets != IGNORE_INDEX
    words = last[:0, 0] if states is None else states[after_picture]
    lengths = [0] * len(targets) if after_picture is None else after_picture.sum(1).tolist()
    counts = list(zip(learned.sum(1).tolist(), lengths))
    return ForwardPass(model.lm_head(last[learned]), targets[learned], words, counts)


def _is_after_picture(visual: Tensor) -> Tensor:
    """Which positions (B, S) are text that comes after a picture."""
    return (visual == 0) & (visual.cumsum(1) > 0)


@contextmanager
def _layer_outputs(decoder: LlavaFamilyModel, layer: int | None) -> Iterator[list[Tensor]]:
    """What the ``layer``-th decoder layer gives out (B, S, D), call by call."""
    states: list[Tensor] = []
    if layer is None:
        yield states
        return

    def keep(_module: nn.Module, _inputs: Any, output: Any) -> None:
        states.append(output)

    handle = decoder.layers[layer - 1].register_forward_hook(keep)
    try:
        yield states
    finally:
        handle.remove()
