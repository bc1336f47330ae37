"""PaliGemma and Gemma 3: SigLIP on one square, a fixed number of tokens."""

from __future__ import annotations

from llava.reduction import Stage

from ..vit import crop_grid, vit_flops
from .base import Family, Picture, linear


class PaliGemma(Family):
    """One token a patch; one matrix."""

    model_types = ("paligemma",)

    def picture(self, height: int, width: int, alone: bool = True) -> Picture:
        grid = crop_grid(self.vision)
        return Picture(grid[0] * grid[1], 0, (grid,))

    def tower_flops(self, picture: Picture, plan: list[Stage]) -> float:
        return vit_flops(self.vision, picture)

    def projector_flops(self, picture: Picture, plan: list[Stage]) -> float:
        return linear(picture.tokens, self.vision.hidden_size, self.vision.projection_dim)


class Gemma3(PaliGemma):
    """Patches are averaged to ``mm_tokens_per_image`` tokens, then one matrix; a blank line and a marker on either side."""

    model_types = ("gemma3",)

    def picture(self, height: int, width: int, alone: bool = True) -> Picture:
        return Picture(self.config.mm_tokens_per_image, 4, (crop_grid(self.vision),))

    def projector_flops(self, picture: Picture, plan: list[Stage]) -> float:
        return linear(picture.tokens, self.vision.hidden_size, self.text.hidden_size)
