from __future__ import annotations

from typing import Literal, get_args

from torch import Tensor

from ...checks import check_choice
from ...evidence import Evidence
from ...registry import register
from ...relevance import Relevance
from ...stage import Reducer
from .cdpruner import CDPruner
from .divprune import DivPrune

Base = Literal["cdpruner", "divprune"]


@register("cenprune")
class CenPrune(Reducer):
    """Keep what a diversity selector keeps once the picture's mean is removed and unusual tokens count for more.

    Paper: Cen-Prune (2026)   Site: projected   Needs: what the selector needs   Training: none

    ``base``: "cdpruner" or "divprune", each with ``centred=true``: S' = cos(x_i - mean, x_j - mean), g_i = - mean_j cos(x_i, x_j)
    on the rows as they are, scaled to [0, 1] for each picture; DivPrune's distances are multiplied by g_i, CDPruner's relevance
    by g. ``relevance``: as in cdpruner. tokens (G, N, D) -> kept (G, k).

    Accounting: tokens entering the language model.
    Cost: 2 N^2 D for the similarities, and what the selector costs.
    Differs from the authors' code: written from the paper; no code of theirs was at hand.
    """

    sites = ("projected", "features")

    def __init__(self, base: Base = "cdpruner", relevance: Relevance = "clip"):
        super().__init__()
        check_choice("base", base, get_args(Base))
        if base == "divprune" and relevance != "clip":
            raise ValueError(
                f"relevance={relevance!r} of cenprune: base='divprune' reads no question; leave it out, or use base='cdpruner'"
            )
        self.base, self.relevance = base, relevance
        self.selector = CDPruner(relevance, centred=True) if base == "cdpruner" else DivPrune(centred=True)
        self.needs = self.selector.needs

    def select(self, tokens: Tensor, evidence: Evidence, k: int) -> Tensor:
        return self.selector.select(tokens, evidence, k)

    def flops(self, rows: int, tokens: int, kept: int, width: int, text: int | None = None) -> float:
        return self.selector.flops(rows, tokens, kept, width, text)

    def reading_flops(self, patches: int, kept: int, width: int) -> float:
        return self.selector.reading_flops(patches, kept, width)
