"""The reducers that choose centres by similarity: what ``condensation`` and ``custom_selection`` have in common.

Shapes: G images, N tokens, k kept, D width.
"""

from __future__ import annotations

import torch
from torch import Tensor

from . import prices, select
from .aggregate import CrossAttention
from .checks import check_choice, check_whole, is_number, shown
from .evidence import Evidence, Need
from .learned.trained import load_trained
from .score import first_equal, question_relevance, similarity
from .stage import Reducer

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
    highest degree. ``cover`` in (0, 1]: keep only as many as make every token that similar to a kept one on average,
    between ``least`` and the budget. ``semantic`` in [0, 1]: how much similarity to the question's words counts against
    distance from what is kept already (maximal marginal relevance; 0 is the strategy alone). ``attention``: a trained
    ``CrossAttention`` that mixes the tokens, or ``weights``, the folder of one that ``llava.train.train_merger`` has
    written. A budget above the number of tokens keeps all of them as they are.
    """

    sites = ("layer", "prompt", "features")
    default_layer = 2
    merges = True
    least_keep = 1
    keeps_all_beyond = True

    def __init__(
        self,
        strategy: str,
        start: int | None,
        cover: float | None,
        least: int,
        semantic: float,
        weights: str | None = None,
        attention: CrossAttention | None = None,
    ):
        super().__init__()
        check_choice("strategy", strategy, STRATEGIES)
        if start is not None:
            check_whole("start", start, 0)
            if strategy != "fps":
                raise ValueError(f"start={start} only has a meaning for strategy='fps', not {strategy!r}")
        if cover is not None and not (is_number(cover) and 0 < cover <= 1):
            raise ValueError(f"cover={shown(cover)} must be above 0 and at most 1, or None for a fixed number")
        check_whole("least", least, 1)
        if not (is_number(semantic) and 0 <= semantic <= 1):
            raise ValueError(f"semantic={shown(semantic)} must be a number between 0 and 1")
        if attention is not None and not isinstance(attention, CrossAttention):
            raise ValueError(
                f"attention={shown(attention)} must be a CrossAttention; a folder of one is weights=FOLDER"
            )
        self.strategy, self.start, self.cover, self.least, self.semantic = strategy, start, cover, least, semantic
        self.weights = None if weights is None else str(weights)
        self.attention = attention if weights is None else load_trained(weights, CrossAttention)
        self.adaptive = cover is not None
        if semantic:
            self.needs = frozenset({Need.TEXT})

    def select(self, tokens: Tensor, evidence: Evidence, k: int) -> Tensor:
        if k >= tokens.shape[1]:
            return torch.arange(tokens.shape[1], device=tokens.device).expand(len(tokens), -1)
        if self.start is not None and self.start >= tokens.shape[1]:
            raise ValueError(f"start={self.start} is no image token: {tokens.shape[1]} arrive; give less, or None")
        alike = similarity(tokens)
        if self.semantic:
            relevance = question_relevance(tokens, *evidence.text(), first_equal(alike))
            picked = select.relevant(relevance, alike, k, diversity=1 - self.semantic)
        else:
            picked = STRATEGIES[self.strategy](alike, k, self.start)
        return picked if self.cover is None else select.covering(alike, picked, self.cover, self.least)

    def flops(self, rows: int, tokens: int, kept: int, width: int, text: int | None = None) -> float:
        if kept >= tokens:
            return 0.0
        ranked = 2 * tokens * tokens * width
        if self.semantic:
            ranked += 2 * tokens * (rows - tokens if text is None else text) * width
        elif self.strategy == "dpp":
            ranked += prices.determinant(tokens, kept)
        elif self.strategy == "tome":
            ranked += select.ROUNDS * 2 * tokens * tokens * kept
        projected = 0 if self.attention is None else 4 * (kept + tokens) * width * width
        return ranked + 4 * kept * tokens * width + projected
