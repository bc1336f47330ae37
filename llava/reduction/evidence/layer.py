"""What a decoder layer can be asked about any rows of the batch: its attention, its keys, what entered the decoder.

Shapes: B batch, S sequence, G images of one length, N their tokens, H heads, R query rows, D width, d width of a head.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Literal, Protocol

import torch
from torch import Tensor

from ..ledger import Group, Ledger, last_of
from .attention import Rope, attention_rows, layer_keys, rotate
from .needs import TextScope


class Source(Protocol):
    """A decoder layer whose attention can be asked: the layer, what went into it (B, S, D), its rotary embedding, its mask."""

    layer: Any
    entered: Tensor
    rope: Rope
    mask: Tensor | None

    def keys(self, rope: bool) -> Tensor:
        """Its keys (B, H_kv, S, d), rotated or not."""
        ...


class LayerSource:
    """A ``Source`` that computes the keys once each way.

    ``cached``: the rotated keys, where a cache holds them. ``mask`` (B or 1, S, S): which keys each row may see, where that
    is not all before it.
    """

    def __init__(
        self, layer: Any, entered: Tensor, rope: Rope, cached: Tensor | None = None, mask: Tensor | None = None
    ):
        self.layer, self.entered, self.rope, self.mask = layer, entered, rope, mask
        self._keys = {True: cached} if cached is not None else {}

    def keys(self, rope: bool) -> Tensor:
        """Its keys (B, H_kv, S, d), rotated or not."""
        if rope not in self._keys:
            self._keys[rope] = layer_keys(self.layer, self.entered, self.rope if rope else None)
        return self._keys[rope]

    def at(self, index: Tensor) -> LayerSource:
        """The same layer, of which only the rows ``index`` (B, S') are known."""
        device = self.entered.device
        index, mask = index.to(device), self.mask
        rows = index[..., None]
        if mask is not None:
            mask = mask.expand(len(index), -1, -1).gather(1, rows.expand(-1, -1, mask.shape[-1]))
            mask = mask.gather(2, index[:, None].expand(-1, index.shape[1], -1))
        entered, cos, sin = (part.gather(1, rows.expand(-1, -1, part.shape[-1])) for part in (self.entered, *self.rope))
        return LayerSource(self.layer, entered, (cos, sin), mask=mask)

    def on(self, device: torch.device, cached: Tensor | None) -> LayerSource:
        """The same on a device, with the rotated keys that a cache holds."""
        cos, sin = self.rope
        mask = None if self.mask is None else self.mask.to(device)
        keys = None if cached is None else cached.to(device)
        return LayerSource(self.layer, self.entered.to(device), (cos.to(device), sin.to(device)), keys, mask)


class LayerEvidence:
    """What a stage of one decoder layer can learn, each thing computed only when a group of images asks.

    ``hidden`` (B, S, D) is what arrives at the stage's layer; ``source(back)`` gives the layer ``back`` before it,
    raising ValueError where that was not asked for in time; ``seeds`` (B,) is a number for each sample. ``start``: the
    ledger of the unreduced sequence and what entered the decoder (B, S0, D), where a stage needs it. ``grids`` (B, I,
    2): height and width of each image's grid, or (B, I, 3) with the number of frames before them, zero where it has
    none. ``reach``: how many layers back ``source`` can be asked for. Evidence about an image ends where the first
    answer after it begins: what is to be learned never decides what is kept.
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
        reach: int = 1,
    ):
        self.ledger, self.hidden, self.source, self.seeds, self.norm = ledger, hidden, source, seeds, norm
        self.start, self.grids, self.reach = start, grids, reach
        self._last: dict[tuple[int, bool, tuple[tuple[int, int], ...]], Tensor] = {}

    def groups(self) -> list[Group]:
        """The images that are still visible, those of one length and one grid together."""
        whole = self.ledger.groups()
        if self.grids is None:
            return whole
        return [part for group in whole for part in self._by_grid(group, self.grids_of(group))]

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
        entered, keys, turn, mask = source.entered, source.keys(rope), source.rope if rope else None, source.mask
        if not torch.equal(rows, torch.arange(len(entered), device=rows.device)):
            entered, keys = entered[rows], keys[rows]
            turn = turn and (turn[0][rows], turn[1][rows])
            mask = mask if mask is None or len(mask) == 1 else mask[rows]
        return attention_rows(source.layer, entered, turn, columns, visible, keys, mask)

    def mean_rows(self, rows: Tensor, columns: Tensor) -> Tensor:
        """Attention of the tokens at ``columns`` (G, R) of samples ``rows`` (G,), mean over the heads: (G, R, S)."""
        parts = columns.split(self.CHUNK, dim=1)
        return torch.cat([self.attention(rows, part).mean(1) for part in parts], dim=1)

    def rotated_ones(self, back: int) -> Tensor:
        """A vector of ones, rotated as a layer rotates queries and keys: (B, S, d)."""
        cos, sin = self.source(back).rope
        ones = torch.ones_like(cos[:, None])
        return rotate(ones, cos, sin)[:, 0].float().expand(len(self.hidden), -1, -1)

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

    def grids_of(self, group: Group) -> Tensor:
        """Height and width of the grid of each image of a group, zero where it no longer is one: (G, 2).

        The frames of a video lie one below another.
        """
        image = self.ledger.visual[group.rows, group.columns[:, 0]]
        grids = self.grids[group.rows, image - 1]  # pyright: ignore[reportOptionalSubscript]
        if grids.shape[1] == 3:
            grids = torch.stack([grids[:, 0] * grids[:, 1], grids[:, 2]], dim=1)
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
