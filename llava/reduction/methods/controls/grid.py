from __future__ import annotations

from torch import Tensor

from ... import select
from ...evidence import Evidence, Need
from ...registry import register
from ...stage import Reducer


@register("grid")
class Grid(Reducer):
    """Keep the centre of each of k equal cells of the picture (cells of `select.bands`).

    Paper: none, a control   Site: features, projected, prompt   Needs: the grid   Training: none
    Accounting: entering the language model.
    Cost: none.   Differs from the authors' code: no authors.
    """

    needs = frozenset({Need.GRID})
    sites = ("features", "projected", "prompt")

    def select(self, tokens: Tensor, evidence: Evidence, k: int) -> Tensor:
        return select.grid(*evidence.sides, k).to(tokens.device).expand(len(tokens), -1)
