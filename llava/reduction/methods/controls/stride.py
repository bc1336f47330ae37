from __future__ import annotations

from torch import Tensor

from ... import select
from ...evidence import Evidence
from ...registry import register
from ...stage import Reducer


@register("stride")
class Stride(Reducer):
    """Keep k tokens at equal distances along the raster order: round(linspace(0, N - 1, k)).

    Paper: none, a control   Site: any   Needs: nothing   Training: none
    Accounting: those that stay at the stage.
    Cost: none.   Differs from the authors' code: no authors. On a square picture a 1-D stride can fall into columns;
    ``grid`` does not.
    """

    def select(self, tokens: Tensor, evidence: Evidence, k: int) -> Tensor:
        return select.stride(tokens.shape[1], k).to(tokens.device).expand(len(tokens), -1)
