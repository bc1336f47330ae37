"""What a reducer may look at, computed only when it asks.

Shapes: B batch, S sequence, G images of one length, N their tokens, H heads, R query rows, D width.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from enum import Enum
from typing import Any, Literal, Self

import torch
from torch import Tensor

from .ledger import Group, Ledger, last_of


class Need(Enum):
    """A kind of evidence; a stage whose site cannot give it is refused before anything runs."""

    ATTENTION = "attention rows of the layer before"
    TEXT = "the hidden states of the text"
    GRID = "the arrangement of the tokens on the picture"
    SEED = "a number for each picture"
    QUESTION = "the embeddings of the question's words"


SITE_GIVES = {
    "pixels": frozenset(),
    "features": frozenset({Need.GRID, Need.SEED, Need.QUESTION}),
    "prompt": frozenset({Need.GRID, Need.SEED, Need.QUESTION, Need.TEXT}),
    "layer": frozenset({Need.ATTENTION, Need.TEXT, Need.SEED}),
}

TextScope = Literal["after", "all"]  # the text after the image, or all of the prompt's


@dataclass
class Evidence:
    """Evidence about G images of N tokens each; ``notes`` is where a reducer leaves what it found out.

    seeds (G,) one number per picture, the same alone and in a batch. grid (h, w) with h * w = N, or None. question: the
    embeddings (G, T, D) of the words asked about each picture and which of them are real (G, T), None where no stage
    asked. In the decoder it is a ``DecoderEvidence``, which also gives attention and text.
    """

    seeds: Tensor
    grid: tuple[int, int] | None = None
    question: tuple[Tensor, Tensor] | None = None
    notes: dict = field(default_factory=dict)

    def text(self, scope: TextScope = "after") -> tuple[Tensor, Tensor]:
        """The words asked about each picture (G, T, D) and which of them are real (G, T), in the width of the tokens.

        At the prompt they are embeddings of the text after the image, whatever the ``scope``. One method can so read them
        at the prompt and in the decoder.
        """
        if self.question is None:
            raise ValueError("no question was handed in; a method that reads it must name Need.TEXT or Need.QUESTION")
        return self.question

    @property
    def sides(self) -> tuple[int, int]:
        """``grid``, for a reducer that needs it. Raises ValueError where the tokens have none."""
        if self.grid is None:
            raise ValueError("the tokens have no grid; a reducer that reads it has Need.GRID among its needs")
        return self.grid

    def part(self, images: Tensor) -> Self:
        """The evidence about some of the G images, ``images`` (g,); its notes are the same."""
        question = self.question and (self.question[0][images], self.question[1][images])
        return replace(self, seeds=self.seeds[images], question=question)


@dataclass
class DecoderEvidence(Evidence):
    """Evidence inside the decoder, computed when asked; attention is that of the layer before, post-softmax, float32.

    Images of one group may have different amounts of text: R is the largest, and what a row lacks is zero.
    """

    layer: LayerEvidence = field(kw_only=True)
    group: Group = field(kw_only=True)

    def part(self, images: Tensor) -> Self:
        group = Group(self.group.rows[images], self.group.columns[images])
        return replace(super().part(images), group=group)

    def attention(self) -> Tensor:
        """How much the prompt's last token attends to the image's tokens: (G, H, N)."""
        return self._image(self.layer.last(self.group)[:, :, None])[:, :, 0]

    def image_attention(self) -> Tensor:
        """How much the image's tokens attend to one another, mean over the heads: (G, N, N)."""
        return self._image(self.layer.mean_rows(self.group.rows, self.group.columns)[:, None])[:, 0]

    def text_attention(self, scope: TextScope = "after") -> tuple[Tensor, Tensor]:
        """How much the text attends to the image and to the text, mean over the heads: (G, R, N) and (G, R, R)."""
        columns, real = self.layer.text(self.group, scope)  # (G, R)
        seen = self.layer.mean_rows(self.group.rows, columns) * real[..., None]  # (G, R, S)
        to_text = seen.gather(-1, columns[:, None].expand(-1, columns.shape[1], -1)) * real[:, None]
        return self._image(seen[:, None])[:, 0], to_text

    def text(self, scope: TextScope = "after") -> tuple[Tensor, Tensor]:
        """Hidden states of the text (G, R, D) that arrive with the image's tokens, and which of them are real (G, R)."""
        columns, real = self.layer.text(self.group, scope)
        return self.layer.hidden[self.group.rows[:, None], columns], real

    def _image(self, whole: Tensor) -> Tensor:
        """Of attention (G, H, R, S) the columns of the image: (G, H, R, N)."""
        return whole.gather(-1, self.group.columns[:, None, None].expand(-1, *whole.shape[1:3], -1))


def layer_keys(layer: Any, entered: Tensor, rope: tuple[Tensor, Tensor]) -> Tensor:
    """The rotated keys (B, H_kv, S, d) of a decoder layer, from what went into it."""
    return _rotate(_heads(layer, "k", entered), *rope)


def attention_rows(
    layer: Any,
    entered: Tensor,
    rope: tuple[Tensor, Tensor],
    rows: Tensor,
    visible: Tensor,
    keys: Tensor,
) -> Tensor:
    """A few rows of a decoder layer's attention, without the S x S map and whatever the attention backend.

    ``layer`` is a decoder layer of Llama's kind (Mistral, Qwen2, Qwen3: biases and q/k norms are respected), ``entered``
    (B, S, D) what went into it, ``rope`` its cosines and sines (B, S, d),
    ``rows`` (B, R) the columns whose queries are wanted, ``visible`` (B, S) which keys may be seen, ``keys``
    (B, H_kv, S, d) the layer's rotated keys, from its cache or ``layer_keys``. Returns (B, H, R, S) in float32, causal.
    Cost: R query projections and R x S products a head; 0.2-0.4 % of a layer for one row. Raises ValueError for a layer
    whose attention is more than that (soft caps, sliding windows).
    """
    batch, length, width = entered.shape
    picked = rows[..., None]  # (B, R, 1)
    queries = _heads(layer, "q", entered.gather(1, picked.expand(-1, -1, width)))  # (B, H, R, d)
    turn = [part.expand(batch, -1, -1).gather(1, picked.expand(-1, -1, part.shape[-1])) for part in rope]  # (B, R, d)
    queries = _rotate(queries, *turn)
    shared = queries.unflatten(1, (keys.shape[1], -1))  # (B, H_kv, H / H_kv, R, d)
    logits = (shared @ keys[:, :, None].transpose(-1, -2)).flatten(1, 2) * layer.self_attn.scaling  # (B, H, R, S)
    seen = torch.arange(length, device=rows.device) <= picked  # (B, R, S)
    return logits.float().masked_fill(~(seen & visible[:, None])[:, None], -torch.inf).softmax(-1)


def _heads(layer: Any, which: Literal["q", "k"], hidden: Tensor) -> Tensor:
    """Queries or keys of (B, S, D) before rotation, split into heads: (B, H, S, d)."""
    attention = layer.self_attn
    unknown = [name for name in ("attn_logit_softcapping", "sliding_window") if getattr(attention, name, None)]
    if unknown or not hasattr(layer, "input_layernorm") or not hasattr(attention, f"{which}_proj"):
        raise ValueError(
            f"the attention of {type(layer).__name__} cannot be read row by row ({', '.join(unknown) or 'other projections'});"
            " use a plan that reads no attention, such as grid, pool or random"
        )
    projected = getattr(attention, f"{which}_proj")(layer.input_layernorm(hidden))
    heads = projected.unflatten(-1, (-1, attention.head_dim))
    norm = getattr(attention, f"{which}_norm", None)
    return (heads if norm is None else norm(heads)).transpose(1, 2)


def _rotate(states: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Rotary embedding of (B, H, S, d) by cosines and sines (B, S, d)."""
    first, second = states.chunk(2, dim=-1)
    return states * cos[:, None] + torch.cat([-second, first], dim=-1) * sin[:, None]


class LayerEvidence:
    """What a stage of one decoder layer can learn, each thing computed only when a group of images asks.

    ``hidden`` (B, S, D) is what arrives at the stage's layer; ``compute(rows (G,), columns (G, R))`` gives attention
    (G, H, R, S) of the layer before, of all samples in order where rows is None; ``seeds`` (B,) is a number for each sample.
    Evidence about an image ends where the first answer after it begins: what is to be learned never decides what is kept.
    """

    CHUNK = 128  # query rows at a time: the map of all heads is never held whole

    def __init__(
        self, ledger: Ledger, hidden: Tensor, compute: Callable[[Tensor | None, Tensor], Tensor], seeds: Tensor
    ):
        self.ledger, self.hidden, self.compute, self.seeds = ledger, hidden, compute, seeds
        self._last: dict[tuple[tuple[int, int], ...], Tensor] = {}

    def of(self, group: Group) -> DecoderEvidence:
        """The evidence about one group of images."""
        image = self.ledger.visual[group.rows, group.columns[:, 0]]
        return DecoderEvidence(seeds=mixed_seed(self.seeds[group.rows], image), layer=self, group=group)

    def last(self, group: Group) -> Tensor:
        """Attention (G, H, S) of the last token before an answer to each image of a group."""
        prompt, samples = self._prompt(group), torch.arange(len(self.ledger.valid), device=group.rows.device)
        queries, which = torch.stack([group.rows, last_of(prompt)], dim=1).unique(
            dim=0, return_inverse=True
        )  # (Q, 2), (G,)
        key = tuple(map(tuple, queries.tolist()))
        if key not in self._last:
            rows = None if torch.equal(queries[:, 0], samples) else queries[:, 0]
            self._last[key] = self.compute(rows, queries[:, 1:])[:, :, 0]  # (Q, H, S)
        return self._last[key][which]

    def mean_rows(self, rows: Tensor, columns: Tensor) -> Tensor:
        """Attention of the tokens at ``columns`` (G, R) of samples ``rows`` (G,), mean over the heads: (G, R, S)."""
        parts = columns.split(self.CHUNK, dim=1)
        return torch.cat([self.compute(rows, part).mean(1) for part in parts], dim=1)

    def text(self, group: Group, scope: TextScope) -> tuple[Tensor, Tensor]:
        """Columns of the text of every image of a group (G, R), and which of them are real."""
        slot = torch.arange(self.ledger.valid.shape[1], device=self.ledger.valid.device)
        text = self._prompt(group) & (self.ledger.visual[group.rows] == 0)  # (G, S)
        if scope == "after":
            text = text & (slot > group.columns[:, -1:])
        longest = max(1, int(text.sum(1).max()))
        columns = text.to(torch.uint8).argsort(dim=1, stable=True)[:, len(slot) - longest :]
        return columns, text.gather(1, columns)

    def _prompt(self, group: Group) -> Tensor:
        """Which slots (G, S) are known when each image's question is asked: all before the first answer after it."""
        turn = self.ledger.turn[group.rows]
        return self.ledger.valid[group.rows] & (turn <= turn.gather(1, group.columns[:, :1]))


def mixed_seed(seeds: Tensor | int, number: Tensor | int) -> Any:
    """One number from a seed and a running number, so that neighbours of either kind do not meet."""
    return (seeds * 1_000_003 + number) % (1 << 48)
