from __future__ import annotations

from torch import Tensor

from ... import prices
from ...checks import is_number, shown
from ...evidence import Evidence
from ...registry import register
from ...saliency import Saliency, check_saliency, saliency, saliency_flops
from ...score import similarity
from ...select import facility_location
from ...stage import Reducer


@register("scope")
class SCOPE(Reducer):
    """Keep the tokens that cover the picture best, each weighted by the class token's attention.

    Paper: https://arxiv.org/abs/2510.24214   Site: features   Needs: class token's attention of layer -2   Training: none

    Greedy: with S the cosines and c_i how well token i is covered so far (0 at first), take the j with the largest
    (sum_i max(0, S_ij - c_i)) a_j^alpha, a_j the class token's attention summed over the heads, then c_i <- max(c_i, S_ij).
    tokens (G, N, D) -> kept (G, k). ``saliency``: what stands for a, see ``llava.reduction.saliency``.

    Accounting: tokens entering the language model.
    Cost: N^2 D for the similarities, and at most N^2 element-wise per step (``select.facility_location``).
    Differs from the authors' code: gains are updated by what a pick has covered, in double on a CPU; crops share the budget of
    their picture by whole tokens.
    """

    sites = ("features", "projected")
    tower_layers = (-2,)

    def __init__(self, alpha: float = 1.0, saliency: Saliency = "cls"):
        super().__init__()
        if not (is_number(alpha) and alpha >= 0):
            raise ValueError(f"alpha={shown(alpha)} must be a number of at least 0")
        self.needs = check_saliency(saliency)
        self.alpha = alpha
        self.saliency: Saliency = saliency

    def select(self, tokens: Tensor, evidence: Evidence, k: int) -> Tensor:
        attention = saliency(evidence, self.saliency).sum(1)
        return facility_location(similarity(tokens), k, candidates=attention, power=self.alpha)

    def flops(self, rows: int, tokens: int, kept: int, width: int, text: int | None = None) -> float:
        return prices.similarities(tokens, width) + prices.coverage(tokens, kept)

    def reading_flops(self, patches: int, kept: int, width: int) -> float:
        return saliency_flops(self.saliency, patches, width)
