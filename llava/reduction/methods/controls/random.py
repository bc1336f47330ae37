from __future__ import annotations

from torch import Tensor

from ... import select
from ...checks import check_whole
from ...evidence import Evidence, Need
from ...registry import register
from ...stage import Reducer


@register("random")
class Random(Reducer):
    """Keep k tokens drawn uniformly without replacement, another draw for every picture and seed.

    Paper: none, a control   Site: any   Needs: a number for each picture   Training: none
    Accounting: those that stay at the stage.
    Cost: none.   Differs from the authors' code: no authors. The draw depends on the picture and the seed alone, so it is
    the same alone, in a batch and in a second run.
    """

    needs = frozenset({Need.SEED})

    def __init__(self, seed: int = 0):
        super().__init__()
        check_whole("seed", seed, 0)
        self.seed = seed

    def select(self, tokens: Tensor, evidence: Evidence, k: int) -> Tensor:
        return select.random(evidence.seeds, self.seed, tokens.shape[1], k).to(tokens.device)
