from __future__ import annotations

from torch import Tensor

from ...aggregate import mean_cells
from ...evidence import Evidence
from ...registry import register
from .grid import Grid


@register("pool")
class Pool(Grid):
    """Average each of k equal cells of the picture into one token.

    Paper: https://arxiv.org/abs/2405.17430 (M3, there trained)   Site: features, projected, prompt   Needs: the grid   Training: none

    k = s * s gives average pooling with kernel and stride 24 / s; other k the cells of ``llava.reduction.select.bands``.
    Accounting: entering the language model.
    Cost: N D additions.
    Differs from the authors' code: pools the tower's features before the projector by default (theirs after it: site
    "prompt"), any k, and the model was not trained on pooled tokens.
    """

    merges = True

    def aggregate(self, tokens: Tensor, kept: Tensor, evidence: Evidence) -> Tensor:
        return mean_cells(tokens, *evidence.sides, kept.shape[1])

    def flops(self, rows: int, tokens: int, kept: int, width: int, text: int | None = None) -> float:
        return tokens * width
