from __future__ import annotations

from torch import Tensor

from ... import prices
from ...evidence import DecoderEvidence, Need
from ...registry import register
from ...schedule import LAYERS, TOKENS
from ...select import topk
from ...stage import Reducer, Stage

# Tokens removed after each of 32 layers at a reduction ratio of 60 %, of 576
REMOVED = (14, 33, 89, 36, 36, 20, 55, 21, 18, 4, 7, 5, 2, 5, 7, 4, 26, 5, 11, 24, 4, 18, 2, 1, 0, 0, 1, 0, 1, 0, 0, 0)


@register("fitprune")
class FitPrune(Reducer):
    """Take from every layer the image tokens that neither the picture nor the text attends to.

    Paper: https://arxiv.org/abs/2409.10197   Site: every layer   Needs: attention of the layer before, image and text rows   Training: a quota for each layer, from 655 samples

    With A the attention of layer K-1, maximum over the heads cell by cell: s_n = (sum over image rows i of A[i, n]) / N times the
    sum over the text rows after the image of A[t, n]; the lowest go. The name alone is the authors' recipe for 60 %:
    its share of tokens after each of 32 layers, at the same depth of other decoders. A budget is the mean over the
    layers, for which all shares are raised to one power. ``fitprune@K`` alone is one stage. tokens (G, N, D) -> kept
    (G, k).

    Accounting: mean over the layers.
    Cost: N + T query rows against the layer's keys per stage, (N + T) (2 d^2 + 2 S d): some 12 % of a layer with all
    tokens. Differs from the authors' code: batches; removal between layers, which is what theirs amounts to; other
    ratios than 60 % follow its profile, where theirs have quotas of their own.
    """

    needs = frozenset({Need.ATTENTION})
    sites = ("layer",)
    scheduled = True
    default_layer = 2

    def schedule(self, keep: int | float | None, layers: int) -> list[Stage]:
        shares = [1 - sum(REMOVED[:layer]) / TOKENS for layer in range(LAYERS)]  # that enter each of 32 layers
        power = 1.0 if keep is None else self._power(shares, keep / TOKENS if isinstance(keep, int) else keep)
        stages, before = [], 1.0
        for layer in range(1, layers):
            share = shares[min(LAYERS - 1, layer * LAYERS // layers)] ** power
            if share < before:
                stages.append(Stage(self, "layer", layer, share / before))
            before = share
        return stages

    @staticmethod
    def _power(shares: list[float], wanted: float) -> float:
        """The power of the shares whose mean is ``wanted``; by bisection."""
        if not 1 / LAYERS < wanted <= 1:
            raise ValueError(
                f"keep={wanted:g} of fitprune must be a share above {1 / LAYERS:g}, or more than {TOKENS // LAYERS} of {TOKENS}"
                " tokens, which the first layer sees"
            )
        low, high = 0.0, 1000.0
        for _ in range(60):
            middle = (low + high) / 2
            mean = sum(share**middle for share in shares) / LAYERS
            low, high = (middle, high) if mean > wanted else (low, middle)
        return low

    def select(self, tokens: Tensor, evidence: DecoderEvidence, k: int) -> Tensor:
        by_image = evidence.received("image", "max") / tokens.shape[1]
        return topk(by_image * evidence.received("text", "max"), k)

    def flops(self, rows: int, tokens: int, kept: int, width: int, text: int | None = None) -> float:
        return prices.attention_rows(tokens + (rows - tokens if text is None else text), rows, width)
