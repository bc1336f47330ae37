"""What a caller says about the positions of a prefill.

Shapes: B batch, P prompt, S sequence, I images of a row.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn


@dataclass
class Prompt:
    """What a caller says about the positions of a prefill.

    visual (B, P): 0 for text, i for the row's i-th image; the rows after P are drafted or recomputed answers. seeds (B,):
    a number for each sample. labels (B, S), not shifted: what is being taught. sizes (B, P): how many tokens each position
    stands for. grids (B, I, 2): height and width of the grid of each image's tokens, zero where they have none. correct:
    what a host makes of ``visual``, given which positions are no padding, and what the trace should say of it.
    """

    visual: Tensor | None = None
    seeds: Tensor | None = None
    labels: Tensor | None = None
    sizes: Tensor | None = None
    grids: Tensor | None = None
    correct: Callable[[Tensor | None, Tensor], tuple[Tensor | None, tuple[str, ...]]] = lambda visual, valid: (
        visual,
        (),
    )

    def image_map(self, valid: Tensor) -> tuple[Tensor, int, tuple[str, ...]]:
        """``visual`` as long as the sequence (B, S), how many of its rows are the prompt, and remarks for the trace.

        What follows the prompt is text.

        Raises ValueError where it does not fit.
        """
        visual, remarks = self.correct(self.visual, valid)
        if visual is None:
            return torch.zeros_like(valid, dtype=torch.long), valid.shape[1], remarks
        if visual.shape[0] != valid.shape[0] or visual.shape[1] > valid.shape[1]:
            raise ValueError(
                f"visual has shape {tuple(visual.shape)} but the sequence is {tuple(valid.shape)}; give one entry per "
                "prompt token (a prompt with an image cannot be fed in pieces: do not set prefill_chunk_size)"
            )
        return nn.functional.pad(visual.long(), (0, valid.shape[1] - visual.shape[1])), visual.shape[1], remarks

    def token_sizes(self, length: int) -> Tensor | None:
        """``sizes`` for a sequence of ``length`` positions: what follows the prompt stands for itself."""
        if self.sizes is None:
            return None
        return nn.functional.pad(self.sizes.float(), (0, length - self.sizes.shape[1]), value=1.0)

    def sample_seeds(self, batch: int, device: torch.device) -> Tensor:
        """A number for each of ``batch`` samples; zeros where none were given."""
        if self.seeds is None:
            return torch.zeros(batch, dtype=torch.long, device=device)
        if len(self.seeds) != batch:
            raise ValueError(f"sample_seed has {len(self.seeds)} entries for a batch of {batch}; give one per row")
        return self.seeds
