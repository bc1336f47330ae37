"""The ledger: where every position of a batch came from, which are visual, which may be seen, and what RoPE reads.

Shapes: B batch, S sequence, G images of one length, N visual tokens of an image; ... the axes of the positions, if any
(models with several rotary axes hand (axes, B, S)).
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn


@dataclass(frozen=True)
class Group:
    """All images of the batch that have the same number of tokens: their rows (G,) and columns (G, N)."""

    rows: Tensor
    columns: Tensor


@dataclass(frozen=True)
class Ledger:
    """Where every position of a (B, S) batch came from. Made once per prefill; replaced, never changed, by a reduction.

    visual    (B, S) long        0 for text, i for a token of the row's i-th image
    valid     (B, S) bool        False for padding
    visible   (B, S) bool        may be attended to: valid and not removed
    origin    (B, S) long        index in the unreduced sequence
    position  (..., B, S) long   what RoPE sees
    turn      (B, S) long        how many answers have begun at or before the position: 0 throughout a prompt
    pinned    (B, S) bool        its output is read, so that the row stays even where its token is removed
    size      (B, S) float       how many tokens a merged one stands for: log size is added to its logit as a key; or None

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
    turn: Tensor
    pinned: Tensor
    size: Tensor | None = None

    @classmethod
    def start(
        cls,
        visual: Tensor,
        valid: Tensor,
        position: Tensor,
        prompt: int | None = None,
        labels: Tensor | None = None,
        ignore: int = -100,
        size: Tensor | None = None,
    ) -> Ledger:
        """The ledger of an unreduced (B, S) sequence.

        ``prompt``: how many of the S slots are the prompt; what follows are drafted or recomputed answer tokens. ``labels``
        (B, S), not shifted: where they are not ``ignore`` the sequence is an answer that is being taught. Pinned are the
        last row of the prompt, the last row of all, and the rows whose output a label judges.
        """
        length = valid.shape[1]
        slot = torch.arange(length, device=valid.device)
        learned = torch.zeros_like(valid) if labels is None else (labels != ignore) & valid
        begins = learned & ~nn.functional.pad(learned[:, :-1], (1, 0))
        turn = begins.long().cumsum(1) + (slot >= (length if prompt is None else prompt))
        judged = nn.functional.pad(learned[:, 1:], (0, 1))
        ends = torch.stack([last_of(valid), last_of(valid & (turn == 0))], dim=1)  # (B, 2)
        # The cache drops rejected drafts by number from the end: every row keeps a slot for each, padding too.
        slots = valid if prompt is None else valid | (slot >= prompt)
        return cls(
            visual=visual * valid,
            valid=slots,
            visible=valid,
            origin=slot.expand_as(valid),
            position=position.expand(*position.shape[:-2], *valid.shape),
            turn=turn,
            pinned=(judged | torch.zeros_like(valid).scatter(1, ends, True)) & valid,
            size=size,
        )

    def groups(self) -> list[Group]:
        """The images that are still visible, those of one length together, in order of row and image."""
        images = int(self.visual.max()) if self.visual.numel() else 0
        by_length: dict[int, list[tuple[Tensor, Tensor]]] = {}
        for image in range(1, images + 1):
            here = (self.visual == image) & self.visible  # (B, S)
            counts = here.sum(1)
            for length in counts.unique().tolist():
                if length:
                    rows = (counts == length).nonzero()[:, 0]  # (G,)
                    columns = here[rows].nonzero()[:, 1].view(len(rows), length)  # (G, N)
                    by_length.setdefault(length, []).append((rows, columns))
        return [Group(*(torch.cat(parts) for parts in zip(*images))) for images in by_length.values()]

    def without(self, gone: Tensor, shorten: bool) -> tuple[Tensor | None, Ledger]:
        """Remove slots ``gone`` (B, S): nothing sees them any more, and with ``shorten`` their rows leave unless pinned.

        Returns what ``pack`` does; the index is None where the length stays.
        """
        hidden = replace(self, visible=self.visible & ~gone)
        return hidden.pack(self.valid & (~gone | self.pinned)) if shorten else (None, hidden)

    def pack(self, alive: Tensor) -> tuple[Tensor, Ledger]:
        """Keep the slots that are ``alive`` (B, S), in order, padded on the left to the longest row.

        Returns the index (B, S') to gather any (B, S, ...) tensor with, and the ledger of the result.
        """
        length = int(alive.sum(1).max())
        index = alive.to(torch.uint8).argsort(dim=1, stable=True)[:, alive.shape[1] - length :]  # (B, S')
        kept = alive.gather(1, index)
        return index, Ledger(
            visual=self.visual.gather(1, index) * kept,
            valid=kept,
            visible=self.visible.gather(1, index) & kept,
            origin=self.origin.gather(1, index),
            position=self.position.gather(-1, index.expand(*self.position.shape[:-2], *index.shape)),
            turn=self.turn.gather(1, index),
            pinned=self.pinned.gather(1, index) & kept,
            size=None if self.size is None else self.size.gather(1, index),
        )

    def standing_for(self, source: Tensor, size: Tensor | None) -> Ledger:
        """The same slots with the origin and the position of others, ``source`` (B, S), and with new sizes (B, S)."""
        return replace(
            self,
            origin=self.origin.gather(1, source),
            position=self.position.gather(-1, source.expand(*self.position.shape[:-2], *source.shape)),
            size=size,
        )

    def compacted(self) -> Ledger:
        """The same rows with positions counted from each row's first position.

        Raises ValueError for several rotary axes, on which positions lie as the picture does and have no next number.
        """
        if self.position.dim() > 2:
            raise ValueError(
                "positions='compact' has no meaning on several rotary axes, where positions lie as the picture does; "
                "use positions='original'"
            )
        first = self.position.masked_fill(~self.valid, torch.iinfo(torch.long).max).amin(1, keepdim=True)
        return replace(self, position=((self.valid.long().cumsum(1) - 1).clamp(min=0) + first) * self.valid)

    def to(self, device: torch.device) -> Ledger:
        """The same ledger on a device."""
        held = {name: tensor for name, tensor in vars(self).items() if tensor is not None}
        moved = {name: tensor.to(device) for name, tensor in held.items()}
        return self if all(moved[name] is tensor for name, tensor in held.items()) else replace(self, **moved)

    def labels(self, labels: Tensor, ignore: int = -100) -> Tensor:
        """Labels (B, S0) of the unreduced sequence, already shifted, at the rows that are left; padding is ignored."""
        return labels.gather(1, self.origin).masked_fill(~self.valid, ignore)

    def last(self) -> Tensor:
        """Column of every row's last valid token: (B,)."""
        return last_of(self.valid)

    def row_counts(self) -> Tensor:
        """Rows that each sample really computes: (B,); masked and zeroed tokens count, padding does not."""
        return self.valid.sum(1)

    def visual_counts(self) -> Tensor:
        """Visual tokens among them: (B,); a row that stays only for its output does not count."""
        return (self.visual.bool() & self.valid & (self.visible | ~self.pinned)).sum(1)


def last_of(mask: Tensor) -> Tensor:
    """Column of every row's last true entry: (B,); the last column where a row has none."""
    return mask.shape[1] - 1 - mask.flip(1).to(torch.uint8).argmax(1)
