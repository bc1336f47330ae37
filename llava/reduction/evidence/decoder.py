"""Evidence inside the decoder: attention, keys, hidden states, each computed when a group of images asks.

Shapes: B batch, S sequence, G images of one length, N their tokens, H heads, R query rows, D width, d width of a head.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any, Literal, Protocol

import torch
from torch import Tensor

from ..ledger import Group, Ledger, last_of
from .attention import Rope, attention_rows, layer_keys
from .base import Evidence, mixed_seed
from .needs import TextScope

Rows = Literal["last", "text", "image"]
Heads = Literal["all", "mean", "max"]


@dataclass
class DecoderEvidence(Evidence):
    """Evidence about the images of one group, inside the decoder.

    Attention is after the softmax, in float32. ``back``: of which layer, 1 the layer before the stage, 0 the layer that is
    about to run, 2 and more the layers before, as far as the reducer's ``looks_back`` reaches. Images of one group may have
    different amounts of text: R is the largest, and what a row lacks is zero.
    """

    layer: LayerEvidence = field(kw_only=True)
    group: Group = field(kw_only=True)

    def part(self, images: Tensor) -> DecoderEvidence:
        group = Group(self.group.rows[images], self.group.columns[images])
        return replace(super().part(images), group=group)

    def attention(
        self,
        rows: Rows = "last",
        heads: Heads = "all",
        back: int = 1,
        rope: bool = True,
        image_only: bool = False,
        scope: TextScope = "after",
    ) -> Tensor:
        """How much some rows attend to the image's tokens: (G, H, R, N), of one row ("last") (G, H, N).

        ``rows``: the prompt's "last" token, its "text" (what is no word of a sample is zero; ``scope`` as in ``text``), or
        the "image" tokens. ``heads``: "all", or their "mean" or "max" cell by cell, without H. ``rope=False``: queries and
        keys before the rotary embedding. ``image_only``: the softmax runs over the image's tokens alone.
        """
        columns, real = self._rows(rows, scope)
        seen = self._reduced(columns, heads, back, rope, image_only)  # (G, [H,] R, N)
        if rows == "last":
            return seen[..., 0, :]
        return seen if real is None else seen * (real[:, None, :, None] if heads == "all" else real[..., None])

    def received(self, rows: Literal["text", "image"], heads: Literal["mean", "max"] = "mean", back: int = 1) -> Tensor:
        """How much attention each token receives from some rows, summed over them: (G, N). No N x N map is held."""
        columns, real = self._rows(rows, "after")
        total = torch.zeros_like(self.group.columns, dtype=torch.float32)
        for start in range(0, columns.shape[1], LayerEvidence.CHUNK):
            part = slice(start, start + LayerEvidence.CHUNK)
            seen = self._reduced(columns[:, part], heads, back, True, False)  # (G, r, N)
            total += seen.sum(1) if real is None else (seen * real[:, part, None]).sum(1)
        return total

    def image_attention(self) -> Tensor:
        """How much the image's tokens attend to one another, mean over the heads: (G, N, N)."""
        return self.attention("image", "mean")

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

    def keys(self, rows: Literal["image", "text"] = "image", back: int = 1, rope: bool = True) -> tuple[Tensor, Tensor]:
        """Keys of a layer (G, H_kv, R, d) for the image's tokens or the text after it, and which are real (G, R)."""
        columns, real = self._rows(rows, "after")
        keys = self.layer.source(back).keys(rope)[self.group.rows]
        index = columns[:, None, :, None].expand(-1, keys.shape[1], -1, keys.shape[-1])
        return keys.gather(2, index), torch.ones_like(columns, dtype=torch.bool) if real is None else real

    def change(self) -> Tensor:
        """How the layer before has changed the image's tokens: (G, N, D)."""
        rows, columns = self.group.rows[:, None], self.group.columns
        return self.layer.hidden[rows, columns] - self.layer.source(1).entered[rows, columns]

    def embeddings(self, rows: Literal["image", "text"] = "image") -> tuple[Tensor, Tensor]:
        """What entered the decoder of each image as it was then, or of the text after it: (G, R, D) and which are real."""
        return self.layer.embeddings(self.group, rows)

    def normed(self, states: Tensor) -> Tensor:
        """Hidden states (..., D) behind the decoder's final norm."""
        return self.layer.norm(states)

    def _rows(self, rows: Rows, scope: TextScope) -> tuple[Tensor, Tensor | None]:
        """The columns of some rows of each image's sample (G, R), and which are real, None for all."""
        if rows == "last":
            return self.layer.last_columns(self.group)[:, None], None
        if rows == "image":
            return self.group.columns, None
        return self.layer.text(self.group, scope)

    def _reduced(self, columns: Tensor, heads: Heads, back: int, rope: bool, image_only: bool) -> Tensor:
        only = self.group if image_only else None
        parts = []
        for part in columns.split(LayerEvidence.CHUNK, dim=1):
            seen = self._image(self.layer.attention(self.group.rows, part, back, rope, only))  # (G, H, r, N)
            parts.append(seen if heads == "all" else seen.mean(1) if heads == "mean" else seen.amax(1))
        return torch.cat(parts, dim=-2)

    def _image(self, whole: Tensor) -> Tensor:
        """Of attention (G, H, R, S) the columns of the image: (G, H, R, N)."""
        return whole.gather(-1, self.group.columns[:, None, None].expand(-1, *whole.shape[1:3], -1))


class Source(Protocol):
    """A decoder layer whose attention can be asked: the layer, what went into it (B, S, D), its rotary embedding."""

    layer: Any
    entered: Tensor
    rope: Rope

    def keys(self, rope: bool) -> Tensor:
        """Its keys (B, H_kv, S, d), rotated or not."""
        ...


class LayerSource:
    """A ``Source`` that computes the keys once each way; ``cached``: the rotated keys, where a cache holds them."""

    def __init__(self, layer: Any, entered: Tensor, rope: Rope, cached: Tensor | None = None):
        self.layer, self.entered, self.rope = layer, entered, rope
        self._keys = {True: cached} if cached is not None else {}

    def keys(self, rope: bool) -> Tensor:
        """Its keys (B, H_kv, S, d), rotated or not."""
        if rope not in self._keys:
            self._keys[rope] = layer_keys(self.layer, self.entered, self.rope if rope else None)
        return self._keys[rope]


class LayerEvidence:
    """What a stage of one decoder layer can learn, each thing computed only when a group of images asks.

    ``hidden`` (B, S, D) is what arrives at the stage's layer; ``source(back)`` gives the layer so many before it, raising
    ValueError where that was not asked for in time; ``seeds`` (B,) is a number for each sample. ``start``: the ledger of the
    unreduced sequence and what entered the decoder (B, S0, D), where a stage needs it. ``grids`` (B, I, 2): height and width
    of each image's grid, zero where it has none.
    Evidence about an image ends where the first answer after it begins: what is to be learned never decides what is kept.
    """

    CHUNK = 128  # query rows at a time: the map of all heads is never held whole

    def __init__(
        self,
        ledger: Ledger,
        hidden: Tensor,
        source: Callable[[int], Source],
        seeds: Tensor,
        norm: Callable[[Tensor], Tensor] = lambda states: states,
        start: tuple[Ledger, Tensor] | None = None,
        grids: Tensor | None = None,
    ):
        self.ledger, self.hidden, self.source, self.seeds, self.norm = ledger, hidden, source, seeds, norm
        self.start, self.grids = start, grids
        self._last: dict[tuple[int, bool, tuple[tuple[int, int], ...]], Tensor] = {}

    def groups(self) -> list[Group]:
        """The images that are still visible, those of one length and one grid together."""
        whole = self.ledger.groups()
        if self.grids is None:
            return whole
        return [part for group in whole for part in self._by_grid(group, self._grids(group))]

    def of(self, group: Group) -> DecoderEvidence:
        """The evidence about one group of images."""
        image = self.ledger.visual[group.rows, group.columns[:, 0]]
        grid = None
        if self.grids is not None:
            height, width = self._grids(group)[0].tolist()
            grid = (height, width) if height * width == group.columns.shape[1] else None
        return DecoderEvidence(
            seeds=mixed_seed(self.seeds[group.rows], image),
            grid=grid,
            sizes=None if self.ledger.size is None else self.ledger.size[group.rows[:, None], group.columns],
            layer=self,
            group=group,
        )

    def attention(
        self, rows: Tensor, columns: Tensor, back: int = 1, rope: bool = True, only: Group | None = None
    ) -> Tensor:
        """Attention (G, H, R, S) of the tokens at ``columns`` (G, R) of samples ``rows`` (G,).

        ``only``: the softmax runs over the tokens of these images alone, one each.
        """
        if only is None and columns.shape[1] == 1:
            return self._shared(rows, columns, back, rope)
        visible = self.ledger.visible[rows]
        if only is not None:
            visible = torch.zeros_like(visible).scatter(1, only.columns, True)
        return self._rows(rows, columns, back, rope, visible)

    def _shared(self, rows: Tensor, columns: Tensor, back: int, rope: bool) -> Tensor:
        """Attention (G, H, 1, S) of one token for each image; images of one sample that ask the same share the answer."""
        queries, which = torch.stack([rows, columns[:, 0]], dim=1).unique(dim=0, return_inverse=True)  # (Q, 2), (G,)
        key = back, rope, tuple(map(tuple, queries.tolist()))
        if key not in self._last:
            samples = queries[:, 0]
            self._last[key] = self._rows(samples, queries[:, 1:], back, rope, self.ledger.visible[samples])
        return self._last[key][which]

    def _rows(self, rows: Tensor, columns: Tensor, back: int, rope: bool, visible: Tensor) -> Tensor:
        source = self.source(back)
        entered, keys, turn = source.entered, source.keys(rope), source.rope if rope else None
        if not torch.equal(rows, torch.arange(len(entered), device=rows.device)):
            entered, keys = entered[rows], keys[rows]
            turn = turn and (turn[0][rows], turn[1][rows])
        return attention_rows(source.layer, entered, turn, columns, visible, keys)

    def mean_rows(self, rows: Tensor, columns: Tensor) -> Tensor:
        """Attention of the tokens at ``columns`` (G, R) of samples ``rows`` (G,), mean over the heads: (G, R, S)."""
        parts = columns.split(self.CHUNK, dim=1)
        return torch.cat([self.attention(rows, part).mean(1) for part in parts], dim=1)

    def last_columns(self, group: Group) -> Tensor:
        """The column of the last token before an answer to each image of a group: (G,)."""
        return last_of(self._prompt(self.ledger, group))

    def text(self, group: Group, scope: TextScope) -> tuple[Tensor, Tensor]:
        """Columns of the text of every image of a group (G, R), and which of them are real."""
        return self._text(self.ledger, group, scope)

    def embeddings(self, group: Group, rows: Literal["image", "text"]) -> tuple[Tensor, Tensor]:
        """What entered the decoder (G, R, D) of each image, or of the text after it, and which are real (G, R)."""
        if self.start is None:
            raise ValueError("a reducer asks for embeddings without Need.EMBEDDINGS among its needs; add it there")
        ledger, entered = self.start
        image = self.ledger.visual[group.rows, group.columns[:, 0]]
        here = (ledger.visual[group.rows] == image[:, None]) & ledger.valid[group.rows]
        columns, real = _packed(here)
        if rows == "text":
            columns, real = self._text(ledger, Group(group.rows, columns), "after")
        return entered[group.rows[:, None], columns], real

    def _text(self, ledger: Ledger, group: Group, scope: TextScope) -> tuple[Tensor, Tensor]:
        slot = torch.arange(ledger.valid.shape[1], device=ledger.valid.device)
        text = self._prompt(ledger, group) & (ledger.visual[group.rows] == 0)  # (G, S)
        if scope == "after":
            text = text & (slot > group.columns[:, -1:])
        return _packed(text)

    @staticmethod
    def _prompt(ledger: Ledger, group: Group) -> Tensor:
        """Which slots (G, S) are known when each image's question is asked: all before the first answer after it."""
        turn = ledger.turn[group.rows]
        return ledger.valid[group.rows] & (turn <= turn.gather(1, group.columns[:, -1:]))

    def _grids(self, group: Group) -> Tensor:
        """Height and width of each image's grid, zero where it is none any more: (G, 2)."""
        image = self.ledger.visual[group.rows, group.columns[:, 0]]
        grids = self.grids[group.rows, image - 1]  # pyright: ignore[reportOptionalSubscript]
        return grids * (grids.prod(1, keepdim=True) == group.columns.shape[1])

    @staticmethod
    def _by_grid(group: Group, grids: Tensor) -> list[Group]:
        kinds, which = grids.unique(dim=0, return_inverse=True)
        if len(kinds) == 1:
            return [group]
        return [Group(group.rows[which == kind], group.columns[which == kind]) for kind in range(len(kinds))]


def _packed(mask: Tensor) -> tuple[Tensor, Tensor]:
    """The columns (G, R) of the true entries of each row, in order and at the right, and which are real."""
    longest = max(1, int(mask.sum(1).max()))
    columns = mask.to(torch.uint8).argsort(dim=1, stable=True)[:, mask.shape[1] - longest :]
    return columns, mask.gather(1, columns)
