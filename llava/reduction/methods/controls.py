"""Controls: what every method must beat. None of them looks at what the tokens say."""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.nn import functional as F

from .. import select
from ..aggregate import mean_cells
from ..evidence import Evidence, Need
from ..registry import register
from ..stage import Reducer


@register("full")
class Full(Reducer):
    """Keep every token: the reference, and as a stage in the decoder the price of the machinery itself.

    Paper: none, a control   Site: any   Needs: nothing   Training: none
    Cost: none.   Differs from the authors' code: no authors.
    """

    wants_keep = False

    def select(self, tokens: Tensor, evidence: Evidence, k: int | None) -> Tensor:
        return torch.arange(tokens.shape[1], device=tokens.device).expand(len(tokens), -1)


@register("blind")
class Blind(Reducer):
    """Keep no token: what the language model knows without the picture.

    Paper: none, a control   Site: any   Needs: nothing   Training: none
    Cost: none.   Differs from the authors' code: no authors.
    """

    wants_keep = False

    def left(self, tokens: int, k: int | None) -> int:
        return 0

    def select(self, tokens: Tensor, evidence: Evidence, k: int | None) -> Tensor:
        return torch.zeros(len(tokens), 0, dtype=torch.long, device=tokens.device)


@register("random")
class Random(Reducer):
    """Keep k tokens drawn uniformly without replacement, another draw for every picture and seed.

    Paper: none, a control   Site: any   Needs: a number for each picture   Training: none
    Cost: none.   Differs from the authors' code: no authors. The draw depends on the picture and the seed alone, so it is
    the same alone, in a batch and in a second run.
    """

    needs = frozenset({Need.SEED})

    def __init__(self, seed: int = 0):
        super().__init__()
        if isinstance(seed, bool) or not isinstance(seed, int) or seed < 0:
            raise ValueError(f"seed={seed!r} must be a whole number of at least 0")
        self.seed = seed

    def select(self, tokens: Tensor, evidence: Evidence, k: int) -> Tensor:
        return select.random(evidence.seeds, self.seed, tokens.shape[1], k).to(tokens.device)


@register("stride")
class Stride(Reducer):
    """Keep k tokens at equal distances along the raster order: round(linspace(0, N - 1, k)).

    Paper: none, a control   Site: any   Needs: nothing   Training: none
    Cost: none.   Differs from the authors' code: no authors. On a square picture a 1-D stride can fall into columns;
    ``grid`` does not.
    """

    def select(self, tokens: Tensor, evidence: Evidence, k: int) -> Tensor:
        return select.stride(tokens.shape[1], k).to(tokens.device).expand(len(tokens), -1)


@register("grid")
class Grid(Reducer):
    """Keep the centre of each of k equal cells of the picture (cells of `select.bands`).

    Paper: none, a control   Site: features, prompt   Needs: the grid   Training: none
    Cost: none.   Differs from the authors' code: no authors.
    """

    needs = frozenset({Need.GRID})
    sites = ("features", "prompt")

    def select(self, tokens: Tensor, evidence: Evidence, k: int) -> Tensor:
        return select.grid(*evidence.grid, k).to(tokens.device).expand(len(tokens), -1)


@register("pool")
class Pool(Grid):
    """Average each of k equal cells of the picture into one token.

    Paper: https://arxiv.org/abs/2405.17430 (M3, there trained)   Site: features, prompt   Needs: the grid   Training: none

    k = s * s gives average pooling with kernel and stride 24 / s; other k the cells of ``llava.reduction.select.bands``.
    Cost: N D additions.
    Differs from the authors' code: pools the tower's features before the projector by default (theirs after it: site
    "prompt"), any k, and the model was not trained on pooled tokens.
    """

    merges = True

    def aggregate(self, tokens: Tensor, kept: Tensor, evidence: Evidence) -> Tensor:
        return mean_cells(tokens, *evidence.grid, kept.shape[1])

    def flops(self, rows: int, tokens: int, kept: int, width: int) -> float:
        return tokens * width


@register("downsample")
class Downsample(Reducer):
    """Shrink the picture to s x s patches, s the root of k rounded down, before the tower sees it.

    Paper: https://arxiv.org/abs/2510.07143 (VTC-Bench, which it beats most methods on)   Site: pixels   Needs: nothing   Training: none

    Pixels (G, 3, H, W) -> (G, 3, s p, s p) with patches of p pixels, bicubic with antialiasing; the tower's position
    embeddings are interpolated to s x s, as its own model does for other sizes. 64 is 8 x 8; 128 becomes 121 = 11 x 11.
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
