from __future__ import annotations

from torch import Tensor

from ...aggregate import CrossAttention, cosine_attention, gather
from ...centres import Centres
from ...checks import is_number, shown
from ...evidence import Evidence
from ...learned.trained import call_trained
from ...registry import register

LEAST = 1e-6  # a temperature below would divide similarities into infinities


@register("custom_selection")
class CustomSelection(Centres):
    """Keep centres far apart or at the heart of clusters, each mixed with the tokens like it by cosine attention.

    Paper: none, proposed for this project   Site: any, layer K (2) by default   Needs: nothing   Training: optional

    Centres c by ``strategy`` ("fps", default, or "tome") under cosine similarity, then
    c' = softmax(cos(c, X) / temperature) X: no parameters, and the lower the temperature the sharper. Document 001 puts the
    k results first and zeros after them (``place=zero_fill``, the default of the ``custom_*`` knobs and of the plan file):
    that saves nothing and is not neutral, since a zero key still gets weight exp(0); ``place=drop`` really shortens.
    With ``attention``, a trained ``CrossAttention``, or ``weights``, the folder of one that ``llava.train.train_merger`` has
    written, the mixture is learned instead and the temperature is not used. Adaptive numbers, question-awareness and several stages: ``llava.reduction.centres.Centres``.
    tokens (G, N, D) -> kept (G, k), mixed (G, k, D).

    Accounting: after layer K.
    Cost: N^2 D for the similarities and 2 k N D for the mixture, multiply-adds.
    Differs from the authors' code: "tome" takes the degree within the cluster (with the global one a centre can never
    move, and it would equal "connectivity"); fps begins at the most central token instead of a random one; every sample
    of a batch decides for itself; kept tokens are in raster order.
    """

    def __init__(
        self,
        strategy: str = "fps",
        temperature: float = 0.1,
        start: int | None = None,
        cover: float | None = None,
        least: int = 1,
        semantic: float = 0.0,
        weights: str | None = None,
        attention: CrossAttention | None = None,
    ):
        super().__init__(strategy, start, cover, least, semantic, weights, attention)
        if not (is_number(temperature) and LEAST <= temperature):
            raise ValueError(
                f"temperature={shown(temperature)} must be a number of at least {LEAST}; documented are 0.05 to 0.2"
            )
        self.temperature = temperature

    def aggregate(self, tokens: Tensor, kept: Tensor, evidence: Evidence) -> Tensor:
        if kept.shape[1] == tokens.shape[1]:
            return gather(tokens, kept)
        if self.attention is not None:
            return call_trained(self.attention, gather(tokens, kept), tokens, tokens)
        return cosine_attention(tokens, kept, self.temperature)
