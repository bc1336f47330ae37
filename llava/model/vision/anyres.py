"""Pictures cut into crops: how the features of the crops lie in the prompt.

Shapes: n features of a crop, D their width; sizes are (width, height) of the original picture.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from llava.mm_utils import ANYRES, get_anyres_image_grid_shape


@dataclass(frozen=True)
class CropLayout:
    """How a model lays out its crops: ``kind`` is "flat", "spatial" or "spatial_unpad".

    side: patches along a side of a crop. resolution: pixels along it. pinpoints: the grids of crops that pictures may be
    cut into. newline (D,): what ends a line under "spatial_unpad". most: how many crops a picture's grid without padding may
    be worth; a larger one is shrunk to it, as "anyres_max_9" says with 9.
    """

    kind: str
    side: int
    resolution: int
    pinpoints: Any = None
    newline: Tensor | None = None
    most: int | None = None

    def merge(self, crops: list[Tensor], size: tuple[int, int] | None) -> Tensor:
        """The crops (n, D) of one picture laid out as one (n', D); the first is the whole picture, made small.

        "flat" one after another; "spatial" the whole picture, then all crops as one grid, line by line; "spatial_unpad"
        that grid without the lines that are padding, each line ended by ``newline``. Crops that a stage has reduced have no
        lines any more: they follow one another as in "flat", padding and all, which is what the published methods do.
        """
        if self.kind == "flat" or any(len(crop) != self.side**2 for crop in crops):
            return torch.cat(crops)
        if self.kind not in ("spatial", "spatial_unpad"):
            raise ValueError(f"mm_patch_merge_type={self.kind!r} is unknown; give 'flat', 'spatial' or 'spatial_unpad'")
        newline = self._line_end.to(crops[0]) if self.kind == "spatial_unpad" else None
        if len(crops) == 1:
            return crops[0] if newline is None else torch.cat((crops[0], newline[None]))
        return torch.cat((crops[0], self._grid(crops[1:], size, newline)))

    def crop_grid(self, crops: int, size: tuple[int, int] | None) -> tuple[int, int] | None:
        """How many crops of a picture lie below and beside one another; None where that is not known, or there is one."""
        if size is None or crops < 2 or self.pinpoints is None:
            return None
        across, down = get_anyres_image_grid_shape(size, self.pinpoints, self.resolution)
        return (down, across) if across * down == crops - 1 else None

    @property
    def _line_end(self) -> Tensor:
        if self.newline is None:
            raise ValueError(
                f"mm_patch_merge_type={self.kind!r} ends lines with image_newline, which this model has not"
            )
        return self.newline

    def _grid(self, crops: list[Tensor], size: tuple[int, int] | None, newline: Tensor | None) -> Tensor:
        """Crops (side * side, D) of one picture read as one grid, line by line: (n, D)."""
        if size is None:
            raise ValueError("image_sizes is None; an image of several crops needs its (width, height) there")
        across, down = get_anyres_image_grid_shape(size, self.pinpoints, self.resolution)
        if across * down != len(crops):
            raise ValueError(
                f"an image of size {tuple(size)} has {across} x {down} crops in addition to its whole view, "
                f"but {len(crops)} are given; image_sizes and images must belong together"
            )
        grid = torch.stack(crops).unflatten(1, (self.side, self.side)).unflatten(0, (down, across))
        grid = grid.transpose(1, 2).flatten(2, 3).flatten(0, 1)  # (down * side, across * side, D)
        if newline is not None:
            grid = self._shrunk(unpad_image(grid, size))
            grid = torch.cat((grid, newline.expand(len(grid), 1, -1)), dim=1)
        return grid.flatten(0, 1)

    def _shrunk(self, grid: Tensor) -> Tensor:
        """A grid (height, width, D), bilinearly shrunk where it is more than a tenth too long on each side for ``most``."""
        height, width = grid.shape[:2]
        times = 0.0 if self.most is None else math.sqrt(height * width / (self.most * self.side**2))
        if times <= 1.1:
            return grid
        smaller = (int(height // times), int(width // times))
        return nn.functional.interpolate(grid.permute(2, 0, 1)[None], smaller, mode="bilinear")[0].permute(1, 2, 0)


def most_crops(image_aspect_ratio: str | None) -> int | None:
    """The number at the end of an "anyres_max_9"; None for another value."""
    head, _, number = (image_aspect_ratio or "").rpartition("_")
    return int(number) if head == f"{ANYRES}_max" and number.isdigit() else None


def unpad_image(grid: Tensor, original_size: tuple[int, int]) -> Tensor:
    """Takes the lines or columns off a feature grid that show only padding.

    grid (height, width, D) of an image that was fitted into it and centred; original_size: (width, height) before.
    """
    height, width = grid.shape[:2]
    across, down = width / original_size[0], height / original_size[1]
    if across < down:
        margin = (height - int(original_size[1] * across)) // 2
        return grid[margin : height - margin]
    margin = (width - int(original_size[0] * down)) // 2
    return grid[:, margin : width - margin]
