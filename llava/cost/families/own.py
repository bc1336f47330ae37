"""LLaVA's own layout, as this package loads it: stages may also stand at the pixels, in the tower and before the projector."""

from __future__ import annotations

import math
import re
from functools import cached_property
from typing import Any

import torch

from llava.mm_utils import get_anyres_image_grid_shape
from llava.model.multimodal_encoder.scales import check_scales, check_stages, squares, stated_scales
from llava.model.vision.anyres import unpad_image
from llava.reduction import Stage
from llava.reduction.cost import tower_flops
from llava.reduction.plan import tokens_left

from ..vit import crop_grid, prefix
from .base import Family, Grid, Picture, linear, side

BEFORE_PROJECTOR = ("pixels", "tower", "features")
IN_CROPS = (*BEFORE_PROJECTOR, "projected")
PROJECTOR = re.compile(r"mlp(\d+)x_gelu")


class OwnLlava(Family):
    """One crop, or the crops of anyres; line ends are part of the picture here, as in ``llava.model.vision.anyres``."""

    model_types = ("llava_llama", "llava_mistral", "llava_qwen")
    shapes_tower = True

    @cached_property
    def scales(self) -> tuple[int, ...]:
        """Pixels along a side of the picture at each scale that the tower sees."""
        scales = stated_scales(self.config)
        check_scales(scales, self.vision)
        return scales or (side(self.vision.image_size),)

    @property
    def features_width(self) -> int:
        return self.vision.hidden_size * len(self.scales)

    @property
    def passes(self) -> int:
        return squares(self.scales)

    def picture(self, height: int, width: int, alone: bool = True) -> Picture:
        grid, kind = crop_grid(self.vision), getattr(self.config, "mm_patch_merge_type", "flat")
        if getattr(self.config, "mm_vision_select_feature", "patch") != "patch":
            raise ValueError("mm_vision_select_feature='cls_patch' cannot be counted; 'patch' can")
        aspect = getattr(self.config, "image_aspect_ratio", None) or "square"
        if aspect.startswith("anyres_"):
            raise ValueError(f"image_aspect_ratio={aspect!r} cannot be counted; pad, square and anyres can")
        if aspect != "anyres":
            return Picture(grid[0] * grid[1] + (kind == "spatial_unpad"), 0, (grid,))
        across, down = get_anyres_image_grid_shape((width, height), self.config.image_grid_pinpoints, self.scales[-1])
        lines = self._lines(kind, (down * grid[0], across * grid[1]), (width, height))
        crops = 1 + down * across
        return Picture(grid[0] * grid[1] + lines[0] * lines[1], 0, (grid,) * crops, crops)

    @staticmethod
    def _lines(kind: str, grid: Grid, size: tuple[int, int]) -> Grid:
        """The crops' common grid as it enters the language model, line ends included."""
        if kind != "spatial_unpad":
            return grid
        rows, columns, _ = unpad_image(torch.empty(*grid, 1, device="meta"), size).shape
        return rows, columns + 1

    def under(self, picture: Picture, plan: list[Stage]) -> Picture:
        if not any(stage.site in IN_CROPS and stage.name != "full" for stage in plan):
            return picture
        return Picture(picture.patches, 0, picture.grids, picture.crops)  # reduced crops have no lines any more

    def tower_flops(self, picture: Picture, plan: list[Stage]) -> float:
        if stated_scales(self.config):
            check_stages(plan)
        patches, first = math.prod(picture.grids[0]), prefix(self.vision)
        patches = tokens_left([stage for stage in plan if stage.site == "pixels"], patches, 1)[0]
        layers = self.config.mm_vision_select_layer % (self.vision.num_hidden_layers + 1)
        # Merging happens between attention and FFN; a layer counts as if all of it were done on what entered it
        rows = [patches + first] * layers
        for stage in plan:
            if stage.site == "tower":
                steps = stage.reducer.tower_steps(patches, stage.budget(patches) or patches, layers)
                rows = [patches + first - sum(steps[:number]) for number in range(layers)]
        return tower_flops(self.vision, len(picture.grids) * self.passes, rows, first)

    def projector_flops(self, picture: Picture, plan: list[Stage]) -> float:
        before = [stage for stage in plan if stage.site in BEFORE_PROJECTOR]
        rows = tokens_left(before, picture.patches, 1, picture.crops)[0]
        return linear(rows, self.features_width, *[self.text.hidden_size] * self.projector_layers)

    @property
    def projector_layers(self) -> int:
        """Matrices of the projector. Raises ValueError for a kind that is not known."""
        kind: Any = getattr(self.config, "mm_projector_type", "linear")
        match = PROJECTOR.fullmatch(kind)
        if kind not in ("linear", "identity") and not match:
            raise ValueError(f"mm_projector_type={kind!r} cannot be counted; linear, identity and mlp2x_gelu can")
        return int(match[1]) if match else int(kind == "linear")
