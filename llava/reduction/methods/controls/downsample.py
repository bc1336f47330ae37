from __future__ import annotations

import math

from torch import Tensor
from torch.nn import functional as F

from ...registry import register
from ...stage import Reducer


@register("downsample")
class Downsample(Reducer):
    """Shrink the picture to s x s patches, s the root of k rounded down, before the tower sees it.

    Paper: https://arxiv.org/abs/2510.07143 (VTC-Bench, on which it beats most methods)   Site: pixels   Needs: nothing   Training: none

    Pixels (G, 3, H, W) -> (G, 3, s p, s p) with patches of p pixels, bicubic with antialiasing; the tower's position
    embeddings are interpolated to s x s, as its own model does for other sizes. 64 is 8 x 8; 128 becomes 121 = 11 x 11.
    For a picture of several crops, k is the budget of each crop.
    Accounting: entering the language model.
    Cost: saves in the tower too, which runs on s x s patches.
    Differs from the authors' code: theirs is for models whose tower takes any size; CLIP's was trained on one.
    """

    sites = ("pixels",)
    least_keep = 1

    def left(self, tokens: int, k: int) -> int:
        return math.isqrt(k) ** 2

    def shrink(self, pixels: Tensor, patch: int, k: int) -> Tensor:
        side = math.isqrt(k) * patch
        if side == pixels.shape[-1] == pixels.shape[-2]:
            return pixels
        return F.interpolate(pixels.float(), (side, side), mode="bicubic", antialias=True).to(pixels.dtype)
