"""The reducers that choose centres by similarity: what ``condensation`` and ``custom_selection`` have in common.

Shapes: G images, N tokens, k kept, D width.
"""

from __future__ import annotations

import torch
from torch import Tensor

from . import select
from .evidence import Evidence, Need
from .score import question_relevance, similarity
from .stage import Reducer, is_number

STRATEGIES = {
    "fps": lambda alike, k, start: select.fps(alike, k, start),
    "connectivity": lambda alike, k, start: select.connectivity(alike, k),
    "tome": lambda alike, k, start: select.medoids(alike, k),
    "dpp": lambda alike, k, start: select.dpp(alike, k),
}


class Centres(Reducer):
    """Keep k tokens that stand for the others under cosine similarity.

    ``strategy``: "fps" (farthest point), "connectivity" (highest degree), "tome" (medoids of clusters: three rounds from
    the highest degrees), "dpp" (greedy determinantal). ``start``: the token that fps begins with, None is the one of
    highest degree. ``cover`` in (0, 1]: keep only as many as make every token that similar to a kept one on the mean,
    between ``least`` and the budget. ``semantic`` in [0, 1]: how much likeness to the question's words counts against
    distance from what is kept already (maximal marginal relevance; 0 is the strategy alone). More tokens asked for than
    there are: all are kept as they are.
    """

    sites = ("layer", "prompt", "features")
    default_layer = 2
    merges = True
    least_keep = 1
    keeps_all_beyond = True

    def __init__(self, strategy: str, start: int | None, cover: float | None, least: int, semantic: float):
        super().__init__()
        if strategy not in STRATEGIES:
            raise ValueError(f"strategy={strategy!r} is unknown; choose one of {', '.join(STRATEGIES)}")
        if start is not None and (isinstance(start, bool) or not isinstance(start, int) or start < 0):
            raise ValueError(f"start={start!r} must be the index of an image token, or None")
        if start is not None and strategy != "fps":
            raise ValueError(f"start={start!r} only has a meaning for strategy='fps', not {strategy!r}")
        if cover is not None and not (is_number(cover) and 0 < cover <= 1):
            raise ValueError(f"cover={cover!r} must be above 0 and at most 1, or None for a fixed number")
        if isinstance(least, bool) or not isinstance(least, int) or least < 1:
            raise ValueError(f"least={least!r} must be a whole number of at least 1")
        if not (is_number(semantic) and 0 <= semantic <= 1):
            raise ValueError(f"semantic={semantic!r} must be a number between 0 and 1")
        self.strategy, self.start, self.cover, self.least, self.semantic = strategy, start, cover, least, semantic
        if semantic:
            self.needs = frozenset({Need.TEXT})

    def select(self, tokens: Tensor, evidence: Evidence, k: int) -> Tensor:
        if k >= tokens.shape[1]:
            return torch.arange(tokens.shape[1], device=tokens.device).expand(len(tokens), -1)
        if self.start is not None and self.start >= tokens.shape[1]:
            raise ValueError(f"start={self.start} is no image token: {tokens.shape[1]} arrive; give less, or None")
        alike = similarity(tokens)
        if self.semantic:
            relevance = question_relevance(tokens, *evidence.text())
            picked = select.relevant(relevance, alike, k, diversity=1 - self.semantic)
        else:
            picked = STRATEGIES[self.strategy](alike, k, self.start)
        return picked if self.cover is None else select.covering(alike, picked, self.cover, self.least)

    def flops(self, rows: int, tokens: int, kept: int, width: int) -> float:
        return 2 * tokens * tokens * width + 4 * kept * tokens * width
