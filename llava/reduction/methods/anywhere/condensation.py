from __future__ import annotations

from torch import Tensor

from ...aggregate import CrossAttention, gather, head_attention, normalise
from ...centres import Centres
from ...checks import check_whole
from ...evidence import Evidence
from ...learned.trained import call_trained
from ...registry import register


@register("condensation")
class Condensation(Centres):
    """Keep representative tokens, each of which absorbs the tokens like it by multi-head cross-attention.

    Paper: none, proposed for this project   Site: any, layer K (2) by default   Needs: nothing   Training: optional

    Centres c by ``strategy`` (the document's are "connectivity", default, and "fps") under cosine similarity, then
    c' = W_o softmax(W_q n(c) (W_k n(X))^T / sqrt(d_h)) W_v X in ``heads`` heads, with n the division by the root mean
    square. Without ``attention``, a trained ``CrossAttention``, or ``weights``, the folder of one that
    ``llava.train.train_merger`` has written, all W are the identity: a parameter-free convex mixture of real tokens. k >= N changes nothing. Options of all strategies, adaptive numbers and question-awareness:
    ``llava.reduction.centres.Centres``. tokens (G, N, D) -> kept (G, k), condensed (G, k, D).

    Accounting: after layer K.
    Cost: N^2 D for the similarities and 2 k N D for the mixture, multiply-adds; with trained projections 2 (k + N) D^2 more.
    Differs from the authors' code: their projections are random and act on unnormalised tokens, which destroys what they
    aggregate; centres keep raster order and their original positions through any number of stages; fps begins at the most
    central token instead of a random one; the strategy may differ from stage to stage.
    """

    def __init__(
        self,
        strategy: str = "connectivity",
        heads: int = 8,
        start: int | None = None,
        cover: float | None = None,
        least: int = 1,
        semantic: float = 0.0,
        weights: str | None = None,
        attention: CrossAttention | None = None,
    ):
        super().__init__(strategy, start, cover, least, semantic, weights, attention)
        check_whole("heads", heads, 1)
        self.heads = heads

    def aggregate(self, tokens: Tensor, kept: Tensor, evidence: Evidence) -> Tensor:
        centres = gather(tokens, kept)
        if kept.shape[1] == tokens.shape[1]:
            return centres
        if tokens.shape[2] % self.heads:
            raise ValueError(
                f"heads={self.heads} of condensation must divide the width {tokens.shape[2]} of the tokens"
            )
        if self.attention is not None:
            return call_trained(self.attention, centres, tokens, tokens, heads=self.heads)
        return head_attention(normalise(centres), normalise(tokens), tokens, self.heads)
