from __future__ import annotations

from torch import Tensor

from ... import prices
from ...checks import check_flag
from ...evidence import Evidence
from ...registry import register
from ...score import centred, similarity, uniqueness
from ...select import isolation, max_min
from ...stage import Reducer


@register("divprune")
class DivPrune(Reducer):
    """Keep the tokens that lie farthest from one another.

    Paper: https://arxiv.org/abs/2503.02175   Site: prompt   Needs: nothing   Training: none

    Distance 1 - cos of the tokens as they enter the language model. The first is the one whose nearest other is farthest; then
    again and again the one with the largest distance to the nearest of those chosen. tokens (G, N, D) -> kept (G, k).
    ``centred=true`` is Cen-Prune's form: cosines of what is left when the picture's mean is taken away, and distances times
    how unlike all others a token is (``score.uniqueness``).

    Accounting: tokens entering the language model.
    Cost: N^2 D for the similarities, k N comparisons.
    Differs from the authors' code: every picture separately, wherever it stands in the prompt; float32 distances.
    """

    sites = ("prompt", "projected", "features", "layer")
    default_layer = 2

    def __init__(self, centred: bool = False):
        super().__init__()
        check_flag("centred", centred)
        self.centred = centred

    def select(self, tokens: Tensor, evidence: Evidence, k: int) -> Tensor:
        alike = similarity(centred(tokens) if self.centred else tokens)
        weight = uniqueness(similarity(tokens)) if self.centred else None
        return max_min(alike, k, isolation(alike), weight)

    def flops(self, rows: int, tokens: int, kept: int, width: int, text: int | None = None) -> float:
        return prices.similarities(tokens, width) * (2 if self.centred else 1)
