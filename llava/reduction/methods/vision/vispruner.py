from __future__ import annotations

import torch
from torch import Tensor

from ... import prices
from ...checks import is_number, shown
from ...evidence import Evidence
from ...registry import register
from ...saliency import Saliency, check_saliency, saliency, saliency_flops
from ...score import mean_heads, similarity
from ...select import topk
from ...stage import Reducer

ROUND = 8  # tokens removed at a time


@register("vispruner")
class VisPruner(Reducer):
    """Keep the tokens that the class token attends to most, and of the rest those that are least like the others.

    Paper: https://arxiv.org/abs/2412.01818   Site: features   Needs: class token's attention of layer -2   Training: none

    floor(k ``important``) tokens are the highest of the head-mean attention. The rest forms a list in falling attention; until
    the budget is reached, every token at an even place gets its highest cosine to those at odd places, and the 8 highest go.
    The next list is the even ones that are left, highest first, then the odd ones. tokens (G, N, D) -> kept (G, k).
    ``saliency``: what stands for the attention, see ``llava.reduction.saliency``.

    Accounting: tokens entering the language model.
    Cost: keys and one query of a layer of the tower, and N^2 D for the similarities.
    Differs from the authors' code: ties go to the lower place; crops share the budget of their picture (theirs: ``per=crop``).
    """

    sites = ("features", "projected")
    tower_layers = (-2,)

    def __init__(self, important: float = 0.5, saliency: Saliency = "cls"):
        super().__init__()
        if not (is_number(important) and 0 <= important <= 1):
            raise ValueError(f"important={shown(important)} must be a share between 0 and 1")
        self.needs = check_saliency(saliency)
        self.important = important
        self.saliency: Saliency = saliency

    def select(self, tokens: Tensor, evidence: Evidence, k: int) -> Tensor:
        order = topk(mean_heads(saliency(evidence, self.saliency)), tokens.shape[1])
        important = int(k * self.important)
        alike = similarity(tokens)
        return torch.cat([order[:, :important], self._distinct(alike, order[:, important:], k - important)], dim=1)

    @staticmethod
    def _distinct(alike: Tensor, left: Tensor, wanted: int) -> Tensor:
        """``wanted`` of the tokens ``left`` (G, R), a list whose order decides who is compared with whom."""
        everyone = torch.arange(len(left), device=left.device)[:, None, None]
        while wanted and left.shape[1] > wanted:
            even, odd = left[:, ::2], left[:, 1::2]
            score = alike[everyone, even[..., None], odd[:, None]].amax(-1)  # (G, E)
            order = topk(score, even.shape[1])
            gone = min(ROUND, left.shape[1] - wanted, even.shape[1])
            left = torch.cat([even.gather(1, order[:, gone:]), odd], dim=1)
        return left[:, :wanted]

    def flops(self, rows: int, tokens: int, kept: int, width: int, text: int | None = None) -> float:
        return prices.similarities(tokens, width)

    def reading_flops(self, patches: int, kept: int, width: int) -> float:
        return saliency_flops(self.saliency, patches, width)
