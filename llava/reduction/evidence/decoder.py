"""Evidence inside the decoder: attention, keys, hidden states, each computed when a group of images asks.

Shapes: B batch, S sequence, G images of one length, N their tokens, H heads, R query rows, D width, d width of a head.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Literal

import torch
from torch import Tensor

from ..ledger import Group
from .attention import layer_queries
from .base import Evidence, mixed_seed
from .layer import LayerEvidence
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

    @classmethod
    def of(cls, layer: LayerEvidence, group: Group) -> DecoderEvidence:
        """What the stage before a layer can learn about one group of images, as ``LayerEvidence.groups`` gives it."""
        ledger, grid = layer.ledger, None
        if layer.grids is not None:
            height, width = layer.grids_of(group)[0].tolist()
            grid = (height, width) if height * width == group.columns.shape[1] else None
        return cls(
            seeds=mixed_seed(layer.seeds[group.rows], ledger.visual[group.rows, group.columns[:, 0]]),
            grid=grid,
            sizes=None if ledger.size is None else ledger.size[group.rows[:, None], group.columns],
            layer=layer,
            group=group,
        )

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

    def queries(self, back: int = 1) -> Tensor:
        """Queries of the image's tokens in a layer, before the rotary embedding: (G, H, N, d)."""
        source = self.layer.source(back)
        return layer_queries(source.layer, source.entered[self.group.rows[:, None], self.group.columns])

    def position_bias(self, rows: Rows = "text", back: int = 1) -> Tensor:
        """The product of a query and a key of ones at the rows' and the image's positions, over sqrt(d): (G, R, N).

        It falls with the distance, whatever the tokens are (SparseVLM's second version, arXiv 2410.04417).
        """
        ones = self.layer.rotated_ones(back)  # (B, S, d)
        columns, _ = self._rows(rows, "after")
        sample = self.group.rows[:, None]
        return ones[sample, columns] @ ones[sample, self.group.columns].transpose(1, 2) * ones.shape[-1] ** -0.5

    def change(self) -> Tensor:
        """How the layer before has changed the image's tokens: (G, N, D)."""
        rows, columns = self.group.rows[:, None], self.group.columns
        return self.layer.hidden[rows, columns] - self.layer.source(1).entered[rows, columns]

    def embeddings(self, rows: Literal["image", "text"] = "image") -> tuple[Tensor, Tensor]:
        """What entered the decoder for each image, as it was then, or the text after it (G, R, D); which are real."""
        return self.layer.embeddings(self.group, rows)

    @property
    def reach(self) -> int:
        """How many layers back attention can be asked for: as many as were asked for and as there are."""
        return self.layer.reach

    def normed(self, states: Tensor) -> Tensor:
        """Hidden states (..., D) after the decoder's final norm."""
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
        """The image's columns (G, H, R, N) of attention (G, H, R, S)."""
        return whole.gather(-1, self.group.columns[:, None, None].expand(-1, *whole.shape[1:3], -1))
