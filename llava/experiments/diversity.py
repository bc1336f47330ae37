"""Hard selection by diversity: farthest points or medoids that stand for the others, unmixed."""

from __future__ import annotations

import torch
from torch import Tensor

from llava.reduction import Evidence
from llava.reduction.centres import STRATEGIES, Centres
from llava.reduction.score import similarity


class Diversity(Centres):
    """Keep k tokens that stand for the others, unmixed; tokens are alike at a high cosine or ("l2") a short distance.

    tokens (G, N, D) -> kept (G, k).
    """

    name = "diversity"
    merges = False

    def __init__(self, strategy: str = "fps", metric: str = "cosine"):
        super().__init__(strategy, start=None, cover=None, least=1, semantic=0.0)
        self.metric = metric

    def select(self, tokens: Tensor, evidence: Evidence, k: int) -> Tensor:
        tokens = tokens.float()
        alike = similarity(tokens) if self.metric == "cosine" else -torch.cdist(tokens, tokens)
        return STRATEGIES[self.strategy](alike, k, None)

    def flops(self, rows: int, tokens: int, kept: int, width: int, text: int | None = None) -> float:
        return 2 * tokens * tokens * width
