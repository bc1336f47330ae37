from __future__ import annotations

from torch import Tensor

from ... import prices
from ...checks import is_number, shown
from ...evidence import Evidence
from ...registry import register
from ...saliency import Saliency, check_saliency, saliency, saliency_flops
from ...score import mean_heads, min_max, similarity
from ...select import greedy, row_of
from ...stage import Reducer


@register("id_selection")
class IDSelection(Reducer):
    """Keep the most important token again and again, each time making those that are like it less important.

    Paper: ID-Selection (2026)   Site: features   Needs: class token's attention of layer -2   Training: none

    Importance S is the head-mean of the class token's attention, scaled to [0, 1] for each picture. Repeat: take i = argmax S;
    S_j <- max(0, S_j - S_i exp(-``sharpness`` (1 - cos_ij)^2)) for all j. tokens (G, N, D) -> kept (G, k).
    ``saliency``: what stands for the class token's attention, see ``llava.reduction.saliency``.

    Accounting: tokens entering the language model.
    Cost: N^2 D for the similarities.
    Differs from the authors' code: written after a third party's port, since no code of theirs was at hand; among
    tokens suppressed to zero the lower index goes first.
    """

    sites = ("features", "projected")
    tower_layers = (-2,)

    def __init__(self, sharpness: float = 20.0, saliency: Saliency = "cls"):
        super().__init__()
        if not (is_number(sharpness) and sharpness >= 0):
            raise ValueError(f"sharpness={shown(sharpness)} must be a number of at least 0")
        self.needs = check_saliency(saliency)
        self.sharpness = sharpness
        self.saliency: Saliency = saliency

    def select(self, tokens: Tensor, evidence: Evidence, k: int) -> Tensor:
        importance = min_max(mean_heads(saliency(evidence, self.saliency)))
        alike = (-self.sharpness * (1 - similarity(tokens)).square()).exp()

        def take(best: Tensor, step: int) -> Tensor:
            nonlocal importance
            weight = importance.gather(1, best[:, None])
            importance = (importance - weight * row_of(alike, best)).clamp(min=0)
            return importance

        return greedy(importance, k, take)

    def flops(self, rows: int, tokens: int, kept: int, width: int, text: int | None = None) -> float:
        return prices.similarities(tokens, width)

    def reading_flops(self, patches: int, kept: int, width: int) -> float:
        return saliency_flops(self.saliency, patches, width)
