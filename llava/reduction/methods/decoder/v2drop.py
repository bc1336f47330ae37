from __future__ import annotations

from torch import Tensor

from ...evidence import DecoderEvidence, Need
from ...registry import register
from ...schedule import scaled_layers, share_for
from ...select import topk
from ...stage import Reducer, Stage

PUBLISHED = (3, 17, 22)


@register("v2drop")
class V2Drop(Reducer):
    """Keep the image tokens that the layer before has changed most.

    Paper: V2Drop, https://github.com/xuyang-liu16/V2Drop   Site: layers 3, 17 and 22 of 32   Needs: change made by the layer before   Training: none

    Score ||h_K - h_{K-1}||_2 of the hidden states entering layer K and the one before. The name alone is the published
    plan: half of the tokens, half again, and a single token from layer 22 on. A budget is the mean over the layers, as
    in pyramiddrop, over the first two stages. tokens (G, N, D) -> kept (G, k).

    Accounting: mean over the layers.
    Cost: N D, no attention is read.
    Differs from the authors' code: batches; theirs needs a patched rotary table to run at all.
    """

    needs = frozenset({Need.CHANGE})
    sites = ("layer",)
    scheduled = True

    def schedule(self, keep: int | float | None, layers: int) -> list[Stage]:
        share = 0.5 if keep is None else share_for(keep, PUBLISHED[:2], "v2drop", end=PUBLISHED[2])
        budgets: tuple[int | float, ...] = (share, share, 1)
        return [Stage(self, "layer", layer, one) for layer, one in zip(scaled_layers(PUBLISHED, layers), budgets)]

    def select(self, tokens: Tensor, evidence: DecoderEvidence, k: int) -> Tensor:
        return topk(evidence.change().float().norm(dim=-1), k)
