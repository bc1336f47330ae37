"""A vision tower that sees every picture at several scales ("Scaling on Scales", arXiv 2403.13043).

Shapes: G images, N patches of the smallest scale, n = sqrt(N) along a side, t how many times larger a scale is than the
smallest, s pixels along a side of the smallest, L of the largest, V the tower's width, K scales.
"""

from __future__ import annotations

from collections.abc import Collection
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F
from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil

from llava.model.multimodal_encoder.processor import load_image_processor
from llava.model.multimodal_encoder.scales import check_scales, squares, stated_scales
from llava.model.multimodal_encoder.tower import LayerRunner, TowerOutput, VisionTower


class ScaledTower(VisionTower):
    """One vision model that sees the whole picture at its own size, and the enlarged picture square by square.

    The patches of an enlarged picture are put together again and averaged to the grid of the smallest scale; those of
    all scales are concatenated along the channels: as many tokens as at the smallest, K times as wide. Hidden states,
    and what is asked of single layers, are those of the smallest scale, whose patches are the tokens.

    vision_tower, delay_load: as in ``VisionTower``. args: also with `s2` and `s2_scales`, see ``stated_scales``. Raises
    ValueError for scales that do not suit the tower, and for features with the class token, which has no place in a grid.
    Cost: ``squares`` times that of the tower.
    """

    def __init__(self, vision_tower: str, args: Any, delay_load: bool = False):
        # The config is compared with the scales while the tower is built.
        self.scales = stated_scales(args)
        if getattr(args, "mm_vision_select_feature", "patch") != "patch":
            raise ValueError(
                f"mm_vision_select_feature={args.mm_vision_select_feature!r} has no place in a tower of several scales"
                " (s2=true), whose features lie on a grid; give 'patch'"
            )
        super().__init__(vision_tower, args, delay_load)

    @torch.no_grad()
    def encode(
        self,
        images: Tensor,
        resized: bool = False,
        watched: Collection[int] = (),
        runner: LayerRunner | None = None,
    ) -> TowerOutput:
        """images (G, 3, L, L) of any dtype -> features (G, N, K V), and the smallest scale's hidden states.

        watched: as in ``VisionTower.encode``, at the smallest scale. Raises ValueError for images of another size, resized or
        not, and for a runner, which would be about the patches of one scale.
        """
        if runner is not None:
            raise ValueError("a tower of several scales (s2=true) runs its own layers; give runner=None")
        self._check_size(images)
        whole, *enlarged = self.scales
        seen = self._see(self._cut(images, whole), watched=watched)
        larger = [self._joined(self._see(self._cut(images, scale)).patches, scale // whole) for scale in enlarged]
        features = torch.cat([seen.patches, *larger], dim=-1)
        return TowerOutput(features, features, seen.hidden, seen.entered, seen.rows)

    def _cut(self, images: Tensor, scale: int) -> Tensor:
        """The images (G, 3, L, L) at a scale, cut into squares of the smallest, row by row: (G t t, 3, s, s)."""
        side = self.scales[0]
        images = F.interpolate(images.float(), (scale, scale), mode="bicubic").to(images.dtype)
        cells = images.unflatten(3, (-1, side)).unflatten(2, (-1, side))  # (G, 3, t, s, t, s)
        return cells.permute(0, 2, 4, 1, 3, 5).flatten(0, 2)

    def _joined(self, patches: Tensor, times: int) -> Tensor:
        """The patches (G t t, N, V) of all squares as one grid, averaged to that of the smallest scale: (G, N, V)."""
        side = self.num_patches_per_side
        cells = patches.unflatten(1, (side, side)).unflatten(0, (-1, times, times))  # (G, t, t, n, n, V)
        grid = cells.permute(0, 5, 1, 3, 2, 4).flatten(4, 5).flatten(2, 3)  # (G, V, t n, t n)
        return F.interpolate(grid.float(), (side, side), mode="area").to(patches.dtype).flatten(2).transpose(1, 2)

    def patches_of(self, images: Tensor) -> int:
        """N, whatever the images."""
        return self.num_patches

    def _adopt(self, config: Any) -> None:
        check_scales(self.scales, config)
        super()._adopt(config)

    def _read_processor(self, inside: tuple[Path, ...], **hub: Any) -> CLIPImageProcessorPil:
        return load_image_processor(self.vision_tower_name, inside, self.config, self.image_size, **hub)

    @property
    def passes(self) -> int:
        """The squares of all scales of one picture."""
        return squares(self.scales)

    @property
    def image_size(self) -> int:
        """L, pixels along a side of the pictures it is given."""
        return self.scales[-1]

    @property
    def hidden_size(self) -> int:
        """K V, the width of a feature."""
        return self.config.hidden_size * len(self.scales)

    @property
    def num_patches_per_side(self) -> int:
        """n, patches along a side at the smallest scale, and tokens along a side of the features."""
        return self.scales[0] // self.config.patch_size
