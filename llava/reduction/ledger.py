"""The ledger: where every position of a batch came from, which are visual, which may be seen, and what RoPE reads.

Shapes: B batch, S sequence, G images of one length, N visual tokens of an image.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor


@dataclass(frozen=True)
class Group:
    """All images of the batch that have the same number of tokens: their rows (G,) and columns (G, N)."""

    rows: Tensor
    columns: Tensor


@dataclass(frozen=True)
class Ledger:
    """Where every position of a (B, S) batch came from. Made once per prefill; replaced, never changed, by a reduction.

    visual    (B, S) long   0 for text, i for a token of the row's i-th image
    valid     (B, S) bool   False for padding
    visible   (B, S) bool   may be attended to: valid and not masked away
    origin    (B, S) long   index in the unreduced sequence
    position  (B, S) long   what RoPE sees

    Example, one row, 2 text + 4 image + 2 text, image tokens 1 and 3 kept by dropping the others:
      visual    0 0 1 1 1 1 0 0   ->  0 0 1 1 0 0
      origin    0 1 2 3 4 5 6 7   ->  0 1 3 5 6 7
      position  0 1 2 3 4 5 6 7   ->  0 1 3 5 6 7 (original) or 0 1 2 3 4 5 (compact)
    Rows that keep different numbers are padded on the left, so the last column is always a row's last token.
    """

    visual: Tensor
    valid: Tensor
    visible: Tensor
    origin: Tensor
    position: Tensor

    @classmethod
    def start(cls, visual: Tensor, valid: Tensor, position: Tensor) -> Ledger:
        """The ledger of an unreduced (B, S) sequence."""
        origin = torch.arange(valid.shape[1], device=valid.device).expand_as(valid)
        return cls(visual * valid, valid, valid, origin, position.expand_as(valid))

    def groups(self) -> list[Group]:
        """The images that are still visible, those of one length together, in order of row and image."""
        images = int(self.visual.max()) if self.visual.numel() else 0
        found: dict[int, list[tuple[Tensor, Tensor]]] = {}
        for image in range(1, images + 1):
            here = (self.visual == image) & self.visible  # (B, S)
            counts = here.sum(1)
            for length in counts.unique().tolist():
                if length:
                    rows = (counts == length).nonzero()[:, 0]  # (G,)
                    columns = here[rows].nonzero()[:, 1].view(len(rows), length)  # (G, N)
                    found.setdefault(length, []).append((rows, columns))
        return [Group(torch.cat([r for r, _ in each]), torch.cat([c for _, c in each])) for each in found.values()]

    def pack(self, alive: Tensor) -> tuple[Tensor, Ledger]:
        """Keep the slots that are ``alive`` (B, S), in order, padded on the left to the longest row.

        Returns the index (B, S') to gather any (B, S, ...) tensor with, and the ledger of the result.
        """
        length = int(alive.sum(1).max())
        index = alive.to(torch.uint8).argsort(dim=1, stable=True)[:, alive.shape[1] - length :]  # (B, S')
        kept = alive.gather(1, index)
        taken = {name: getattr(self, name).gather(1, index) for name in ("visual", "origin", "position")}
        return index, Ledger(
            visual=taken["visual"] * kept,
            valid=kept,
            visible=self.visible.gather(1, index) & kept,
            origin=taken["origin"],
            position=taken["position"],
        )

    def compacted(self) -> Ledger:
        """The same rows with positions counted anew from each row's first position."""
        first = self.position.masked_fill(~self.valid, torch.iinfo(torch.long).max).amin(1, keepdim=True)
        return replace(self, position=((self.valid.long().cumsum(1) - 1).clamp(min=0) + first) * self.valid)

    def labels(self, labels: Tensor, ignore: int = -100) -> Tensor:
        """Labels (B, S0) of the unreduced sequence, already shifted, at the rows that are left; padding is ignored."""
        return labels.gather(1, self.origin).masked_fill(~self.valid, ignore)

    def last(self) -> Tensor:
        """Column of every row's last valid token: (B,)."""
        return self.valid.shape[1] - 1 - self.valid.flip(1).long().argmax(1)

    def row_counts(self) -> Tensor:
        """Rows that each sample really computes: (B,); masked and zeroed tokens count, padding does not."""
        return self.valid.sum(1)

    def visual_counts(self) -> Tensor:
        """Visual tokens among them: (B,)."""
        return (self.visual.bool() & self.valid).sum(1)
