"""LLaVA-NeXT (1.6) in transformers' layout: the whole picture and its crops, without the lines that are padding."""

from __future__ import annotations

import torch
from transformers.image_processing_utils import select_best_resolution
from transformers.models.llava_next.modeling_llava_next import unpad_image

from ..vit import crop_grid
from .base import Grid, Picture, side
from .llava import Llava


class LlavaNext(Llava):
    """A base view and a grid of crops, each line of which ends in a newline token."""

    model_types = ("llava_next",)

    def picture(self, height: int, width: int, alone: bool = True) -> Picture:
        down, across = crop_grid(self.vision)
        grids, lines = self.crops(height, width)
        rows, columns = self.pooled(lines)
        return Picture(down * across + rows * columns + self.class_tokens, rows, grids)

    def crops(self, height: int, width: int) -> tuple[tuple[Grid, ...], Grid]:
        """The grids of the base view and of all crops, and what is left of the crops' common grid without padding."""
        grid, crop = crop_grid(self.vision), side(self.vision.image_size)
        best = select_best_resolution((height, width), self.config.image_grid_pinpoints)
        down, across = (length // crop for length in best)
        # The library's own arithmetic, on a tensor that holds no numbers
        canvas = torch.empty(1, down * grid[0], across * grid[1], device="meta")
        _, rows, columns = unpad_image(canvas, (height, width)).shape
        return (grid,) * (1 + down * across), (rows, columns)

    def pooled(self, lines: Grid) -> Grid:
        """The crops' common grid as it enters the language model."""
        return lines
