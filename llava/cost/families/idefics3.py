"""Idefics3 and SmolVLM: the picture in tiles and once whole, several patches to a token."""

from __future__ import annotations

import math
from collections.abc import Mapping
from types import SimpleNamespace
from typing import Any

from transformers.models.idefics3.image_processing_pil_idefics3 import get_resize_output_image_size

from llava.reduction import Stage

from ..vit import crop_grid, vit_flops
from .base import Family, Picture, linear


class Idefics3(Family):
    """The longest edge is resized to ``longest_edge``, cut into tiles of ``tile``; pixel shuffle, then one matrix."""

    model_types = ("idefics3",)
    settings = {"longest_edge": 4 * 364, "tile": 364}

    @classmethod
    def read_processor(cls, processor: Mapping[str, Any]) -> dict[str, int]:
        found = {
            "longest_edge": (processor.get("size") or {}).get("longest_edge"),
            "tile": (processor.get("max_image_size") or {}).get("longest_edge"),
            **super().read_processor(processor),
        }
        return {name: value for name, value in found.items() if value is not None}

    def picture(self, height: int, width: int, alone: bool = True) -> Picture:
        down, across = self.tiles(height, width)
        tiles = down * across + 1 if down * across > 1 else 1
        grid = crop_grid(self.vision)
        return Picture(
            tokens=tiles * grid[0] * grid[1] // self.config.scale_factor**2,
            # Two markers before each tile, a line end after each row of tiles; one more before the whole view, and one
            # after it
            separators=2 * tiles + 1 + (down + 1 if tiles > 1 else 0),
            grids=(grid,) * tiles,
        )

    def tiles(self, height: int, width: int) -> tuple[int, int]:
        """Tiles below and beside one another."""
        tile = self.processor["tile"]
        # The library's function reads nothing of an image but its shape
        image: Any = SimpleNamespace(shape=(height, width))
        height, width = get_resize_output_image_size(image, self.processor["longest_edge"])
        if width >= height:
            across = math.ceil(width / tile)
            return math.ceil(int(across * tile / (width / height)) / tile), across
        down = math.ceil(height / tile)
        return down, math.ceil(int(down * tile * (width / height)) / tile)

    def tower_flops(self, picture: Picture, plan: list[Stage]) -> float:
        return vit_flops(self.vision, picture)

    def projector_flops(self, picture: Picture, plan: list[Stage]) -> float:
        unit = self.vision.hidden_size * self.config.scale_factor**2
        return linear(picture.tokens, unit, self.text.hidden_size)


class SmolVLM(Idefics3):
    """The same with larger tiles."""

    model_types = ("smolvlm",)
    settings = {"longest_edge": 4 * 512, "tile": 512}
