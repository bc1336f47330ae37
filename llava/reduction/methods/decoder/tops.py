from __future__ import annotations

import torch
from torch import Tensor

from ... import prices
from ...checks import is_number, shown
from ...evidence import DecoderEvidence, Evidence, Need
from ...registry import register
from ...saliency import Saliency, check_saliency, saliency, saliency_flops
from ...schedule import TOKENS, scaled_layers
from ...score import mean_heads, similarity
from ...select import coverage_gain, greedy, row_of
from ...stage import Reducer, Stage, Where
from .sparsevlm import judged

PUBLISHED = (12, 24)
TINY = 1e-6


@register("tops")
class TOPS(Reducer):
    """Keep, one after another, tokens that are relevant, unlike those kept, and stand for what is not kept yet.

    Paper: TOPS (2026)   Site: projected, then layers 12 and 24 of 32   Needs: class token's attention of layer -2; attention of layer K-1, text rows   Training: none

    Given those kept S, the score of i is r_i / mean r + ``alpha`` div_i / mean div + ``coverage`` cov_i / mean cov, means over all that
    are left; div_i = 1 - max_{s in S} cos(i, s), cov_i = sum_{j not in S} max(0, cos_ij - max_{s in S} cos_sj), and the first is argmax r.
    After the projector r is the class token's attention, in the decoder the attention of the words that the picture
    points to (``sparsevlm``). ``tops:T`` is the published plan: 2 T tokens enter, T go on after layer 12 and T / 4
    after layer 24, with coverage 0.5 at 128 and above and 1 below. tokens (G, N, D) -> kept (G, k).

    Accounting: T of the plan; the mean over the layers is higher.
    Cost: N^2 D for the similarities and k N^2 element-wise for the choice, at each stage.
    Differs from the authors' code: written from the paper.
    """

    sites = ("projected", "layer")
    scheduled = True
    default_layer = 12
    default_positions = "compact"
    tower_layers = (-2,)

    def __init__(self, alpha: float = 0.5, coverage: float = 0.5, saliency: Saliency = "cls"):
        super().__init__()
        for name, value in (("alpha", alpha), ("coverage", coverage)):
            if not (is_number(value) and value >= 0):
                raise ValueError(f"{name}={shown(value)} must be a number of at least 0")
        self.needs = check_saliency(saliency)
        self.alpha, self.coverage = alpha, coverage
        self.saliency: Saliency = saliency

    def needs_at(self, site: Where) -> frozenset[Need]:
        return frozenset({Need.ATTENTION, Need.EMBEDDINGS}) if site == "layer" else self.needs

    def schedule(self, keep: int | float | None, layers: int) -> list[Stage]:
        label = 128 if keep is None else keep
        few = (label if isinstance(label, int) else label * TOKENS) < 128
        reducer = TOPS(self.alpha, 1.0 if few else self.coverage, self.saliency)
        entering = min(2 * label, TOKENS) if isinstance(label, int) else min(2 * label, 1.0)
        first, second = scaled_layers(PUBLISHED, layers)
        inside = (label, label // 4) if isinstance(label, int) else (label / entering, 0.25)
        return [
            Stage(reducer, "projected", keep=entering),
            *(Stage(reducer, "layer", layer, one) for layer, one in zip((first, second), inside)),
        ]

    def select(self, tokens: Tensor, evidence: Evidence, k: int) -> Tensor:
        relevance = self._relevance(evidence)  # (G, N)
        alike = similarity(tokens)
        nearest = torch.full_like(relevance, -torch.inf)  # the likeness to those kept
        left = torch.ones_like(relevance)

        def take(best: Tensor, step: int) -> Tensor:
            nonlocal nearest, left
            nearest, left = torch.maximum(nearest, row_of(alike, best)), left.scatter(1, best[:, None], 0)
            terms = (relevance, 1 - nearest, coverage_gain(alike, nearest, left).to(relevance))
            shares = [
                term / ((term * left).sum(1, keepdim=True) / left.sum(1, keepdim=True).clamp(min=1)).clamp(min=TINY)
                for term in terms
            ]
            return shares[0] + self.alpha * shares[1] + self.coverage * shares[2]

        return greedy(relevance, k, take)

    def _relevance(self, evidence: Evidence) -> Tensor:
        if not isinstance(evidence, DecoderEvidence):
            return mean_heads(saliency(evidence, self.saliency))
        return judged(evidence)

    def flops(self, rows: int, tokens: int, kept: int, width: int, text: int | None = None) -> float:
        words = rows - tokens if text is None else text  # none before the decoder
        seen = prices.attention_rows(words, rows, width) + prices.similarities(tokens, width, words)
        return seen + prices.similarities(tokens, width) + 2 * kept * tokens * tokens

    def reading_flops(self, patches: int, kept: int, width: int) -> float:
        return saliency_flops(self.saliency, patches, width)
