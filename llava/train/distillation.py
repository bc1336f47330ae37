"""What a model makes of questions and answers about pictures, and how far a reduced model is from the full one.

Shapes: B rows of a batch, S positions, A answer tokens and W words behind the pictures of all rows together, V words of the
vocabulary, D the language model's width.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from llava.constants import IGNORE_INDEX, IMAGE_TOKEN_INDEX
from llava.reduction.aggregate import normalise

from .merger_settings import TrainingSettings


@dataclass(frozen=True)
class Reading:
    """A batch as a model has read it, rows one after another.

    ``logits`` (A, V) predict the answer tokens ``answers`` (A,); ``words`` (W, D) are the hidden states of all words behind a
    picture after one decoder layer, none where none were asked for or no token of a picture is left; ``counts`` is how many of
    both each row has. Text is never reduced, so A, W and their order are the same under every plan.
    """

    logits: Tensor
    answers: Tensor
    words: Tensor
    counts: list[tuple[int, int]]

    def rows(self) -> list[Reading]:
        """Each row by itself, in half precision on the CPU, to be kept."""
        answers, words = ([count[part] for count in self.counts] for part in (0, 1))
        parts = zip(self.logits.split(answers), self.answers.split(answers), self.words.split(words), self.counts)
        return [Reading(a.half().cpu(), b.cpu(), c.half().cpu(), [count]) for a, b, c, count in parts]

    @classmethod
    def of(cls, rows: Sequence[Reading], device: torch.device) -> Reading:
        """A batch of rows that were kept."""
        return cls(
            torch.cat([row.logits.float() for row in rows]).to(device),
            torch.cat([row.answers for row in rows]).to(device),
            torch.cat([row.words.float() for row in rows]).to(device),
            [count for row in rows for count in row.counts],
        )


def read(model: nn.Module, batch: dict[str, Any], layer: int | None = None) -> Reading:
    """Read a batch under the plan in force; ``layer``: the number of decoder layers after which words are taken."""
    spliced = model.splice(
        batch["input_ids"], batch["attention_mask"], batch["labels"], raw_vision_features=batch["raw_vision_features"]
    )
    decoder = model.get_model()
    with _watched(decoder, layer) as seen:
        found = decoder(
            inputs_embeds=spliced.inputs_embeds,
            attention_mask=spliced.attention_mask,
            position_ids=spliced.position_ids,
            visual=spliced.visual,
            sample_seed=spliced.sample_seed,
            use_cache=False,
        )
    targets = F.pad(spliced.labels[:, 1:], (0, 1), value=IGNORE_INDEX)
    if found.trace:
        targets = found.ledger.labels(targets)
    if layer is None:
        return _reading(model, found.last_hidden_state, targets)
    ledger = decoder.last_ledgers[layer - 1]
    return _reading(model, found.last_hidden_state, targets, seen[0], _behind(ledger.visual) & ledger.valid)


def read_together(
    model: nn.Module, batch: dict[str, Any], pictures: Sequence[Any], layer: int | None = None
) -> Reading:
    """``read`` for several questions a picture, where nothing before the decoder reads the question.

    ``pictures`` names what each row's are. What a picture's rows have in common is run once, with its picture, and its keys
    and values are shared: R rows of P common and Q own positions cost P + R Q instead of R (P + Q). Where a picture is not
    in the common part every row is read by itself. Gradients flow as in ``read``.
    """
    ids, labels = batch["input_ids"], batch["labels"]
    firsts = {picture: row for row, picture in reversed(list(enumerate(pictures)))}
    first = torch.tensor([firsts[picture] for picture in pictures], device=ids.device)
    follows = F.pad(labels[:, 1:], (0, 1), value=IGNORE_INDEX)  # a position that says an answer is a row's own
    common = int(((ids == ids[first]) & (follows == IGNORE_INDEX)).all(0).cumprod(0).sum())
    if (ids[:, common:] == IMAGE_TOKEN_INDEX).any():
        return read(model, batch, layer)
    rows = first.unique()  # ascending
    group = torch.searchsorted(rows, first)
    counts = (ids == IMAGE_TOKEN_INDEX).sum(1).tolist()
    features = list(_split(batch["raw_vision_features"], counts))
    own = [feature for row in rows.tolist() for feature in features[row]]
    start = model.splice(ids[rows, :common], raw_vision_features=own)
    decoder = model.get_model()
    mask = batch["attention_mask"][:, common:]
    with _watched(decoder, layer) as states:
        cache = decoder(
            inputs_embeds=start.inputs_embeds,
            attention_mask=start.attention_mask,
            position_ids=start.position_ids,
            use_cache=True,
        ).past_key_values
        cache.batch_select_indices(group)
        rest = decoder(
            inputs_embeds=decoder.embed_tokens(ids[:, common:]),
            attention_mask=torch.cat([start.attention_mask[group], mask], dim=1),
            position_ids=start.attention_mask.sum(1)[group, None] + torch.arange(mask.shape[1], device=ids.device),
            past_key_values=cache,
            use_cache=True,
        )
    if layer is None:
        return _reading(model, rest.last_hidden_state, follows[:, common:])
    words = torch.cat([states[0][group], states[1]], dim=1)
    behind = torch.cat([(_behind(start.visual) & start.attention_mask)[group], mask], dim=1)
    return _reading(model, rest.last_hidden_state, follows[:, common:], words, behind)


def _split(things: Sequence[Any], counts: Sequence[int]) -> Iterator[Sequence[Any]]:
    """A list cut into parts of these lengths."""
    start = 0
    for count in counts:
        yield things[start : start + count]
        start += count


def losses(training: TrainingSettings, student: Reading, teacher: Reading | None) -> dict[str, Tensor]:
    """The weighted loss and its parts, means over the answers' tokens and, of the features, over the words."""
    found = {"answer": F.cross_entropy(student.logits.float(), student.answers)}
    total = training.answer_weight * found["answer"]
    if teacher is not None:
        warmth = training.distillation_temperature
        said, meant = ((one.logits.float() / warmth).log_softmax(-1) for one in (student, teacher))
        found["distillation"] = warmth**2 * F.kl_div(said, meant, log_target=True, reduction="batchmean")
        total = total + training.distillation_weight * found["distillation"]
        if training.feature_weight:
            found["feature"] = F.mse_loss(normalise(student.words.float()), normalise(teacher.words.float()))
            total = total + training.feature_weight * found["feature"]
    return {"loss": total, **found}


def _reading(
    model: nn.Module, last: Tensor, targets: Tensor, states: Tensor | None = None, behind: Tensor | None = None
) -> Reading:
    """From the last states (B, S, D) and what comes after each (B, S), and the states to take words of and where."""
    learned = targets != IGNORE_INDEX
    words = last[:0, 0] if states is None else states[behind]
    lengths = [0] * len(targets) if behind is None else behind.sum(1).tolist()
    counts = list(zip(learned.sum(1).tolist(), lengths))
    return Reading(model.lm_head(last[learned]), targets[learned], words, counts)


def _behind(visual: Tensor) -> Tensor:
    """Which positions (B, S) are text that comes after a picture."""
    return (visual == 0) & (visual.cumsum(1) > 0)


@contextmanager
def _watched(decoder: nn.Module, layer: int | None) -> Iterator[list[Tensor]]:
    """What the ``layer``-th decoder layer gives out (B, S, D), call by call."""
    found: list[Tensor] = []
    if layer is None:
        yield found
        return
    handle = decoder.layers[layer - 1].register_forward_hook(lambda module, inputs, output: found.append(output))
    try:
        yield found
    finally:
        handle.remove()
