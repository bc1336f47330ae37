"""Qwen2-VL, Qwen2.5-VL and Qwen3-VL: any size, patches merged two by two after the tower."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from itertools import product
from typing import Any

import torch
from torch import Tensor
from transformers.models.qwen2_vl.image_processing_pil_qwen2_vl import smart_resize

from llava.reduction import Stage
from llava.reduction.cost import layer_flops

from .base import Family, Grid, Picture, linear

MARKERS = 2  # of the start and the end of vision


class Qwen2VL(Family):
    """A tower with full attention; the picture stands for two frames of a video."""

    model_types = ("qwen2_vl",)
    settings = {"min_pixels": 56 * 56, "max_pixels": 28 * 28 * 16384}

    @classmethod
    def read_processor(cls, processor: Mapping[str, Any]) -> dict[str, int]:
        size = processor.get("size") or {}
        edges = {"min_pixels": size.get("shortest_edge"), "max_pixels": size.get("longest_edge")}
        found = {**edges, **super().read_processor(processor)}
        return {name: value for name, value in found.items() if value is not None}

    def picture(self, height: int, width: int, alone: bool = True) -> Picture:
        patch, merge = self.vision.patch_size, self.vision.spatial_merge_size
        down, across = smart_resize(height, width, patch * merge, **self.processor)
        grid = (down // patch, across // patch)
        return Picture(grid[0] * grid[1] // merge**2, MARKERS, (grid,))

    @property
    def vision_width(self) -> int:
        return self.vision.embed_dim

    @property
    def mlp_weights(self) -> int:
        """Numbers in the matrices of the feed-forward of a tower's layer."""
        return 2 * self.vision.embed_dim * int(self.vision.embed_dim * self.vision.mlp_ratio)

    @property
    def merged_width(self) -> int:
        """Width of a merged token."""
        return self.vision.hidden_size

    def tower_flops(self, picture: Picture, plan: list[Stage]) -> float:
        return sum(self._image(grid) for grid in picture.grids)

    def _image(self, grid: Grid) -> float:
        vision, width = self.vision, self.vision_width
        rows = grid[0] * grid[1]
        embed = linear(rows, vision.in_channels * vision.temporal_patch_size * vision.patch_size**2, width)
        return embed + sum(layer_flops(rows, width, width, self.mlp_weights, seen) for seen in self.seen(grid))

    def seen(self, grid: Grid) -> Iterator[float]:
        """For each layer of the tower, how many patches a patch sees on average."""
        return (float(grid[0] * grid[1]) for _ in range(self.vision.depth))

    def pixels(self, grid: Grid) -> dict[str, Tensor]:
        numbers = self.vision.in_channels * self.vision.temporal_patch_size * self.vision.patch_size**2
        return {"hidden_states": torch.randn(grid[0] * grid[1], numbers), "grid_thw": torch.tensor([(1, *grid)])}

    def projector_flops(self, picture: Picture, plan: list[Stage]) -> float:
        unit = self.vision_width * self.vision.spatial_merge_size**2
        return self.mergers * linear(picture.tokens, unit, unit, self.merged_width)

    @property
    def mergers(self) -> int:
        """How many MLPs merge the patches."""
        return 1


class Qwen2p5VL(Qwen2VL):
    """Attention within windows in all but a few layers, and a gated FFN."""

    model_types = ("qwen2_5_vl",)

    @property
    def vision_width(self) -> int:
        return self.vision.hidden_size

    @property
    def mlp_weights(self) -> int:
        return 3 * self.vision.hidden_size * self.vision.intermediate_size

    @property
    def merged_width(self) -> int:
        return self.vision.out_hidden_size

    def seen(self, grid: Grid) -> Iterator[float]:
        merge = self.vision.spatial_merge_size
        window = self.vision.window_size // merge // self.vision.patch_size * merge
        blocks = [[min(window, length - start) for start in range(0, length, window)] for length in grid]
        pairs = sum((down * across) ** 2 for down, across in product(*blocks))
        rows = grid[0] * grid[1]
        whole = set(self.vision.fullatt_block_indexes)
        return (float(rows) if layer in whole else pairs / rows for layer in range(self.vision.depth))


class Qwen3VL(Qwen2VL):
    """Patches of 16, and DeepStack: further mergers for what the first layers of the language model add."""

    model_types = ("qwen3_vl",)
    settings = {"min_pixels": 256 * 256, "max_pixels": 4096 * 4096}

    @property
    def vision_width(self) -> int:
        return self.vision.hidden_size

    @property
    def mlp_weights(self) -> int:
        return 2 * self.vision.hidden_size * self.vision.intermediate_size

    @property
    def merged_width(self) -> int:
        return self.vision.out_hidden_size

    @property
    def mergers(self) -> int:
        return 1 + len(self.vision.deepstack_visual_indexes)
