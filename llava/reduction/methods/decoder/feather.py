from __future__ import annotations

import torch
from torch import Tensor

from ... import prices
from ...checks import check_whole
from ...evidence import DecoderEvidence, Need
from ...registry import register
from ...schedule import LAYERS, TOKENS, scaled_layers
from ...select import topk
from ...stage import Reducer, Stage

PUBLISHED, SHARE = (8, 16), 0.3


@register("feather")
class Feather(Reducer):
    """Keep the image tokens that the last token attends to without positions, and at the first stage a regular grid as well.

    Paper: https://arxiv.org/abs/2412.13180   Site: layers 8 and 16 of 32   Needs: attention of layer K-1 without RoPE, last row, the grid   Training: none

    Score: attention of the last prompt token in layer K-1 with queries and keys before the rotary embedding, softmax over the
    image's tokens alone, mean over the heads. ``grid`` g > 0 adds every g-th token of every g-th row to the k highest. The name
    alone is the published plan: at layer 8 the top 0.3 and a grid of 3, at layer 16 the top 0.3^2 of what is left. A budget is
    the mean over the layers, of 576 where it is a count. ``feather@K`` alone is one stage. tokens (G, N, D) -> mask (G, N).

    Accounting: mean over the layers; the grid's tokens that are not among the highest come on top.
    Cost: keys of all rows and one query row, 2 S d^2 + 2 d^2 + 2 S d.
    Differs from the authors' code: batches; decoding from the cache.
    """

    sites = ("layer",)
    scheduled = True
    default_layer = 8

    def __init__(self, grid: int = 0):
        super().__init__()
        check_whole("grid", grid, 0)
        self.grid, self.adaptive = grid, grid > 0
        self.needs = frozenset({Need.ATTENTION, Need.GRID} if grid else {Need.ATTENTION})

    def schedule(self, keep: int | float | None, layers: int) -> list[Stage]:
        share = SHARE if keep is None else self._share(keep)
        first, second = scaled_layers(PUBLISHED, layers)
        return [Stage(Feather(grid=3), "layer", first, share), Stage(Feather(), "layer", second, share**2)]

    @staticmethod
    def _share(keep: int | float) -> float:
        """The share whose mean over 32 layers is ``keep``, when scores and grid have nothing to do with one another."""
        wanted, low, high = keep / TOKENS if isinstance(keep, int) else keep, 0.0, 1.0
        if not PUBLISHED[0] / LAYERS < wanted <= 1:
            raise ValueError(
                f"keep={keep!r} of feather must be above a quarter of the tokens, which the layers before 8 of 32 see"
            )
        for _ in range(50):
            share = (low + high) / 2
            behind = share + (1 - share) / 9
            mean = (8 + 8 * behind + 16 * behind * share**2) / LAYERS
            low, high = (share, high) if mean < wanted else (low, share)
        return high

    def select(self, tokens: Tensor, evidence: DecoderEvidence, k: int) -> Tensor:
        highest = topk(evidence.attention("last", "mean", rope=False, image_only=True), k)
        if not self.grid:
            return highest
        height, width = evidence.sides
        number = torch.arange(tokens.shape[1], device=tokens.device)
        regular = (number // width % self.grid == 0) & (number % width % self.grid == 0)
        return torch.zeros_like(tokens[..., 0], dtype=torch.bool).scatter(1, highest, True) | regular

    def left(self, tokens: int, k: int | None) -> int:
        if k is None or not self.grid:
            return tokens if k is None else k
        side = -(-int(tokens**0.5) // self.grid)
        return min(tokens, k + side * side)

    def flops(self, rows: int, tokens: int, kept: int, width: int, text: int | None = None) -> float:
        return prices.attention_rows(1, rows, width, keys=True)
