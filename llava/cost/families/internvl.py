"""InternVL in transformers' layout: tiles of one size and a thumbnail, four patches to a token."""

from __future__ import annotations

from transformers.models.got_ocr2.image_processing_pil_got_ocr2 import get_optimal_tiled_canvas

from llava.reduction import Stage

from ..vit import crop_grid, vit_flops
from .base import Family, Picture, linear, side

MARKERS = 2  # <img> and </img>


class InternVL(Family):
    """As many tiles as fit the picture's proportions best; pixel shuffle, then an MLP of two layers."""

    model_types = ("internvl",)
    settings = {"min_patches": 1, "max_patches": 12}

    def picture(self, height: int, width: int, alone: bool = True) -> Picture:
        tile = side(self.vision.image_size)
        across, down = get_optimal_tiled_canvas((height, width), (tile, tile), *self.processor.values())
        tiles = down * across + (down * across > 1)  # the thumbnail
        grid = crop_grid(self.vision)
        return Picture(tiles * int(grid[0] * self.config.downsample_ratio) ** 2, MARKERS, (grid,) * tiles)

    def tower_flops(self, picture: Picture, plan: list[Stage]) -> float:
        return vit_flops(self.vision, picture)

    def projector_flops(self, picture: Picture, plan: list[Stage]) -> float:
        unit = self.vision.hidden_size * int(1 / self.config.downsample_ratio) ** 2
        return linear(picture.tokens, unit, self.text.hidden_size, self.text.hidden_size)
